"""Patterns of single weights: what competes is all, a leaf, or an output."""

import math

import jax
import jax.numpy as jnp

from ong_jax import allocation, masks, ranking, selection
from ong_jax.checks import check_number
from ong_jax.patterns.pattern import Pattern, after_cuts
from ong_jax.types import Allocation, InputAxes, Scores


def unstructured(
  sparsity: float,
  allocate: Allocation = allocation.uniform,
  floor: float = 0.0,
) -> Pattern:
  """Makes the pattern of single weights, with a count for a leaf or for all.

  Args:
    sparsity: fraction of the prunable weights to remove, in [0, 1).
    allocate: how the budget is split. Of a count n, a cut leaves out the
      fraction's share, rounded down.
    floor: fraction of each leaf, rounded up, that is kept before anything else,
      so that one ranking of all leaves does not empty one; at most half of what
      is kept.

  Example:
    >>> pattern = unstructured(0.5)
    >>> scores = {'kernel': jnp.array([4.0, 1.0, 3.0, 2.0])}
    >>> pattern.choose(scores)['kernel']
    Array([ True, False,  True, False], dtype=bool)
    >>> pattern.choose(scores, cuts=[0.5])['kernel']
    Array([ True, False, False, False], dtype=bool)
  """
  masks.check_sparsity(sparsity)
  check_number('floor', floor)
  if not 0 <= floor <= (1 - sparsity) / 2:
    raise ValueError(
      f'`floor` must lie in [0, {(1 - sparsity) / 2:g}], half of what '
      f'`sparsity`={sparsity} keeps; got {floor}.'
    )

  def choose(scores, cuts=(0.0,), row=0):
    counts = allocate(scores, sparsity)
    if floor > (1 - sparsity) * (1 - max(cuts)):
      raise ValueError(
        f'`floor`={floor} is more than a cut of {max(cuts)} leaves of the '
        f'{1 - sparsity:g} that are kept. Lower one of them.'
      )
    if floor:
      scores = _raise_best(scores, floor)
    return ranking.top_k(scores, after_cuts(counts, cuts, row))

  return Pattern(choose)


def _raise_best(scores: Scores, floor: float) -> Scores:
  """Sets the best of each leaf to infinity, but for what must not be kept."""
  counts = jax.tree.map(lambda s: math.ceil(floor * s.size), scores)
  best = ranking.top_k(scores, counts)
  return jax.tree.map(
    lambda s, b: jnp.where(b & (s > -jnp.inf), jnp.inf, s), scores, best
  )


def per_output(
  sparsity: float, inputs: InputAxes = selection.input_axes
) -> Pattern:
  """Makes the pattern in which weights compete with those of their output.

  Each leaf has the same sparsity, and each of its outputs the same number of
  inputs, up to one: if the leaf's count is no multiple of its outputs, the
  first of them keep one more. Sorts every leaf.

  Args:
    sparsity: fraction of the prunable weights to remove, in [0, 1). The total
      is exactly N - round(sparsity * N), or what a cut leaves of each leaf.
    inputs: `(path, leaf) -> int`, how many axes of a kernel are inputs.

  References:
    Sun et al., A simple and effective pruning approach for large language
    models, 2023, arXiv:2306.11695.

  Example:
    >>> scores = {'kernel': jnp.array([[4.0, 0.1], [3.0, 0.2]])}
    >>> per_output(0.5).choose(scores)['kernel']
    Array([[ True, False],
           [False,  True]], dtype=bool)
  """
  masks.check_sparsity(sparsity)

  def choose(scores, cuts=(0.0,), row=0):
    counts = after_cuts(allocation.uniform(scores, sparsity), cuts, row)
    leaves, treedef = jax.tree.flatten(scores)
    return treedef.unflatten(
      best_of_columns(s.reshape(shape), count).reshape(s.shape)
      for s, count, shape in zip(
        leaves,
        treedef.flatten_up_to(counts),
        selection.matrix_shapes(scores, inputs),
      )
    )

  return Pattern(choose)


def best_of_columns(scores: jax.Array, count: jax.Array) -> jax.Array:
  """Keeps `count` of [fan_in, outputs], as many in each column, up to one.

  Example:
    >>> best_of_columns(jnp.array([[3.0, 1.0], [2.0, 5.0]]), 2)
    Array([[ True, False],
           [False,  True]], dtype=bool)
  """
  outputs = scores.shape[1]
  each = count // outputs + (jnp.arange(outputs) < count % outputs)
  # Stable, so that of equals the first stays; NaN is last.
  rank = jnp.argsort(jnp.argsort(-scores, axis=0, stable=True), axis=0)
  return rank < each
