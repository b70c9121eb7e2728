"""Patterns of single weights: what competes is a leaf, or all of them."""

import math

import jax
import jax.numpy as jnp

from ong_jax import allocation, masks, ranking
from ong_jax.patterns.pattern import Pattern, after_cuts
from ong_jax.types import Allocation, Scores


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
