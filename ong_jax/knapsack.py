"""The channels that are worth most within a budget, by an exact knapsack.

One option of each group is taken: how many of its blocks of channels, the best
first, are kept. Dynamic programming over an integer capacity finds the options
whose values sum highest. All sums are of integers, so the choice is the same
on every device.

References:
  Shen et al., Structural Pruning via Latency-Saliency Knapsack, 2022,
  arXiv:2210.06659, whose code keeps to prefixes greedily.
  Sinha, Zoltners, The Multiple-Choice Knapsack Problem, 1979.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ong_jax import costs as cost_tables
from ong_jax.costs import Costs

_TICKS = 4096  # To which a network's cost is rounded: 0.02 % a tick.
_ROUNDS = 8  # Of solving again with the capacity that was left over.
_NEVER = jnp.iinfo(jnp.int32).min  # The value of what cannot be paid for.


@functools.partial(jax.jit, static_argnames='max_capacity')
def solve(
  values: jax.Array,
  costs: jax.Array,
  capacity: jax.Array | int,
  *,
  max_capacity: int,
) -> jax.Array:
  """Picks one option of each group for the highest sum of values.

  Exact, in time and memory of groups * options * max_capacity. Where sums are
  equal the last group takes its lowest option, then the one before.

  Args:
    values: int32 [groups, options]. The sum over groups of the largest absolute
      value must be less than 2**31.
    costs: int32 [groups, options]; an option of negative cost is not offered.
    capacity: what the costs may sum to, at most; an int or traced. What is
      above `max_capacity` is not used.
    max_capacity: static; the sum of the highest costs is always enough.

  Returns:
    int32 [groups], the options; all -1 if none can be paid for.

  Example:
    >>> values = jnp.array([[0, 5, 6], [0, 4, 9]])
    >>> costs = jnp.array([[0, 2, 3], [0, 2, 4]])
    >>> solve(values, costs, 6, max_capacity=7)
    Array([1, 2], dtype=int32)
  """
  capacities = jnp.arange(max_capacity + 1)

  def add(best, group):  # int32 [capacities]: the highest sum of the groups.
    value, cost = (x[:, None] for x in group)
    left = capacities - cost
    before = best[jnp.maximum(left, 0)]
    paid = (cost >= 0) & (left >= 0) & (before != _NEVER)
    sums = jnp.where(paid, before + value, _NEVER)
    return sums.max(0), sums.argmax(0).astype(jnp.int32)

  def take(capacity, group):
    options, cost = group
    option = options[capacity]
    return capacity - cost[option], option

  start = jnp.zeros(max_capacity + 1, jnp.int32)
  best, options = jax.lax.scan(add, start, (values, costs))
  available = jnp.clip(capacity, 0, max_capacity)
  possible = (capacity >= 0) & (best[available] != _NEVER)
  _, picked = jax.lax.scan(take, available, (options, costs), reverse=True)
  return jnp.where(possible, picked, -1)


def choose(
  scores: dict[str, jax.Array], costs: Costs, capacity: jax.Array | int
) -> dict[str, jax.Array]:
  """Keeps the channels whose scores sum highest within a capacity.

  The channels of a group are sorted by score, of equal ones the first first,
  and cut into blocks. A block is worth the sum of its scores, and is only kept
  with all blocks before it. `costs.least` blocks of each group always stay.

  A layer whose inputs and outputs both have a group is charged by half to each,
  at the widest that the other can be. That overstates what is left, so the
  budget holds. What it leaves over is given to the next of a few rounds, of
  which the best within the budget is taken. Where no layer has two groups this
  is the optimum, but for scores rounded to 2**-30 of their sum, and for costs
  rounded up to 1/4096 of the whole if that costs more than 4096.

  Args:
    scores: float [channels] for each group. A channel of -inf or NaN is not
      eligible, and a block only if all its channels are; one of +inf is
      mandatory, and so is its block.
    costs: of the network; the whole one must cost less than 2**31.
    capacity: what the network may cost, below 2**31; an int or traced.

  Returns:
    bool [channels] for each group. What is mandatory, and what always stays,
    stays even beyond the capacity; `check_capacity` looks at the latter.

  Raises:
    ValueError: scores are not of the groups of `costs`, or not as long.

  Example:
    >>> table = jnp.array([[0, 5, 9]])
    >>> layer = cost_tables.LayerCost(None, 'a', table)
    >>> costs = Costs({'a': 2}, [layer], rest=1)
    >>> choose({'a': jnp.array([1.0, 3.0, 4.0, 2.0])}, costs, capacity=6)
    {'a': Array([False,  True,  True, False], dtype=bool)}
  """
  dense = cost_tables.num_blocks(costs)
  expected = {group: n * costs.blocks[group] for group, n in dense.items()}
  lengths = {group: len(score) for group, score in scores.items()}
  if lengths != expected:
    raise ValueError(
      f'`scores` must be of the groups and channels {expected}, got {lengths}.'
    )
  queues = {
    g: _queue(scores[g], costs.blocks[g], least)
    for g, least in cost_tables.least_blocks(costs).items()
  }
  left = _lengths(queues, costs, capacity)
  kept = {}
  for group in scores:
    order = queues[group].order
    stays = jnp.arange(len(order)) < left[group] * costs.blocks[group]
    kept[group] = jnp.zeros(len(order), bool).at[order].set(stays)
  return kept


class _Queue(NamedTuple):
  """A group's channels, the best first, of which a prefix of blocks stays."""

  order: jax.Array  # int32 [channels].
  values: jax.Array  # float32 [blocks, channels per block]; 0 if not finite.
  least: jax.Array  # int32 []: the blocks that have to stay,
  most: jax.Array  # int32 []: and those that can.


def _queue(scores: jax.Array, size: int, least: int) -> _Queue:
  scores = jnp.asarray(scores, jnp.float32)
  scores = jnp.where(jnp.isnan(scores), -jnp.inf, scores)
  order = jnp.argsort(-scores, stable=True)
  blocks = scores[order].reshape(-1, size)
  mandatory = (blocks == jnp.inf).any(1).sum(dtype=jnp.int32)
  least = jnp.maximum(mandatory, least)
  most = (blocks > -jnp.inf).all(1).sum(dtype=jnp.int32)
  values = jnp.where(jnp.isfinite(blocks), blocks, 0)
  return _Queue(order, values, least, jnp.maximum(most, least))


def _lengths(
  queues: dict[str, _Queue], costs: Costs, capacity: jax.Array | int
) -> dict[str, jax.Array]:
  """Returns the number of blocks of each group that stay, int32 []."""
  estimates = _estimates(costs, {g: q.most for g, q in queues.items()})
  unit, max_capacity, exact = _ticks(costs)

  def in_ticks(estimate, queue):  # Above what has to be paid in any case.
    options = jnp.arange(len(estimate))
    offered = (queue.least <= options) & (options <= queue.most)
    more = estimate - estimate[queue.least]
    return jnp.where(offered, -(-more // unit), -1)

  charges = _stack([in_ticks(estimates[g], q) for g, q in queues.items()], -1)
  values = _stack(_integers([q.values for q in queues.values()]), 0)
  least = jnp.stack([q.least for q in queues.values()])
  base = costs.rest + sum(estimates[g][q.least] for g, q in queues.items())
  capacity = jnp.minimum(
    capacity, cost_tables.total(costs, cost_tables.num_blocks(costs))
  )

  def again(_, carry):
    ticks, best, best_value = carry
    picked = solve(values, charges, ticks, max_capacity=max_capacity)
    left = jnp.where(picked < 0, least, picked)
    cost = cost_tables.total(costs, dict(zip(queues, left)))
    value = jnp.take_along_axis(values, left[:, None], 1).sum()
    better = (cost <= capacity) & (value > best_value)
    return (
      jnp.clip(ticks + (capacity - cost) // unit, -1, max_capacity),
      jnp.where(better, left, best),
      jnp.where(better, value, best_value),
    )

  start = (capacity - base) // unit, least, jnp.int32(_NEVER)
  _, left, _ = jax.lax.fori_loop(0, 1 if exact else _ROUNDS, again, start)
  return dict(zip(queues, left))


def _estimates(
  costs: Costs, most: dict[str, jax.Array]
) -> dict[str, jax.Array]:
  """Returns what each group's layers cost, int32 [its blocks + 1].

  By monotony table[i, j] is at most the mean of table[i, J] and table[I, j]
  for all i <= I and j <= J, where I and J are the widest.
  """
  estimates = dict.fromkeys(most, 0)
  for inputs, outputs, table in costs.layers:
    table = jnp.asarray(table, jnp.int32)
    if inputs == outputs:
      estimates[inputs] += jnp.diagonal(table)
    elif outputs is None:
      estimates[inputs] += table[:, 0]
    elif inputs is None:
      estimates[outputs] += table[0]
    else:  # Halved before they are added, so as not to overflow.
      estimates[inputs] += table[:, most[outputs]] // 2 + 1
      estimates[outputs] += table[most[inputs]] // 2 + 1
  return estimates


def _ticks(costs: Costs) -> tuple[int, int, bool]:
  """Returns a tick's cost, the most ticks of all groups, and if it is exact."""
  shared = [
    None not in layer[:2] and layer.inputs != layer.outputs
    for layer in costs.layers
  ]
  whole = sum(
    int(layer.table.max()) + 2 * two for layer, two in zip(costs.layers, shared)
  )
  unit = max(1, -(-whole // _TICKS))
  return unit, whole // unit + len(costs.blocks), unit == 1 and not any(shared)


def _integers(values: list[jax.Array]) -> list[jax.Array]:
  """Scales blocks' values to a sum of 2**30; int32 [blocks + 1], cumulated."""
  largest = jnp.stack([abs(v).max() for v in values]).max()
  values = [v / jnp.where(largest > 0, largest, 1) for v in values]
  whole = sum(abs(v).sum() for v in values)
  scale = 2.0**30 / jnp.where(whole > 0, whole, 1)
  blocks = [jnp.rint(v * scale).astype(jnp.int32).sum(1) for v in values]
  return [jnp.cumsum(jnp.pad(b, (1, 0)), dtype=jnp.int32) for b in blocks]


def _stack(rows: list[jax.Array], filler: int) -> jax.Array:
  length = max(map(len, rows))
  return jnp.stack(
    [
      jnp.pad(row, (0, length - len(row)), constant_values=filler)
      for row in rows
    ]
  )
