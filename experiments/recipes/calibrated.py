"""Methods that prune once, by what data say; as segments."""

import functools
from typing import Any

import ong_jax
from experiments import outset, plan
from experiments.plan import Prune, Run
from ong_jax import scores
from ong_jax.calibrated import gradient_flow, sensitivity

_TEMPERATURE = 200.0  # Of the logits for GraSP, as in its paper.


def _ten(run: Run) -> int:
  """Returns ten batches, or those of an epoch."""
  return min(10, run.steps_per_epoch)


@outset.compared
def snip(run: Run, *, batches: int = 1, allocate: str = 'pooled') -> Prune:
  """Prunes by connection sensitivity."""
  measure = sensitivity(run.calibration.loss, run.calibration.batches(batches))
  return _by_measure(run, measure, allocate)


@outset.compared
def grasp(run: Run, *, batches: int = 1, allocate: str = 'pooled') -> Prune:
  """Prunes by what preserves the gradient's norm."""
  loss = functools.partial(run.calibration.loss, temperature=_TEMPERATURE)
  measure = gradient_flow(loss, run.calibration.batches(batches))
  return _by_measure(run, measure, allocate)


@outset.compared
def synflow(run: Run, *, rounds: int = 100, allocate: str = 'pooled') -> Prune:
  """Prunes by synaptic flow, in rounds."""
  pruner = ong_jax.synflow(
    run.calibration.flow,
    sparsity=run.config.sparsity,
    rounds=rounds,
    allocate=plan.choose('allocate', allocate, plan.ALLOCATIONS),
  )
  return plan.by(pruner)


@outset.retrained
def wanda(run: Run, *, batches: int = _ten, m: int = 0) -> Prune:
  """Prunes by weights and activations; of every m inputs, if it is not 0."""
  pruner = ong_jax.wanda(
    run.calibration.logits, run.calibration.batches(batches), **_budget(run, m)
  )
  return plan.by(pruner)


@outset.retrained
def sparsegpt(
  run: Run, *, batches: int = _ten, m: int = 0, damping: float = 0.01
) -> Prune:
  """Prunes and updates, layer by layer; of every m inputs, if it is not 0."""
  prune = ong_jax.sparsegpt(
    run.calibration.logits,
    run.calibration.batches(batches),
    damping=damping,
    **_budget(run, m),
  )
  return lambda params, mask: prune(params)


def _budget(run: Run, m: int) -> dict[str, Any]:
  if m:
    return {'n_of_m': (plan.kept_of(run, m), m)}
  return {'sparsity': run.config.sparsity}


def _by_measure(run: Run, measure: Any, allocate: str) -> Prune:
  pruner = ong_jax.one_shot(
    scores.identity,
    run.config.sparsity,
    allocate=plan.choose('allocate', allocate, plan.ALLOCATIONS),
    measure=measure,
  )
  return plan.by(pruner)
