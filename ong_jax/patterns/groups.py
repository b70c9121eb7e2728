"""N:M sparsity: n of every m consecutive input weights are kept."""

import jax
import jax.numpy as jnp

from ong_jax import ranking, schedules, selection
from ong_jax.patterns.pattern import Pattern, after_cuts
from ong_jax.types import Counts, InputAxes, Scores


def n_of_m(n: int, m: int, inputs: InputAxes = selection.input_axes) -> Pattern:
  """Makes the pattern that keeps n of every m consecutive input weights.

  Of a kernel [..., in, out] the axes of inputs are one: where the last of them
  is a multiple of m, a group is m neighbours of it, as sparse tensor cores want
  them. If the fan-in is no multiple, what is left over
  at its end keeps n as well, or all if it has fewer. A cut leaves weights out
  by one ranking of the leaf, so that some groups have fewer than n.

  Args:
    n: kept in each group, at least 1.
    m: weights of a group, above n.
    inputs: `(path, leaf) -> int`, how many axes of a kernel are inputs.

  References:
    Mishra et al., Accelerating sparse deep neural networks, 2021,
    arXiv:2104.08378.

  Example:
    >>> scores = {'kernel': jnp.array([[4.0], [1.0], [3.0], [5.0]])}
    >>> n_of_m(2, 4).choose(scores)['kernel'].ravel()
    Array([ True, False, False,  True], dtype=bool)
  """
  check(n, m)

  def choose(scores, cuts=(0.0,), row=0):
    leaves, treedef = jax.tree.flatten(scores)
    shapes = selection.matrix_shapes(scores, inputs)
    kept = treedef.unflatten(
      best_of_groups(s.reshape(shape), n, m).reshape(s.shape)
      for s, shape in zip(leaves, shapes)
    )
    if not any(cuts):
      return kept
    counts = num_kept(scores, n, m, inputs)
    ranked = jax.tree.map(lambda s, k: jnp.where(k, s, -jnp.inf), scores, kept)
    return ranking.top_k(ranked, after_cuts(counts, cuts, row))

  return Pattern(choose)


def check(n: int, m: int) -> None:
  """Raises a `ValueError` unless n of m is a pattern.

  Example:
    >>> check(2, 4)
  """
  schedules.check_steps(n=n, m=m)
  if n >= m:
    raise ValueError(f'`n`={n} must be below `m`={m}.')


def num_kept(scores: Scores, n: int, m: int, inputs: InputAxes) -> Counts:
  """Counts what `n_of_m` keeps of each leaf, by its shape.

  Example:
    >>> num_kept({'kernel': jnp.ones((6, 3))}, 1, 4, selection.input_axes)
    {'kernel': 6}
  """
  return jax.tree.structure(scores).unflatten(
    outputs * (fan_in // m * n + min(n, fan_in % m))
    for fan_in, outputs in selection.matrix_shapes(scores, inputs)
  )


def best_of_groups(rows: jax.Array, n: int, m: int) -> jax.Array:
  """Ranks by comparing each with the m - 1 others: no sort, ties exact.

  Args:
    rows: scores [fan_in, outputs].
    n, m: of `n_of_m`.

  Returns:
    bool [fan_in, outputs].

  Example:
    >>> best_of_groups(jnp.array([[3.0], [5.0], [4.0]]), 1, 2).ravel()
    Array([False,  True,  True], dtype=bool)
  """
  rows = jnp.where(jnp.isnan(rows), -jnp.inf, rows)
  fan_in, outputs = rows.shape
  filled = jnp.pad(
    rows, ((0, -fan_in % m), (0, 0)), constant_values=-jnp.inf
  ).reshape(-1, m, outputs)
  place = jnp.arange(m)[:, None]
  rank = sum(  # How many come before each.
    ((other := filled[:, j : j + 1]) > filled)
    | ((other == filled) & (j < place))
    for j in range(m)
  )
  return (jnp.asarray(rank, jnp.int32) < n).reshape(-1, outputs)[:fan_in]
