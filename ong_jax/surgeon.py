"""Pruning layer by layer, with the weights that are left making up for it.

For inputs X [positions, fan_in] and a kernel W [fan_in, outputs] that is least
squares: min |X W - X V|^2 over V that is 0 where pruned. What removing a weight
costs, and how the others move, follows from the inverse of H = X'X.
"""

import functools
import math
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ong_jax import allocation, layerwise, masks, selection
from ong_jax.batches import check_batches
from ong_jax.checks import check_number
from ong_jax.layers import Apply, Layer
from ong_jax.sweep import BLOCK, sweep
from ong_jax.types import Allocation, Mask, Params, Predicate
from ong_jax.values import check_finite


def sparsegpt(
  apply: Apply,
  batches: Iterable[Any],
  *,
  sparsity: float | None = None,
  n_of_m: tuple[int, int] | None = None,
  allocate: Allocation | None = None,
  damping: float = 0.01,
  sequential: bool = True,
  prunable: Predicate = selection.is_kernel,
) -> Callable[[Params], tuple[Params, Mask]]:
  """Makes what prunes a trained network and updates what it keeps.

  Layer by layer, in the order in which data meet them. In each, inputs are gone
  through one by one: the weights w whose w^2 / [H^-1]_qq is lowest are removed,
  and those of the inputs to come move so that the outputs change least.

  Layers are found by following the weights through the program, so that they
  can be of any library; see `layers`.

  Args:
    apply: `(params, batch) -> outputs`; with BatchNorm as it is to run.
    batches: anything that can be iterated more than once, such as a list; once
      for every layer. None is held.
    sparsity: fraction of the prunable weights to remove, in [0, 1).
    n_of_m: instead, (n, m): n of every m consecutive inputs are kept.
    allocate: how the budget of `sparsity` is split among leaves: by leaf, not
      `pooled`; by default `allocation.uniform`. Inside a leaf, each block of
      128 inputs has its share. Inputs that are always 0 are the first to go.
    damping: what is added to the diagonal of H, as a fraction of its mean.
    sequential: whether a layer is shown what the pruned ones before it put out,
      as in the paper. If not, all are shown the dense network's, in one pass.
    prunable: `(path, leaf) -> bool`.

  Returns:
    A function `params -> (params, mask)`; the params have zeros where pruned.

  Raises:
    ValueError: of the function, H has no Cholesky factor, for it is not finite
      or there are fewer positions than inputs and too little `damping`.

  References:
    Frantar and Alistarh, SparseGPT: massive language models can be accurately
    pruned in one-shot, 2023, arXiv:2301.00774. Hassibi and Stork, Second order
    derivatives for network pruning: optimal brain surgeon, 1993.

  Example:
    >>> def apply(params, x):
    ...   return x @ params['kernel']
    >>> x = jnp.array([[1.0, 1.0], [1.0, 1.1]])  # Nearly one input, twice.
    >>> prune = sparsegpt(apply, [x], sparsity=0.5, damping=1e-6)
    >>> params, mask = prune({'kernel': jnp.array([[1.0], [2.0]])})
    >>> params['kernel'].round(1), mask['kernel']
    (Array([[0.],
           [3.]], dtype=float32), Array([[False],
           [ True]], dtype=bool))
  """
  _check_damping(damping)
  count = layerwise.counter(sparsity, n_of_m, allocate, prunable)
  visit = layerwise.in_order(apply, batches, _gram, sequential, prunable)

  def prune(params):
    counts = count(params)

    def operate(leaf, kernel, parts, grams):
      shares = _shares(parts, counts[leaf])
      return _operate(kernel, parts, grams, shares, None, n_of_m, damping)

    return visit(params, operate)

  return prune


def compensate(
  apply: Apply,
  batches: Iterable[Any],
  *,
  damping: float = 0.01,
  sequential: bool = True,
) -> Callable[[Params, Mask], Params]:
  """Makes what updates the weights that a given mask keeps.

  As `sparsegpt`, for a mask of any other method: the outputs of each layer
  change least, of what a sweep over its inputs can reach. What the mask has
  `None` for is left as it is.

  Args:
    apply, batches, damping, sequential: see `sparsegpt`.

  Returns:
    A function `(params, mask) -> params`, with zeros where pruned. The params
    must be those before they were masked.

  Example:
    >>> def apply(params, x):
    ...   return x @ params['kernel']
    >>> x = jnp.array([[1.0, 1.0], [1.0, 1.1]])
    >>> update = compensate(apply, [x], damping=1e-6)
    >>> mask = {'kernel': jnp.array([[False], [True]])}
    >>> update({'kernel': jnp.array([[1.0], [2.0]])}, mask)['kernel'].round(1)
    Array([[0.],
           [3.]], dtype=float32)
  """
  _check_damping(damping)
  check_batches(batches)

  @functools.cache  # By what is masked: it keeps its programs.
  def visit(names):
    def masked(path, leaf):
      del leaf
      return selection.name_of(path) in names

    return masked, layerwise.in_order(apply, batches, _gram, sequential, masked)

  def update(params, mask):
    masks.check_like(params, mask)
    names = frozenset(
      selection.name_of(path)
      for path, _ in jax.tree_util.tree_leaves_with_path(mask)
    )
    if not names:
      return params
    masked, go = visit(names)
    check_finite(selection.select(params, masked))
    given = jax.tree.leaves(mask)

    def operate(leaf, kernel, parts, grams):
      shares = [None] * len(parts)
      return _operate(kernel, parts, grams, shares, given[leaf], None, damping)

    return go(params, operate)[0]

  return update


def _gram(x):
  """X'X, [groups, fan_in, fan_in]."""
  return jnp.einsum('gpf,gpe->gfe', x, x, precision='highest')


def _operate(kernel, parts, grams, shares, given, n_of_m, damping):
  """Sweeps through the parts of one leaf: its new weights and mask."""
  flat, kept = kernel.ravel(), jnp.zeros(kernel.size, bool)
  for part, gram, share in zip(parts, grams, shares):
    own = None if given is None else given.ravel()[part.index]
    w, k = sweep(flat[part.index], gram, share, own, n_of_m, damping)
    _check_finite(part, w)
    flat = flat.at[part.index].set(w.astype(flat.dtype))
    kept = kept.at[part.index].set(k)
  return flat.reshape(kernel.shape), kept.reshape(kernel.shape)


def _shares(parts: list[Layer], count: int | None) -> list[np.ndarray | None]:
  """Splits the count of a leaf over groups and blocks: [groups, blocks]."""
  if count is None:
    return [None] * len(parts)
  sizes = []
  for part in parts:
    groups, fan_in, outputs = part.index.shape
    ends = [*range(BLOCK, fan_in, BLOCK), fan_in]
    sizes.append([np.diff([0, *ends]) * outputs] * groups)
  shares = allocation.proportional(
    [int(size) for part in sizes for group in part for size in group], count
  )
  found = []
  for part in sizes:
    shape = len(part), len(part[0])
    found.append(np.array(shares[: math.prod(shape)]).reshape(shape))
    shares = shares[math.prod(shape) :]
  return found


def _check_finite(layer: Layer, w: jax.Array) -> None:
  if isinstance(w, jax.core.Tracer) or bool(jnp.isfinite(w).all()):
    return
  raise ValueError(
    f"The inputs of leaf '{layer.name}' make no positive definite matrix. They "
    'are not finite, or too few: pass more batches, or a higher `damping`.'
  )


def _check_damping(damping: float) -> None:
  check_number('damping', damping)
  if not 0 < damping < math.inf:
    raise ValueError(f'`damping` must be above 0 and finite; got {damping}.')
