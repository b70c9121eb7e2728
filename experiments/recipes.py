"""How methods become segments. The keywords of a recipe are its options.

All segments of sparse training together have the `epochs` of the config, so
that methods compare at equal budget; `dense_epochs` come before.
"""

from typing import Any

import jax

import ong_jax
from experiments import plan
from experiments.plan import Run, Segment
from ong_jax import nmf, saliency, schedules, scores, selection

SALIENCIES = {
  f.__name__: f
  for f in (
    saliency.residual,
    saliency.recon,
    saliency.recon_mag,
    saliency.signed_residual,
    saliency.rel_residual,
    saliency.component,
  )
}
SOLVERS = {'hals': nmf.hals, 'multiplicative': nmf.multiplicative, 'kl': nmf.kl}

# Says nothing of the training seed: the same weights give the same mask.
_NMF_KEY = 0


def an_epoch(run: Run) -> int:
  """Returns the steps of an epoch, or an eighth of a run that is shorter.

  Example:
    >>> from experiments.config import Config
    >>> an_epoch(Run(Config(epochs=2), steps_per_epoch=40))
    10
  """
  return max(1, min(run.steps_per_epoch, run.steps // 8))


def dense(run: Run) -> list[Segment]:
  """Trains without pruning, for the whole budget."""
  return [plan.dense_segment(run, run.dense_steps + run.steps)]


def ong(
  run: Run,
  *,
  saliency: str = 'residual',
  rank: int = 7,
  solver: str = 'hals',
  allocate: str = 'pooled',
  normalize: bool = False,
  all_kernels: bool = True,
  retraining: str = 'llr',
) -> list[Segment]:
  """Prunes once, by what a factorization of the weights shows."""
  score = scores.ong(
    jax.random.key(_NMF_KEY),
    saliency=plan.choose('saliency', saliency, SALIENCIES),
    rank=rank,
    solver=plan.choose('solver', solver, SOLVERS),
  )
  pruner = ong_jax.one_shot(
    scores.normalized(score) if normalize else score,
    run.config.sparsity,
    allocate=plan.choose('allocate', allocate, plan.ALLOCATIONS),
    prunable=selection.is_kernel if all_kernels else _reference_set,
  )
  return plan.once(run, pruner, retraining)


def magnitude(
  run: Run, *, allocate: str = 'pooled', retraining: str = 'llr'
) -> list[Segment]:
  """Prunes once, by magnitude."""
  pruner = ong_jax.magnitude(
    sparsity=run.config.sparsity,
    allocate=plan.choose('allocate', allocate, plan.ALLOCATIONS),
  )
  return plan.once(run, pruner, retraining)


def random(
  run: Run, *, allocate: str = 'erk', retraining: str = 'llr'
) -> list[Segment]:
  """Prunes once, at random."""
  pruner = ong_jax.random(
    jax.random.key(run.config.seed),
    sparsity=run.config.sparsity,
    allocate=plan.choose('allocate', allocate, plan.ALLOCATIONS),
  )
  return plan.once(run, pruner, retraining)


def gmp(
  run: Run,
  *,
  interval: int = an_epoch,
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
  interval: int = an_epoch,
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


def _num_updates(run: Run, interval: int) -> int:
  """So many that the last interval of the run has the final mask."""
  schedules.check_steps(interval=interval)
  if 2 * interval > run.steps:
    raise ValueError(
      f'`interval`={interval} must be at most half of the {run.steps} steps '
      'that `epochs` gives.'
    )
  return run.steps // interval - 1


def _reference_set(path: Any, leaf: Any) -> bool:
  """All kernels but the classifier and the projections of shortcuts."""
  left_out = ('linear', 'shortcut_conv')
  names = selection.name_of(path).split('/')
  return selection.is_kernel(path, leaf) and not set(left_out) & set(names)
