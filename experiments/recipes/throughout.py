"""Methods that prune all along, as segments."""

import math

import ong_jax
from experiments import plan
from experiments.plan import Run, Segment
from experiments.recipes import once
from ong_jax import patterns, schedules

_FADES = {
  'linear': lambda progress: 1 - progress,
  'exponential': lambda progress: math.exp(-5 * progress),  # Our choice: 5.
}


def gmp(
  run: Run,
  *,
  interval: int = plan.an_epoch,
  recover: bool = False,
  criterion: str = 'magnitude',
  rank: int = 7,
  allocate: str = 'pooled',
) -> list[Segment]:
  """Prunes step by step; the last interval trains under the final mask.

  Args:
    run: that is planned.
    interval: steps between two rises of the sparsity.
    recover: whether pruned weights may return.
    criterion: `magnitude`, or a saliency of ONG, of a factorization of `rank`.
    rank: of that factorization.
    allocate: how the budget is split among layers.
  """
  method = ong_jax.gmp(
    sparsity=run.config.sparsity,
    interval=interval,
    num_updates=_num_updates(run, interval),
    score=once.criterion(criterion, rank),
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


def _num_updates(run: Run, interval: int) -> int:
  """So many that the last interval of the run has the final mask."""
  schedules.check_steps(interval=interval)
  if 2 * interval > run.steps:
    raise ValueError(
      f'`interval`={interval} must be at most half of the {run.steps} steps '
      'that `epochs` gives.'
    )
  return run.steps // interval - 1
