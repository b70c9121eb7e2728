"""Whole channels, under a budget of what they cost."""

import functools
import math
import operator
from typing import Any

import jax
import jax.numpy as jnp

from ong_jax import channels, knapsack
from ong_jax.costs import Costs, check_capacity
from ong_jax.patterns.pattern import Pattern
from ong_jax.types import Score

_HIGHEST = 2**31 - 1


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
