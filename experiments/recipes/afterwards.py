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


def probmask(
  run: Run,
  *,
  interval: int = plan.an_epoch,
  rate: float = 6e-3,
  clip: float = 3.0,
  samples: int = 2,
  retrain: float = 0.0625,
) -> list[Segment]:
  """Trains weights and probabilities, then the weights of the final mask.

  As in the paper, the latter at a hundredth of the peak learning rate.
  """
  schedules.check_steps(samples=samples)
  plan.check_fraction('retrain', retrain)
  rest = round(retrain * run.steps)
  method = ong_jax.probmask(
    sparsity=run.config.sparsity,
    interval=interval,
    num_intervals=max((run.steps - rest) // interval, 1),
    rate=rate,
    clip=clip,
  )
  *before, segment = plan.throughout(run, method, run.steps - rest)
  low = Rate(lambda step: 0.01)
  last = [Segment(rest, ong_jax.static, low)] if rest else []
  return [*before, segment._replace(samples=samples), *last]
