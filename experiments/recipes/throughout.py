"""Methods that prune all along, as segments."""

import ong_jax
from experiments import plan
from experiments.plan import Run, Segment
from ong_jax import schedules


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
