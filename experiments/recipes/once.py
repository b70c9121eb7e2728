"""Methods that prune once, as segments; and none at all."""

from typing import Any

import jax

import ong_jax
from experiments import plan
from experiments.plan import Run, Segment
from ong_jax import nmf, patterns, saliency, schedules, scores, selection

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
NMF_KEY = 0


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
    jax.random.key(NMF_KEY),
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


def lamp(run: Run, *, retraining: str = 'llr') -> list[Segment]:
  """Prunes once, by layer-adaptive magnitude."""
  return plan.once(run, ong_jax.lamp(sparsity=run.config.sparsity), retraining)


def magnitude_nm(
  run: Run, *, m: int = 4, retraining: str = 'llr'
) -> list[Segment]:
  """Prunes once, to as many of every m weights as the sparsity says."""
  pattern = patterns.n_of_m(plan.kept_of(run, m), m)
  pruner = ong_jax.one_shot(scores.magnitude, pattern=pattern)
  return plan.once(run, pruner, retraining)


def magnitude_blocks(
  run: Run,
  *,
  inputs: int = 4,
  outputs: int = 4,
  allocate: str = 'uniform',
  retraining: str = 'llr',
) -> list[Segment]:
  """Prunes once, whole blocks of so many inputs and outputs."""
  schedules.check_steps(inputs=inputs, outputs=outputs)
  pattern = patterns.blocks(
    (inputs, outputs),
    run.config.sparsity,
    plan.choose('allocate', allocate, plan.ALLOCATIONS),
  )
  pruner = ong_jax.one_shot(scores.magnitude, pattern=pattern)
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


def _reference_set(path: Any, leaf: Any) -> bool:
  """All kernels but the classifier and the projections of shortcuts."""
  left_out = ('linear', 'shortcut_conv')
  names = selection.name_of(path).split('/')
  return selection.is_kernel(path, leaf) and not set(left_out) & set(names)
