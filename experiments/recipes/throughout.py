"""Methods that prune all along, as segments."""

import math

import jax

import ong_jax
from experiments import plan
from experiments.plan import Run, Segment
from ong_jax import patterns, schedules
from ong_jax.patterns import Pattern

_FADES = {
  'linear': lambda progress: 1 - progress,
  'exponential': lambda progress: math.exp(-5 * progress),  # Our choice: 5.
}


def gmp(
  run: Run,
  *,
  interval: int = plan.an_epoch,
  recover: bool = False,
  allocate: str = 'pooled',
) -> list[Segment]:
  """Prunes step by step; the last interval trains under the final mask."""
  method = ong_jax.gmp(
    sparsity=run.config.sparsity,
    interval=interval,
    num_updates=_num_updates(run, interval),
    recover=recover,
    allocate=plan.choose('allocate', allocate, plan.ALLOCATIONS),
  )
  return plan.throughout(run, method)


def dpf(
  run: Run,
  *,
  interval: int = plan.an_epoch,
  refresh: int = 16,
  allocate: str = 'pooled',
) -> list[Segment]:
  """Trains dense weights behind a mask whose sparsity rises."""
  method = ong_jax.dpf(
    sparsity=run.config.sparsity,
    interval=interval,
    num_updates=_num_updates(run, interval),
    refresh=refresh,
    allocate=plan.choose('allocate', allocate, plan.ALLOCATIONS),
  )
  return plan.throughout(run, method)


def dnw(run: Run, *, allocate: str = 'pooled') -> list[Segment]:
  """Trains dense weights behind the mask of the largest of each step."""
  method = ong_jax.dnw(
    sparsity=run.config.sparsity,
    allocate=plan.choose('allocate', allocate, plan.ALLOCATIONS),
  )
  return plan.throughout(run, method)


def ste(run: Run, *, allocate: str = 'uniform') -> list[Segment]:
  """Trains dense weights behind the mask of the largest of each layer."""
  pattern = patterns.unstructured(
    run.config.sparsity, plan.choose('allocate', allocate, plan.ALLOCATIONS)
  )
  return plan.throughout(run, ong_jax.ste(pattern))


def sr_ste(run: Run, *, m: int = 4, decay: float = 2e-4) -> list[Segment]:
  """The same with as many of every m weights as the sparsity says.

  Args:
    run: that is planned.
    m: weights of a group.
    decay: of the weights that are pruned in a step.
  """
  pattern = patterns.n_of_m(plan.kept_of(run, m), m)
  return plan.throughout(run, ong_jax.ste(pattern, decay=decay))


def mask_decay(
  run: Run,
  *,
  m: int = 4,
  dense: float = 0.1,
  until: float = 0.75,
  fade: str = 'linear',
) -> list[Segment]:
  """Fades out what N:M prunes, from dense weights on.

  Args:
    run: that is planned.
    m: weights of a group; the sparsity says how many are kept.
    dense: the fraction of the run before anything fades.
    until: that after which all has.
    fade: `linear` or `exponential`.
  """
  start, end = _decay_steps(run, dense, until)
  method = ong_jax.mask_decay(
    patterns.n_of_m(plan.kept_of(run, m), m),
    start=start,
    end=end,
    fade=plan.choose('fade', fade, _FADES),
  )
  return plan.throughout(run, method)


def structure_decay(
  run: Run, *, m: int = 4, dense: float = 0.1, until: float = 0.75
) -> list[Segment]:
  """Keeps m - 1 of every m weights, then half of m, a quarter, ..., then n.

  Args:
    run: that is planned.
    m: weights of a group; n is what the sparsity says.
    dense: the fraction of the run before the first pattern.
    until: that before the last one.
  """
  start, end = _decay_steps(run, dense, until)
  n = plan.kept_of(run, m)
  halves = [m >> i for i in range(1, m.bit_length()) if m >> i > n]
  kept = sorted({m - 1, *halves, n}, reverse=True)
  moves = max(len(kept) - 1, 1)
  if end - start < moves:
    raise ValueError(
      f'`until`={until} leaves {end - start} steps after `dense`={dense}, too '
      f'few for {len(kept)} patterns. Take more `epochs`, or a smaller `m`.'
    )
  method = ong_jax.structure_decay(
    [patterns.n_of_m(n, m) for n in kept],
    boundaries=[start + i * (end - start) // moves for i in range(len(kept))],
  )
  return plan.throughout(run, method)


def _decay_steps(run: Run, dense: float, until: float) -> tuple[int, int]:
  """The steps at which a decay starts and ends."""
  plan.check_fraction('dense', dense)
  plan.check_fraction('until', until)
  start, end = int(dense * run.steps), int(until * run.steps)
  if start >= end:
    raise ValueError(
      f'`until`={until} must leave steps after `dense`={dense}: they are '
      f'steps {end} and {start} of {run.steps}.'
    )
  return start, end


def optg(
  run: Run,
  *,
  interval: int = plan.an_epoch,
  beta: float = 1.0,
  train_weights: bool = True,
  allocate: str = 'pooled',
) -> list[Segment]:
  """Trains weights and scores; the mask is held for an interval.

  With no `train_weights`, what is found is a supermask of the weights as they
  are.
  """
  method = ong_jax.optg(
    sparsity=run.config.sparsity,
    interval=interval,
    num_intervals=_num_updates(run, interval) + 1,
    beta=beta,
    train_weights=train_weights,
    allocate=plan.choose('allocate', allocate, plan.ALLOCATIONS),
  )
  return plan.throughout(run, method)


def _hundred(run: Run) -> int:
  """The paper's 100 steps, or fewer: short runs have 30 updates, too.

  But no fewer than four, of which one updates the mask and trains nothing.
  """
  num_steps = int(0.75 * run.steps)
  return max(1, min(100, num_steps, max(4, num_steps // 30)))


def set_(
  run: Run,
  *,
  interval: int = plan.an_epoch,
  fraction: float = 0.3,
  until: float = 0.75,
  allocate: str = 'erk',
) -> list[Segment]:
  """Drops the smallest weights and grows others at random.

  Args:
    run: that is planned.
    interval: steps between two updates of the mask.
    fraction: of the weights that the first update replaces; it falls as half a
      cosine. 0 is training under the first mask.
    until: the fraction of the run that has updates.
    allocate: how the budget is split; `pooled` lets densities of layers drift.
  """
  method = ong_jax.set_(
    jax.random.key(run.config.seed),
    _pattern(run, allocate),
    interval=interval,
    fractions=_fractions(run, interval, fraction, until),
  )
  return plan.throughout(run, method)


def rigl(
  run: Run,
  *,
  interval: int = _hundred,
  fraction: float = 0.3,
  until: float = 0.75,
  average: int = 1,
  allocate: str = 'erk',
) -> list[Segment]:
  """Drops the smallest weights and grows where the gradient is largest.

  Args:
    run: that is planned.
    interval, fraction, until, allocate: as for `set_`.
    average: steps whose gradients are averaged for an update.
  """
  method = ong_jax.rigl(
    jax.random.key(run.config.seed),
    _pattern(run, allocate),
    interval=interval,
    fractions=_fractions(run, interval, fraction, until),
    average=average,
  )
  return plan.throughout(run, method)


def _pattern(run: Run, allocate: str) -> Pattern:
  """That of single weights."""
  allocation = plan.choose('allocate', allocate, plan.ALLOCATIONS)
  return patterns.unstructured(run.config.sparsity, allocation)


def _fractions(
  run: Run, interval: int, fraction: float, until: float
) -> list[float]:
  """One for each update in this part of the run."""
  schedules.check_steps(interval=interval)
  plan.check_fraction('fraction', fraction)
  plan.check_fraction('until', until)
  num_updates = int(until * run.steps) // interval
  if not num_updates:
    raise ValueError(
      f'`interval`={interval} must be at most the {int(until * run.steps)} '
      'steps that `epochs` and `until` give to updates of the mask.'
    )
  return schedules.cosine_decay(fraction, num_updates) if fraction else []


def _num_updates(run: Run, interval: int) -> int:
  """So many that the last interval of the run has the final mask."""
  schedules.check_steps(interval=interval)
  if 2 * interval > run.steps:
    raise ValueError(
      f'`interval`={interval} must be at most half of the {run.steps} steps '
      'that `epochs` gives.'
    )
  return run.steps // interval - 1
