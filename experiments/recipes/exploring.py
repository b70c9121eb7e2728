"""Exploitation and exploration (IEE), as segments."""

import math
from collections.abc import Callable
from typing import Any

import jax

import ong_jax
from experiments import plan
from experiments.config import check_choice
from experiments.learning_rates import training
from experiments.plan import Run, Segment
from experiments.recipes.once import NMF_KEY, SALIENCIES
from ong_jax import SparseMethod, patterns, schedules, scores, selection, taylor
from ong_jax.costs import num_blocks, total
from ong_jax.patterns import Pattern
from ong_jax.types import Mask, Params, Score

_BATCHES = 10  # Whose gradients are looked at for the first mask.
_FLOOR = 0.1  # Of a leaf's even share: no leaf is emptied by one ranking.
_LAST = 0.01  # What is moved in the last cycle, of what is moved in the first.
COSTS = ('weights', 'macs', 'latency')
CRITERIA = ('magnitude', 'taylor', *SALIENCIES)


def _stage(run: Run) -> int:
  """The paper's 150 steps, or fewer: short runs have ten cycles, too."""
  return max(1, min(150, int(0.75 * run.steps) // 30))


def _first(run: Run) -> str:
  return 'criterion' if run.trained else 'random'


def iee(
  run: Run,
  *,
  criterion: str = 'magnitude',
  first: str = _first,
  start: str = 'erk',
  allocate: str = 'erk',
  interval: int = _stage,
  fraction: float = 0.3,
  until: float = 0.75,
  retraining: str = 'llr',
) -> list[Segment]:
  """Prunes and grows single weights by one criterion.

  Args:
    run: that is planned.
    criterion: `magnitude`, `taylor`, or a saliency of ONG.
    first: how the first mask is made: at `random`, or by the `criterion`.
    start: its allocation.
    allocate: that of all others; `pooled` lets the densities of layers drift.
    interval: steps of a stage.
    fraction: of the budget that the first cycle moves; 0 is training under the
      first mask, without any cycle.
    until: the fraction of the run that has cycles.
    retraining: rate, if the network was trained.
  """
  sparsity = run.config.sparsity
  begin, hold = (
    patterns.unstructured(
      sparsity,
      plan.choose(name, value, plan.ALLOCATIONS),
      floor=_FLOOR * (1 - sparsity) if value == 'pooled' else 0.0,
    )
    for name, value in (('start', start), ('allocate', allocate))
  )
  return _segments(
    run,
    _first_mask(run, begin, first, criterion),
    hold,
    criterion,
    _fractions(run, interval, fraction, until),
    interval,
    retraining,
  )


def iee_nm(
  run: Run,
  *,
  m: int = 4,
  criterion: str = 'magnitude',
  first: str = _first,
  interval: int = _stage,
  fraction: float = 0.3,
  until: float = 0.75,
  retraining: str = 'llr',
) -> list[Segment]:
  """The same with as many of every m weights as the sparsity says."""
  schedules.check_steps(m=m)
  n = round((1 - run.config.sparsity) * m)
  if not 0 < n < m or 1 - n / m != run.config.sparsity:
    known = ', '.join(f'{1 - n / m:g}' for n in range(m - 1, 0, -1))
    raise ValueError(
      f'`sparsity`={run.config.sparsity} keeps no whole number of every {m} '
      f'weights. Take one of {known}, or another `m`.'
    )
  pattern = patterns.n_of_m(n, m)
  return _segments(
    run,
    _first_mask(run, pattern, first, criterion),
    pattern,
    criterion,
    _fractions(run, interval, fraction, until),
    interval,
    retraining,
  )


def iee_channels(
  run: Run,
  *,
  cost: str = 'weights',
  criterion: str = 'taylor',
  first: str = _first,
  interval: int = _stage,
  fraction: float = 0.3,
  until: float = 0.75,
  retraining: str = 'llr',
) -> list[Segment]:
  """The same with whole channels, under a budget of what they cost.

  Args:
    run: that is planned. Its sparsity is the fraction of the dense network's
      cost that is removed at least.
    cost: of which: `weights`, `macs`, or the `latency` on this machine.
    criterion: `magnitude`, `taylor`, or a saliency of ONG; that of a channel is
      of BatchNorm's scale and bias, or the sum of its weights'.
    first, interval, fraction, until, retraining: as for `iee`.
  """
  check_choice('cost', cost, COSTS)
  costs = run.costs(cost)
  dense = int(total(costs, num_blocks(costs)))
  capacity = dense - math.ceil(run.config.sparsity * dense)
  pattern = patterns.whole_channels(run.names, costs, capacity)
  return _segments(
    run,
    _first_mask(run, pattern, first, criterion, run.names),
    pattern,
    criterion,
    _fractions(run, interval, fraction, until),
    interval,
    retraining,
    run.names,
  )


def _fractions(
  run: Run, interval: int, fraction: float, until: float
) -> list[float]:
  """One for each cycle, falling to a hundredth."""
  schedules.check_steps(interval=interval)
  plan.check_fraction('fraction', fraction)
  plan.check_fraction('until', until)
  num_cycles = int(until * run.steps) // (3 * interval)
  if not num_cycles:
    raise ValueError(
      f'`interval`={interval} must be at most a third of the '
      f'{int(until * run.steps)} steps that `epochs` and `until` give cycles.'
    )
  return schedules.exponential_decay(fraction, _LAST * fraction, num_cycles)


def _segments(
  run: Run,
  first: Callable[[Params, Mask | None], Mask],
  pattern: Pattern,
  criterion: str,
  fractions: list[float],
  interval: int,
  retraining: str,
  names: Any = None,
) -> list[Segment]:
  """Starts with a first mask, and goes through the cycles."""
  observe, score = _criterion(criterion, names)

  def explored(mask: Mask | None) -> SparseMethod:
    return ong_jax.iee(
      mask,
      pattern,
      fractions=fractions,
      estimate=interval,
      improve=interval,
      explore=interval,
      score=score,
      observe=observe,
    )

  method = explored if any(fractions) else ong_jax.static
  rate = training(run.config, run.steps)
  if run.trained:
    rate = plan.retraining_rate(run, retraining, run.steps, run.original_steps)
  return plan.after_dense(run) + [
    Segment(run.steps, method, rate, first, latent=True)
  ]


def _criterion(name: str, names: Any) -> tuple[taylor.Observe | None, Score]:
  """What is observed, if anything, and the score of it or of the weights."""
  check_choice('criterion', name, CRITERIA)
  if name == 'taylor':
    observe = taylor.channels(names) if names else taylor.weights()
    return observe, scores.magnitude
  if name == 'magnitude':
    return None, _of_channels(names, scores.magnitude)
  score = scores.ong(jax.random.key(NMF_KEY), saliency=SALIENCIES[name])
  return None, _of_channels(names, score)


def _of_channels(names: Any, score: Score) -> Score:
  return patterns.per_channel(names, score) if names else score


def _first_mask(
  run: Run,
  pattern: Pattern,
  first: str,
  criterion: str,
  names: Any = None,
) -> Callable[[Params, Mask | None], Mask]:
  """Makes what prunes at the outset."""
  check_choice('first', first, ('random', 'criterion'))
  observe, score = _criterion(criterion, names)
  if first == 'random':
    draw = scores.random(jax.random.key(run.config.seed))
    observe, score = None, _of_channels(names, draw)

  def prune(params, mask):
    del mask
    if observe:
      values = taylor.over(observe, params, run.gradients(params, _BATCHES))
    else:
      values = selection.select(params)
    return pattern.expand(pattern.choose(score(values)), params)

  return prune
