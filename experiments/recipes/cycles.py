"""Cycles of pruning and training: IMP, BIMP, rewinding, as segments."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

import ong_jax
from experiments import plan
from experiments.learning_rates import RETRAINING, training
from experiments.plan import Run, Segment
from ong_jax import schedules, scores
from ong_jax.types import Mask, Params


def imp(
  run: Run,
  *,
  phases: int = 3,
  retraining: str = 'llr',
  allocate: str = 'pooled',
) -> list[Segment]:
  """Prunes a trained network and retrains it, phase after phase.

  Each phase removes the same share of the weights that are left.
  """
  if not run.trained:
    raise ValueError(
      f'`{run.config.method}` prunes a trained network: pass `dense_epochs` or '
      '`init_from`, or take bimp, which trains it within its budget.'
    )
  return plan.after_dense(run) + _cycles(
    run, run.steps, run.original_steps, phases, retraining, allocate
  )


def bimp(
  run: Run,
  *,
  budget: float = 0.5,
  phases: int = 3,
  retraining: str = 'allr',
  allocate: str = 'pooled',
) -> list[Segment]:
  """IMP whose dense training is part of the budget: a fraction of the steps.

  A network that was trained before (`dense_epochs`, `init_from`) has had it.
  """
  plan.check_fraction('budget', budget)
  if run.trained:
    return imp(run, phases=phases, retraining=retraining, allocate=allocate)
  num_steps = round(budget * run.steps)
  cycles = _cycles(
    run, run.steps - num_steps, num_steps, phases, retraining, allocate
  )
  return [plan.dense_segment(run, num_steps), *cycles]


def rewinding(
  run: Run, *, phases: int = 3, rewind: float = 0.0, allocate: str = 'pooled'
) -> list[Segment]:
  """Prunes by the trained weights, and trains again from early ones.

  Args:
    run: that is planned.
    phases: of pruning and training again.
    rewind: the fraction of the first training that is not repeated. The rates
      of the rest are replayed.
    allocate: how each budget is split.
  """
  schedules.check_steps(phases=phases)
  plan.check_fraction('rewind', rewind)
  if run.trained:
    raise ValueError(
      f'`{run.config.method}` rewinds a network to weights that it has trained '
      'itself: leave out `dense_epochs` and `init_from`.'
    )
  repeated = int((1 - rewind) * run.steps / (1 + phases * (1 - rewind)))
  first = run.steps - phases * repeated
  if rewind:
    rate = RETRAINING['lrw'](run.config, repeated, first)
  else:
    rate = training(run.config, repeated)
  sparsities = schedules.geometric(run.config.sparsity, phases)[1:]
  return [
    plan.dense_segment(run, first)._replace(
      keep_at=first - repeated if rewind else 0
    ),
    *(
      Segment(
        repeated,
        ong_jax.static,
        rate,
        prune=_among_survivors(sparsity, allocate),
        rewind=True,
      )
      for sparsity in sparsities
    ),
  ]


def _cycles(
  run: Run,
  num_steps: int,
  original_steps: int,
  phases: int,
  retraining: str,
  allocate: str,
) -> list[Segment]:
  """Cycles of pruning and retraining; the last one takes the odd steps."""
  schedules.check_steps(phases=phases)
  if not num_steps:
    phases = 1  # Without retraining, they would prune the same.
  if 0 < num_steps < phases:
    raise ValueError(
      f'`phases`={phases} must not exceed the {num_steps} steps of retraining.'
    )
  sparsities = schedules.geometric(run.config.sparsity, phases)[1:]
  lengths = [num_steps // phases] * phases
  lengths[-1] += num_steps % phases
  rates = {  # Phases that share one are compiled once.
    length: plan.retraining_rate(run, retraining, length, original_steps)
    for length in set(lengths)
  }
  return [
    Segment(
      length,
      ong_jax.static,
      rates[length],
      prune=_among_survivors(sparsity, allocate),
    )
    for length, sparsity in zip(lengths, sparsities)
  ]


def _among_survivors(
  sparsity: float, allocate: str
) -> Callable[[Params, Mask | None], tuple[Params, Mask]]:
  """Prunes further, by magnitude, among what is left.

  Unless an allocation by leaf gives one of them more than it had: rounding may.
  """

  split = plan.choose('allocate', allocate, plan.ALLOCATIONS)

  def prune(params, mask):
    def score(weights):
      ranked = scores.magnitude(weights)
      if mask is None:
        return ranked
      return jax.tree.map(lambda x, m: jnp.where(m, x, -1), ranked, mask)

    return params, ong_jax.one_shot(score, sparsity, allocate=split)(params)

  return prune
