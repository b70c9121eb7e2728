"""Pruning layer after layer, by what each of them is fed."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ong_jax import allocation, layers, masks, selection
from ong_jax.calibrated import check_batches
from ong_jax.layers import Apply, Layer, Statistic
from ong_jax.patterns import groups
from ong_jax.patterns.groups import best_of_groups
from ong_jax.patterns.weights import best_of_columns
from ong_jax.pruners import check_finite
from ong_jax.saliency import at_least_float32
from ong_jax.types import (
  Allocation,
  Mask,
  Measure,
  Params,
  Predicate,
  Pruner,
  Weights,
)

# (number of the leaf, its weights, its layers, a statistic of the inputs of
# each) -> its new weights and its mask.
Operate = Callable[
  [int, jax.Array, list[Layer], list[Any]], tuple[jax.Array, jax.Array]
]


def activations(
  apply: Apply,
  batches: Iterable[Any],
  prunable: Predicate = selection.is_kernel,
) -> Measure:
  """Measures |w| |x|: x all that the weight is multiplied by, as one vector.

  In one pass over the batches, through the network as it is.

  Args:
    apply: `(params, batch) -> outputs`.
    batches: anything that can be iterated more than once, such as a list; none
      is held.
    prunable: `(path, leaf) -> bool`.

  References:
    Sun et al., A simple and effective pruning approach for large language
    models, 2023, arXiv:2306.11695.

  Example:
    >>> def apply(params, x):
    ...   return x @ params['kernel']
    >>> measure = activations(apply, [jnp.array([[3.0, 1.0], [4.0, 0.0]])])
    >>> measure({'kernel': jnp.array([[1.0], [-2.0]])})
    {'kernel': Array([[5.],
           [2.]], dtype=float32)}
  """
  check_batches(batches)
  observe = layers.observer(apply, _squares, batches, prunable)

  def measure(params):
    found = layers.find(apply, params, _first(batches), prunable)
    weights, treedef = jax.tree.flatten(selection.select(params, prunable))
    squares = observe(params, range(len(weights)))
    return treedef.unflatten(
      _weighted(
        w, *zip(*[(x, s) for x, s in zip(found, squares) if x.leaf == leaf])
      )
      for leaf, w in enumerate(weights)
    )

  return measure


def wanda(
  apply: Apply,
  batches: Iterable[Any],
  *,
  sparsity: float | None = None,
  n_of_m: tuple[int, int] | None = None,
  allocate: Allocation | None = None,
  sequential: bool = True,
  prunable: Predicate = selection.is_kernel,
) -> Pruner:
  """Makes a pruner of trained networks, by weights and activations.

  Keeps the largest |w| |x| of each output, with the same number of inputs for
  all of them, layer after layer in the order in which data meet them. Layers,
  and which of their axes are inputs, are found by following the weights through
  the program, so that they can be of any library; see `layers`.

  Args:
    apply: `(params, batch) -> outputs`; with BatchNorm as it is to run.
    batches: anything that can be iterated more than once, such as a list; once
      for every layer. None is held.
    sparsity: fraction of the prunable weights to remove, in [0, 1).
    n_of_m: instead, (n, m): n of every m consecutive inputs of each output.
    allocate: how the budget of `sparsity` is split among leaves: by leaf, not
      `pooled`; by default `allocation.uniform`. If the count of a leaf is no
      multiple of its outputs, the first of them keep one more.
    sequential: whether a layer is shown what the pruned ones before it put out,
      as in the paper. If not, all are shown the dense network's, in one pass.
    prunable: `(path, leaf) -> bool`.

  Returns:
    A function `params -> mask`; see `one_shot`.

  References:
    Sun et al., A simple and effective pruning approach for large language
    models, 2023, arXiv:2306.11695.

  Example:
    >>> def apply(params, x):
    ...   return x @ params['kernel']
    >>> prune = wanda(apply, [jnp.array([[3.0, 1.0]])], sparsity=0.5)
    >>> prune({'kernel': jnp.array([[1.0, -9.0], [-2.0, 1.0]])})
    {'kernel': Array([[ True,  True],
           [False, False]], dtype=bool)}
  """
  count = counter(sparsity, n_of_m, allocate, prunable)
  visit = in_order(apply, batches, _squares, sequential, prunable)

  def prune(params):
    counts = count(params)

    def operate(leaf, w, parts, squares):
      _check_inputs(parts, squares)
      ranked = _weighted(w, parts, squares).ravel()
      kept = jnp.zeros(w.size, bool)
      for part, share in zip(parts, _shares(parts, counts[leaf])):
        found = _best_of_outputs(ranked[part.index], share, n_of_m)
        kept = kept.at[part.index].set(found)
      kept = kept.reshape(w.shape)
      return jnp.where(kept, w, jnp.zeros_like(w)), kept

    return visit(params, operate)[1]

  return prune


def _shares(parts: list[Layer], count: int | None) -> list[int | None]:
  if count is None:
    return [None] * len(parts)
  return allocation.proportional([part.index.size for part in parts], count)


def _best_of_outputs(
  ranked: jax.Array, count: int | None, n_of_m: tuple[int, int] | None
) -> jax.Array:
  """Keeps the best inputs of each output, of [groups, fan_in, outputs]."""
  num_groups, fan_in, outputs = ranked.shape
  columns = ranked.transpose(1, 0, 2).reshape(fan_in, -1)
  if n_of_m is None:
    kept = best_of_columns(columns, count)
  else:
    kept = best_of_groups(columns, *n_of_m)
  return kept.reshape(fan_in, num_groups, outputs).transpose(1, 0, 2)


def counter(
  sparsity: float | None,
  n_of_m: tuple[int, int] | None,
  allocate: Allocation | None,
  prunable: Predicate,
) -> Callable[[Params], list[int | None]]:
  """Makes what counts how much of each leaf is kept; None is for n of m.

  It also refuses weights that are not finite.

  Example:
    >>> count = counter(0.5, None, None, selection.is_kernel)
    >>> count({'kernel': jnp.ones((4, 2))})
    [4]
  """
  if (sparsity is None) == (n_of_m is None):
    raise ValueError(
      'One of `sparsity` and `n_of_m` must be given; got '
      f'{"neither" if n_of_m is None else "both"}.'
    )
  if n_of_m is None:
    masks.check_sparsity(sparsity)
  else:
    groups.check(*n_of_m)
    if allocate is not None:
      raise ValueError(
        '`allocate` is for `sparsity`; `n_of_m` allocates alike.'
      )

  def count(params):
    weights = selection.select(params, prunable)
    check_finite(weights)
    if n_of_m is not None:
      return [None] * len(jax.tree.leaves(weights))
    counts = (allocate or allocation.uniform)(weights, sparsity)
    if isinstance(counts, int):
      raise ValueError(
        '`allocate` must split the budget by leaf, such as '
        '`allocation.uniform` or `erk`: layers are pruned one by one.'
      )
    return jax.tree.leaves(counts)

  return count


def in_order(
  apply: Apply,
  batches: Iterable[Any],
  statistic: Statistic,
  sequential: bool = True,
  prunable: Predicate = selection.is_kernel,
) -> Callable[[Params, Operate], tuple[Params, Mask]]:
  """Makes what goes from leaf to leaf as data do, and operates on each.

  Args:
    apply: `(params, batch) -> outputs`.
    batches: anything that can be iterated more than once.
    statistic: of the inputs of a layer; see `layers.observer`.
    sequential: whether what is seen at a leaf is what those before it put out
      after they were operated on.
    prunable: `(path, leaf) -> bool`.

  Returns:
    A function `(params, operate) -> (params, mask)`.

  Example:
    >>> def apply(params, x):
    ...   return x @ params['kernel']
    >>> visit = in_order(apply, [jnp.ones((2, 3))], jnp.sum)
    >>> def operate(leaf, kernel, layers, sums):
    ...   return sums[0] * kernel, kernel > 0
    >>> visit({'kernel': jnp.ones((3, 1))}, operate)[0]['kernel'].ravel()
    Array([6., 6., 6.], dtype=float32)
  """
  check_batches(batches)
  observe = layers.observer(apply, statistic, batches, prunable)

  def visit(params, operate):
    found = layers.find(apply, params, _first(batches), prunable)
    weights, treedef = jax.tree.flatten(selection.select(params, prunable))
    order = list(dict.fromkeys(layer.leaf for layer in found))
    kept = [None] * len(weights)

    def now():
      return jax.tree.map(
        lambda p, w: p if w is None else w, params, treedef.unflatten(weights)
      )

    def look(which):
      return observe(now(), which)

    known = None if sequential else look(order)
    for leaf in order:
      ids = [i for i, layer in enumerate(found) if layer.leaf == leaf]
      seen = look([leaf]) if sequential else [known[i] for i in ids]
      parts = [found[i] for i in ids]
      _check_met_once(parts)
      weights[leaf], kept[leaf] = operate(leaf, weights[leaf], parts, seen)
    return now(), treedef.unflatten(kept)

  return visit


def _check_met_once(parts: list[Layer]) -> None:
  index = np.concatenate([part.index.ravel() for part in parts])
  if len(np.unique(index)) < len(index):
    raise ValueError(
      f"Leaf '{parts[0].name}' is multiplied in two different ways; what is "
      'best for one is not for the other. Pass a `prunable` that leaves it out.'
    )


def _check_inputs(parts: list[Layer], squares: list[jax.Array]) -> None:
  for part, s in zip(parts, squares):
    if not isinstance(s, jax.core.Tracer) and not np.isfinite(s).all():
      raise ValueError(
        f"The inputs of leaf '{part.name}' are not finite, or their squares. "
        'Look at the batches, and at the network on them.'
      )


def _first(batches: Iterable[Any]) -> Any:
  for batch in batches:
    return batch
  raise ValueError('`batches` must hold at least one batch.')


def _squares(x: jax.Array) -> jax.Array:
  """|x|^2 of every input, [groups, fan_in]."""
  return jnp.square(x).sum(1)


def _weighted(
  w: jax.Array, parts: list[Layer], squares: list[jax.Array]
) -> Weights:
  """|w| times the norm of all that each weight meets."""
  total = jnp.zeros(w.size, jnp.float32)
  for part, s in zip(parts, squares):
    total = total.at[part.index].add(s[..., None])
  return jnp.abs(at_least_float32(w)) * jnp.sqrt(total).reshape(w.shape)
