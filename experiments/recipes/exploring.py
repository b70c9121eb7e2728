"""Exploitation and exploration (IEE), as segments."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

import ong_jax
from experiments import plan
from experiments.config import check_choice
from experiments.learning_rates import training
from experiments.plan import Run, Segment
from experiments.recipes import once
from ong_jax import (
  SparseMethod,
  calibrated,
  patterns,
  schedules,
  scores,
  selection,
  taylor,
)
from ong_jax.costs import check_capacity, num_blocks, total
from ong_jax.patterns import Pattern
from ong_jax.types import Mask, Params, Score

_BATCHES = 10  # Whose gradients are looked at for the first mask.
_FLOOR = 0.1  # Of a leaf's even share: no leaf is emptied by one ranking.
_LAST = 0.01  # What is moved in the last cycle, of what is moved in the first.
COSTS = ('weights', 'macs', 'latency')
CRITERIA = ('magnitude', 'taylor', *once.SALIENCIES)


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
  criteria = _Criterion(criterion)
  prune = _first_mask(run, begin, first, criteria)
  cycles = _Cycles(run, interval, fraction, until)
  return _segments(run, prune, hold, criteria, cycles, retraining)


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
  pattern = patterns.n_of_m(plan.kept_of(run, m), m)
  criteria = _Criterion(criterion)
  prune = _first_mask(run, pattern, first, criteria)
  cycles = _Cycles(run, interval, fraction, until)
  return _segments(run, prune, pattern, criteria, cycles, retraining)


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
  cycles = _Cycles(run, interval, fraction, until)
  most = max(cycles.fractions(), default=0)
  try:
    check_capacity(costs, capacity - math.ceil(most * capacity))
  except ValueError as error:
    raise ValueError(
      f'`sparsity`={run.config.sparsity} is too high for channels, of which '
      f'`fraction`={fraction} are pruned beyond it for a while: {error}'
    ) from error
  pattern = patterns.whole_channels(run.names, costs, capacity)
  criteria = _Criterion(criterion, run.names)
  prune = _first_mask(run, pattern, first, criteria)
  return _segments(run, prune, pattern, criteria, cycles, retraining)


class _Criterion(NamedTuple):
  """A score of weights, or of what is observed of them, or of channels."""

  name: str
  names: Any = None  # Of the groups of channels, if it is of those.

  def make(self) -> tuple[taylor.Observe | None, Score]:
    check_choice('criterion', self.name, CRITERIA)
    if self.name == 'taylor':
      observe = taylor.channels(self.names) if self.names else taylor.weights()
      return observe, scores.magnitude
    return None, self.of_units(once.criterion(self.name, rank=7))

  def of_units(self, score: Score) -> Score:
    return patterns.per_channel(self.names, score) if self.names else score


class _Cycles(NamedTuple):
  """The stages that fit into the beginning of a run."""

  run: Run
  interval: int
  fraction: float
  until: float

  def fractions(self) -> list[float]:
    """One for each cycle, falling to a hundredth; none, if nothing moves."""
    schedules.check_steps(interval=self.interval)
    plan.check_fraction('fraction', self.fraction)
    plan.check_fraction('until', self.until)
    num_steps = int(self.until * self.run.steps)
    num_cycles = num_steps // (3 * self.interval)
    if not num_cycles:
      raise ValueError(
        f'`interval`={self.interval} must be at most a third of the '
        f'{num_steps} steps that `epochs` and `until` give cycles.'
      )
    if not self.fraction:
      return []
    last = _LAST * self.fraction
    return schedules.exponential_decay(self.fraction, last, num_cycles)


def _segments(
  run: Run,
  prune: Callable[[Params, Mask | None], tuple[Params, Mask]],
  pattern: Pattern,
  criterion: _Criterion,
  cycles: _Cycles,
  retraining: str,
) -> list[Segment]:
  """Starts with a first mask, and goes through the cycles."""
  observe, score = criterion.make()
  fractions = cycles.fractions()

  def explored(mask: Mask | None) -> SparseMethod:
    return ong_jax.iee(
      mask,
      pattern,
      fractions=fractions,
      estimate=cycles.interval,
      improve=cycles.interval,
      explore=cycles.interval,
      score=score,
      observe=observe,
    )

  method = explored if fractions else ong_jax.static
  rate = training(run.config, run.steps)
  if run.trained:
    rate = plan.retraining_rate(run, retraining, run.steps, run.original_steps)
  return plan.after_dense(run) + [
    Segment(run.steps, method, rate, prune, latent=bool(fractions))
  ]


def _first_mask(
  run: Run, pattern: Pattern, first: str, criterion: _Criterion
) -> Callable[[Params, Mask | None], tuple[Params, Mask]]:
  """Makes what prunes at the outset."""
  check_choice('first', first, ('random', 'criterion'))
  observe, score = criterion.make()
  if first == 'random':
    draw = scores.random(jax.random.key(run.config.seed))
    observe, score = None, criterion.of_units(draw)

  def prune(params, mask):
    del mask
    values = selection.select(params)
    if observe:
      gradients = calibrated.gradients(
        run.calibration.loss, run.calibration.batches(_BATCHES)
      )
      values = taylor.over(observe, params, gradients(params))
    return params, pattern.expand(pattern.choose(score(values)), params)

  return prune
