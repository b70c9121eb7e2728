"""N:M sparsity: n of every m consecutive input weights are kept."""

import math

import jax
import jax.numpy as jnp

from ong_jax import ranking, schedules
from ong_jax.patterns.pattern import Pattern, after_cuts


def n_of_m(n: int, m: int) -> Pattern:
  """Makes the pattern that keeps n of every m consecutive input weights.

  Of a kernel [..., in, out] the axes but the last are one: for kernels whose
  input features are a multiple of m, the m lie next to each other in memory as
  sparse tensor cores want them. If the fan-in is no multiple, what is left over
  at its end keeps n as well, or all if it has fewer. A cut leaves weights out
  by one ranking of the leaf, so that some groups have fewer than n.

  Args:
    n: kept in each group, at least 1.
    m: weights of a group, above n.

  References:
    Mishra et al., Accelerating sparse deep neural networks, 2021,
    arXiv:2104.08378.

  Example:
    >>> scores = {'kernel': jnp.array([[4.0], [1.0], [3.0], [5.0]])}
    >>> n_of_m(2, 4).choose(scores)['kernel'].ravel()
    Array([ True, False, False,  True], dtype=bool)
  """
  schedules.check_steps(n=n, m=m)
  if n >= m:
    raise ValueError(f'`n`={n} must be below `m`={m}.')

  def choose(scores, cuts=(0.0,), row=0):
    kept = jax.tree.map(lambda s: _best_of_groups(s, n, m), scores)
    if not any(cuts):
      return kept
    counts = jax.tree.map(
      lambda s: s.shape[-1] * _kept_of(math.prod(s.shape[:-1]), n, m), scores
    )
    ranked = jax.tree.map(lambda s, k: jnp.where(k, s, -jnp.inf), scores, kept)
    return ranking.top_k(ranked, after_cuts(counts, cuts, row))

  return Pattern(choose)


def _kept_of(fan_in: int, n: int, m: int) -> int:
  groups, rest = divmod(fan_in, m)
  return groups * n + min(n, rest)


def _best_of_groups(scores: jax.Array, n: int, m: int) -> jax.Array:
  """Ranks by comparing each with the m - 1 others: no sort, ties exact."""
  rows = scores.reshape(-1, scores.shape[-1])
  rows = jnp.where(jnp.isnan(rows), -jnp.inf, rows)
  fan_in = len(rows)
  filled = jnp.pad(
    rows, ((0, -fan_in % m), (0, 0)), constant_values=-jnp.inf
  ).reshape(-1, m, rows.shape[-1])
  place = jnp.arange(m)[:, None]
  rank = sum(  # How many come before each.
    ((other := filled[:, j : j + 1]) > filled)
    | ((other == filled) & (j < place))
    for j in range(m)
  )
  kept = (jnp.asarray(rank, jnp.int32) < n).reshape(-1, rows.shape[-1])[:fan_in]
  return kept.reshape(scores.shape)
