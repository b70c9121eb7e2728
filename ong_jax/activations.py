"""What layers are fed, times their weights: Wanda."""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ong_jax import allocation, layers, selection
from ong_jax.batches import check_batches
from ong_jax.checks import check_function
from ong_jax.layers import Apply, Layer
from ong_jax.layerwise import counter, first, in_order
from ong_jax.patterns.groups import best_of_groups
from ong_jax.patterns.weights import best_of_columns
from ong_jax.saliency import at_least_float32
from ong_jax.types import Allocation, Measure, Predicate, Pruner, Weights


def weighted_magnitude(
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
    >>> x = jnp.array([[3.0, 1.0], [4.0, 0.0]])
    >>> measure = weighted_magnitude(apply, [x])
    >>> measure({'kernel': jnp.array([[1.0], [-2.0]])})
    {'kernel': Array([[5.],
           [2.]], dtype=float32)}
  """
  check_function('apply', apply, 'one of params and batch')
  check_batches(batches)
  observe = layers.observer(apply, _squares, batches, prunable)

  def measure(params):
    found = layers.find(apply, params, first(batches), prunable)
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


def _check_inputs(parts: list[Layer], squares: list[jax.Array]) -> None:
  for part, s in zip(parts, squares):
    if not isinstance(s, jax.core.Tracer) and not np.isfinite(s).all():
      raise ValueError(
        f"The inputs of leaf '{part.name}' are not finite, or their squares. "
        'Look at the batches, and at the network on them.'
      )


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
