"""Methods that prune in the end and then retrain, as segments."""

import ong_jax
from experiments import plan
from experiments.plan import Run, Segment


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
