"""Which weights are kept together, and how many of them.

Unstructured and N:M sparsity, and whole channels, differ in how scores compete.
A pattern says that once, for pruning at the outset and for methods that move
their mask as they train.
"""

import functools
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ong_jax import allocation, channels, knapsack, masks, ranking, schedules
from ong_jax.costs import Costs, check_capacity
from ong_jax.types import Allocation, Mask, Params, Score, Scores

_HIGHEST = 2**31 - 1


class Pattern(NamedTuple):
  """How scores become a mask of a shape that is asked for.

  Scores, and what is kept, are trees of one structure: shaped as their weights,
  or with an entry for each channel. Where +inf, something is kept in any case;
  where -inf, in none.
  """

  # (scores, cuts=(0,), row=0) -> bool like scores: the best within the budget,
  # of which the fraction cuts[row] is left out. `row` may be traced.
  choose: Callable[..., Any]
  # (kept, params) -> mask of the params.
  expand: Callable[[Any, Params], Mask] = lambda kept, params: kept
  # mask -> kept.
  collapse: Callable[[Mask], Any] = lambda mask: mask


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
    return ranking.top_k(scores, _after_cuts(counts, cuts, row))

  return Pattern(choose)


def _raise_best(scores: Scores, floor: float) -> Scores:
  """Sets the best of each leaf to infinity, but for what must not be kept."""
  counts = jax.tree.map(lambda s: math.ceil(floor * s.size), scores)
  best = ranking.top_k(scores, counts)
  return jax.tree.map(
    lambda s, b: jnp.where(b & (s > -jnp.inf), jnp.inf, s), scores, best
  )


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
    return ranking.top_k(ranked, _after_cuts(counts, cuts, row))

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


def _after_cuts(
  counts: Any, cuts: Sequence[float], row: jax.typing.ArrayLike
) -> Any:
  """Looks up the counts that a cut leaves, made on the host."""
  table = jax.tree.map(
    lambda n: jnp.array([n - int(cut * n) for cut in cuts], jnp.int32), counts
  )
  return schedules.counts_at(table, row)


def whole_channels(names: Any, costs: Costs, capacity: int) -> Pattern:
  """Makes the pattern of whole channels, under a budget of what they cost.

  Scores are a dict from the name of a group to [channels], as
  `taylor.channels` and `per_channel` make them. A channel that is pruned
  is gone from all that it touches: the kernels that write it, BatchNorm's scale
  and bias, the kernels that read it. The choice is `knapsack.choose`'s: whole
  blocks, the best first, at the highest sum of scores.

  Args:
    names: tree like the params, a `PartitionSpec` for each leaf; see
      `ong_jax.channels`.
    costs: of layers at each number of channels, measured or counted.
    capacity: the budget, in units of the costs. What a cut leaves of it is
      rounded down.

  Raises:
    ValueError: what always stays cannot be paid for; of a cut, in `choose`.

  References:
    Shen et al., Structural pruning via latency-saliency knapsack, 2022,
    arXiv:2210.06659.
  """

  capacity = min(operator.index(capacity), _HIGHEST)
  check_capacity(costs, capacity)

  def choose(scores, cuts=(0.0,), row=0):
    budgets = [capacity - math.ceil(cut * capacity) for cut in cuts]
    try:
      check_capacity(costs, min(budgets))
    except ValueError as error:
      raise ValueError(f'After a cut of {max(cuts)}: {error}') from error
    budget = jnp.array(budgets, jnp.int32)[row]
    return knapsack.choose(scores, costs, budget)

  return Pattern(
    choose,
    functools.partial(channels.expand, names),
    functools.partial(channels.collapse, names),
  )


def per_channel(names: Any, score: Score) -> Score:
  """Makes a score of channels from one of weights.

  That of a channel is the sum over all weights that write it: of the kernels of
  its group, along their last axis. Magnitude becomes the sum of |w|.

  Args:
    names: tree like the params, a `PartitionSpec` for each leaf.
    score: `weights -> scores`.

  Returns:
    A function of weights to a dict of arrays [channels], by group.

  Example:
    >>> from ong_jax import scores
    >>> P = jax.sharding.PartitionSpec
    >>> names = {'kernel': P(None, 'a'), 'bias': P('a')}
    >>> kernel = jnp.array([[1.0, -2.0], [3.0, 0.0]])
    >>> score = per_channel(names, scores.magnitude)
    >>> score({'kernel': kernel, 'bias': None})
    {'a': Array([4., 2.], dtype=float32)}
  """

  def score_channels(weights):
    ranked, found = score(weights), {}
    specs = jax.tree.map(
      lambda spec, s: None if s is None else spec, names, ranked
    )
    for s, spec in zip(jax.tree.leaves(ranked), jax.tree.leaves(specs)):
      if spec[-1] is not None:
        total = s.astype(jnp.float32).reshape(-1, s.shape[-1]).sum(0)
        found[spec[-1]] = found.get(spec[-1], 0) + total
    return found

  return score_channels
