"""Methods that prune in the end and then retrain, as segments."""

import ong_jax
from experiments import plan
from experiments.learning_rates import Rate
from experiments.plan import Run, Segment
from ong_jax import schedules


def gsm(
  run: Run, *, retrain: float = 0.25, retraining: str = 'llr'
) -> list[Segment]:
  """Trains dense with sparse gradients, prunes, retrains."""
  return plan.then_retrain(
    run,
    lambda num_steps: ong_jax.gsm(sparsity=run.config.sparsity),
    retrain,
    retraining,
  )


def lc(
  run: Run, *, retrain: float = 0.25, retraining: str = 'llr'
) -> list[Segment]:
  """Trains dense with decay on the smallest, prunes, retrains."""
  return plan.then_retrain(
    run,
    lambda num_steps: ong_jax.lc(
      sparsity=run.config.sparsity, weight_decay=run.config.weight_decay
    ),
    retrain,
    retraining,
  )


def iss_p(
  run: Run,
  *,
  shrink: float = 0.05,
  allocate: str = 'uniform',
  retrain: float = 0.25,
  retraining: str = 'llr',
) -> list[Segment]:
  """Trains dense while the smallest shrink, prunes, retrains."""
  allocation = plan.choose('allocate', allocate, plan.ALLOCATIONS)
  return plan.then_retrain(
    run,
    lambda num_steps: ong_jax.iss_p(
      sparsity=run.config.sparsity, shrink=shrink, allocate=allocation
    ),
    retrain,
    retraining,
  )


def str_(
  run: Run,
  *,
  start: float = -5.0,
  retrain: float = 0.25,
  retraining: str = 'llr',
) -> list[Segment]:
  """Trains weights and thresholds, projects, retrains."""
  return plan.then_retrain(
    run,
    lambda num_steps: ong_jax.str_(sparsity=run.config.sparsity, start=start),
    retrain,
    retraining,
  )


def dst(
  run: Run,
  *,
  penalty: float = 5e-6,
  retrain: float = 0.25,
  retraining: str = 'llr',
) -> list[Segment]:
  """Trains weights and thresholds of units, projects, retrains."""
  return plan.then_retrain(
    run,
    lambda num_steps: ong_jax.dst(
      sparsity=run.config.sparsity, penalty=penalty
    ),
    retrain,
    retraining,
  )


def cs(
  run: Run,
  *,
  start: float = 0.0,
  final_beta: float = 200.0,
  penalty: float = 1e-8,
  retrain: float = 0.25,
  retraining: str = 'llr',
) -> list[Segment]:
  """Trains weights and gates, projects, retrains."""
  return plan.then_retrain(
    run,
    lambda num_steps: ong_jax.cs(
      sparsity=run.config.sparsity,
      num_steps=max(num_steps, 1),
      start=start,
      final_beta=final_beta,
      penalty=penalty,
    ),
    retrain,
    retraining,
  )


def _a_300th(run: Run) -> int:
  """Returns the steps of an interval: the paper has 300 of them, its epochs.

  Of fewer, the last masks would be soft: in 8 intervals the inverse temperature
  comes to 7, in 300 to 30.
  """
  return max(1, min(run.steps_per_epoch, run.steps // 300))


def _as_far(run: Run) -> float:
  """Returns the rate at which probabilities can move as far as in the paper.

  That has 300 epochs of 196 steps at 6e-3. In shorter runs the rate rises, to
  0.1 at most: ten steps from 0 to 1.
  """
  return min(0.1, 6e-3 * max(1, 300 * 196 / max(run.steps, 1)))


def probmask(
  run: Run,
  *,
  interval: int = _a_300th,
  rate: float = _as_far,
  clip: float = 3.0,
  samples: int = 2,
  draws: int = 0,
  train_weights: bool = True,
  retrain: float = 0.0625,
) -> list[Segment]:
  """Trains weights and probabilities, then the weights of the final mask.

  As in the paper, the latter at a hundredth of the peak learning rate. The mask
  is the most probable one, of exact count; or the best of so many `draws`, in
  the paper ten, whose count is random. With no `train_weights`, what is found
  is a supermask of the weights as they are.
  """
  schedules.check_steps(samples=samples)
  if draws < 0:
    raise ValueError(f'`draws` must be at least 0, got {draws}.')
  plan.check_fraction('retrain', retrain)
  rest = round(retrain * run.steps)
  method = ong_jax.probmask(
    sparsity=run.config.sparsity,
    interval=interval,
    num_intervals=max((run.steps - rest) // interval, 1),
    rate=rate,
    clip=clip,
    train_weights=train_weights,
  )
  *before, segment = plan.throughout(run, method, run.steps - rest)
  low = Rate(lambda step: 0.01)
  last = [Segment(rest, ong_jax.static, low)] if rest else []
  segment = segment._replace(samples=samples, draws=draws, soft=True)
  return [*before, segment, *last]
