"""Methods that prune once, as segments; and none at all."""

from collections.abc import Callable
from typing import Any

import jax

import ong_jax
from experiments import outset, plan
from experiments.config import check_choice
from experiments.plan import Prune, Run, Segment
from ong_jax import (
  activations,
  calibrated,
  nmf,
  patterns,
  saliency,
  schedules,
  scores,
  selection,
  starts,
)
from ong_jax.types import Measure, Predicate, Score

SALIENCIES = {
  f.__name__: f
  for f in (
    saliency.residual,
    saliency.recon,
    saliency.recon_mag,
    saliency.tempered,
    saliency.signed_residual,
    saliency.rel_residual,
    saliency.component,
  )
}
SOLVERS = {'hals': nmf.hals, 'multiplicative': nmf.multiplicative, 'kl': nmf.kl}
STARTS = {
  'random': starts.random_start,
  'nndsvd': starts.nndsvd,
  'nndsvda': starts.nndsvda,
}
# What is factorized: (run, batches to look at, which leaves) -> measure.
MEASURES: dict[str, Callable[[Run, int, Predicate], Measure | None]] = {
  'weights': lambda run, batches, prunable: None,
  'sensitivity': lambda run, batches, prunable: calibrated.sensitivity(
    run.calibration.loss, run.calibration.batches(batches), prunable
  ),
  'activations': lambda run, batches, prunable: activations.weighted_magnitude(
    run.calibration.logits, run.calibration.batches(batches), prunable
  ),
}

# Says nothing of the training seed: the same weights give the same mask.
NMF_KEY = 0


def criterion(name: str, rank: int) -> Score:
  """Returns magnitude, or a saliency of the weights' factorization."""
  check_choice('criterion', name, ('magnitude', *SALIENCIES))
  if name == 'magnitude':
    return scores.magnitude
  return scores.ong(
    jax.random.key(NMF_KEY), saliency=SALIENCIES[name], rank=rank
  )


def dense(run: Run) -> list[Segment]:
  """Trains without pruning, for the whole budget."""
  return [plan.dense_segment(run, run.dense_steps + run.steps)]


@outset.compared
def ong(
  run: Run,
  *,
  saliency: str = 'tempered',
  rank: int = 1,
  solver: str = 'hals',
  start: str = 'random',
  restarts: int = 1,
  measure: str = 'weights',
  batches: int = 1,
  allocate: str = 'pooled',
  normalize: bool = False,
  floor: int = 0,
  input_floor: int = 0,
  all_kernels: bool = True,
) -> Prune:
  """Prunes once, by what a factorization shows.

  Args:
    run: that is planned.
    saliency, rank, solver, start, restarts: of the factorization.
    measure: what is factorized: `weights`, their `sensitivity`, |w dL/dw|, or
      weights times `activations`.
    batches: of training images that the latter two look at.
    allocate: how the budget is split among layers.
    normalize: whether scores are divided by their RMS in the layer.
    floor, input_floor: weights that every filter, and every input channel,
      keeps at least.
    all_kernels: or all but the classifier and the projections of shortcuts.
  """
  schedules.check_steps(batches=batches)
  for name, value in {'floor': floor, 'input_floor': input_floor}.items():
    if value < 0:
      raise ValueError(f'`{name}` must be at least 0, got {value}.')
  prunable = selection.is_kernel if all_kernels else _reference_set
  measured = plan.choose('measure', measure, MEASURES)
  score = scores.ong(
    jax.random.key(NMF_KEY),
    saliency=plan.choose('saliency', saliency, SALIENCIES),
    rank=rank,
    solver=plan.choose('solver', solver, SOLVERS),
    start=plan.choose('start', start, STARTS),
    restarts=restarts,
  )
  score = scores.normalized(score) if normalize else score
  score = scores.at_least(score, floor) if floor else score
  score = scores.at_least(score, input_floor, axis=-2) if input_floor else score
  pruner = ong_jax.one_shot(
    score,
    run.config.sparsity,
    allocate=plan.choose('allocate', allocate, plan.ALLOCATIONS),
    measure=measured(run, batches, prunable),
    prunable=prunable,
  )
  return plan.by(pruner)


@outset.compared
def magnitude(
  run: Run, *, allocate: str = 'pooled', normalize: bool = False
) -> Prune:
  """Prunes once, by magnitude."""
  score = scores.magnitude
  pruner = ong_jax.one_shot(
    scores.normalized(score) if normalize else score,
    run.config.sparsity,
    allocate=plan.choose('allocate', allocate, plan.ALLOCATIONS),
  )
  return plan.by(pruner)


@outset.compared
def lamp(run: Run) -> Prune:
  """Prunes once, by layer-adaptive magnitude."""
  return plan.by(ong_jax.lamp(sparsity=run.config.sparsity))


@outset.retrained
def magnitude_nm(run: Run, *, m: int = 4) -> Prune:
  """Prunes once, to as many of every m weights as the sparsity says."""
  pattern = patterns.n_of_m(plan.kept_of(run, m), m)
  return plan.by(ong_jax.one_shot(scores.magnitude, pattern=pattern))


@outset.retrained
def magnitude_blocks(
  run: Run, *, inputs: int = 4, outputs: int = 4, allocate: str = 'uniform'
) -> Prune:
  """Prunes once, whole blocks of so many inputs and outputs."""
  schedules.check_steps(inputs=inputs, outputs=outputs)
  pattern = patterns.blocks(
    (inputs, outputs),
    run.config.sparsity,
    plan.choose('allocate', allocate, plan.ALLOCATIONS),
  )
  return plan.by(ong_jax.one_shot(scores.magnitude, pattern=pattern))


@outset.compared
def random(run: Run, *, allocate: str = 'erk') -> Prune:
  """Prunes once, at random."""
  pruner = ong_jax.random(
    jax.random.key(run.config.seed),
    sparsity=run.config.sparsity,
    allocate=plan.choose('allocate', allocate, plan.ALLOCATIONS),
  )
  return plan.by(pruner)


def _reference_set(path: Any, leaf: Any) -> bool:
  """All kernels but the classifier and the projections of shortcuts."""
  left_out = ('linear', 'shortcut_conv')
  names = selection.name_of(path).split('/')
  return selection.is_kernel(path, leaf) and not set(left_out) & set(names)
