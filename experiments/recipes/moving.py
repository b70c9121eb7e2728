"""Methods whose mask moves as they train, as segments."""

import jax

import ong_jax
from experiments import plan
from experiments.config import check_choice
from experiments.plan import Run, Segment
from experiments.recipes import once
from ong_jax import patterns, schedules
from ong_jax.patterns import Pattern

# Saliencies that are high where the factorization is, also of weights that are
# 0. (`residual` is the same there; of rank 1, `component` is `recon`.)
_GROWTHS = ('recon', 'component')


def _hundred(run: Run) -> int:
  """The paper's 100 steps, or fewer: short runs have 30 updates, too.

  But no fewer than four, of which one updates the mask and trains nothing.
  """
  num_steps = int(0.75 * run.steps)
  return max(1, min(100, num_steps, max(4, num_steps // 30)))


def set_(
  run: Run,
  *,
  interval: int = plan.an_epoch,
  fraction: float = 0.3,
  until: float = 0.75,
  allocate: str = 'erk',
  first: str = 'random',
  grow: str = 'random',
  rank: int = 1,
) -> list[Segment]:
  """Drops the smallest weights and grows others, at random or by a score.

  Args:
    run: that is planned.
    interval: steps between two updates of the mask.
    fraction: of the weights that the first update replaces; it falls as half a
      cosine. 0 is training under the first mask.
    until: the fraction of the run that has updates.
    allocate: how the budget is split; `pooled` lets densities of layers drift.
    first: how the mask begins: at `random`, by `magnitude` or by a saliency of
      a factorization.
    grow: `random`, or the saliency of a factorization of what is kept.
    rank: of these factorizations.
  """
  pattern = _pattern(run, allocate)
  check_choice('first', first, ('random', 'magnitude', *once.SALIENCIES))
  check_choice('grow', grow, ('random', *_GROWTHS))
  method = ong_jax.set_(
    jax.random.key(run.config.seed),
    pattern,
    interval=interval,
    fractions=_fractions(run, interval, fraction, until),
    first=None
    if first == 'random'
    else ong_jax.one_shot(once.criterion(first, rank), pattern=pattern),
    grow=None if grow == 'random' else once.criterion(grow, rank),
  )
  return plan.throughout(run, method)


def rigl(
  run: Run,
  *,
  interval: int = _hundred,
  fraction: float = 0.3,
  until: float = 0.75,
  average: int = 1,
  allocate: str = 'erk',
) -> list[Segment]:
  """Drops the smallest weights and grows where the gradient is largest.

  Args:
    run: that is planned.
    interval, fraction, until, allocate: as for `set_`.
    average: steps whose gradients are averaged for an update.
  """
  method = ong_jax.rigl(
    jax.random.key(run.config.seed),
    _pattern(run, allocate),
    interval=interval,
    fractions=_fractions(run, interval, fraction, until),
    average=average,
  )
  return plan.throughout(run, method)


def top_kast(
  run: Run,
  *,
  exploration: float = 0.1,
  interval: int = 1,
  penalty: float = 1e-4,
  allocate: str = 'uniform',
) -> list[Segment]:
  """Runs on the largest weights, and trains a few more.

  Args:
    run: that is planned.
    exploration: the fraction of all prunable weights that train, but do not
      run; all the others, if there are fewer.
    interval: steps between two choices of both.
    penalty: on what runs; on what explores it is divided by the density.
    allocate: how both budgets are split.
  """
  if not 0 <= exploration <= 1:
    raise ValueError(f'`exploration` must lie in [0, 1], got {exploration}.')
  sparsity = run.config.sparsity
  method = ong_jax.top_kast(
    sparsity=sparsity,
    backward_sparsity=max(0.0, sparsity - exploration),
    interval=interval,
    penalty=penalty,
    allocate=plan.choose('allocate', allocate, plan.ALLOCATIONS),
  )
  return plan.throughout(run, method)


def ac_dc(run: Run, *, allocate: str = 'pooled') -> list[Segment]:
  """Prunes and restores in turns, at the paper's fractions of the run."""
  method = ong_jax.ac_dc(
    sparsity=run.config.sparsity,
    boundaries=_boundaries(run.steps),
    allocate=plan.choose('allocate', allocate, plan.ALLOCATIONS),
  )
  return plan.throughout(run, method)


def _pattern(run: Run, allocate: str) -> Pattern:
  """That of single weights."""
  allocation = plan.choose('allocate', allocate, plan.ALLOCATIONS)
  return patterns.unstructured(run.config.sparsity, allocation)


def _fractions(
  run: Run, interval: int, fraction: float, until: float
) -> list[float]:
  """One for each update in this part of the run."""
  schedules.check_steps(interval=interval)
  plan.check_fraction('fraction', fraction)
  plan.check_fraction('until', until)
  num_updates = int(until * run.steps) // interval
  if not num_updates:
    raise ValueError(
      f'`interval`={interval} must be at most the {int(until * run.steps)} '
      'steps that `epochs` and `until` give to updates of the mask.'
    )
  return schedules.cosine_decay(fraction, num_updates) if fraction else []


# In twentieths of the run: of the paper's 100 epochs it prunes at 10, 20, ...,
# 70, restores at 15, 25, ..., 75, and prunes for good at 85.
_TURNS = (*range(2, 16), 17)


def _boundaries(num_steps: int) -> list[int]:
  """Scales the turns of AC/DC to a run; phases last a step at least.

  Example:
    >>> _boundaries(100)
    [10, 15, 20, 25, 30, 35, 40, 45, 50, 55, 60, 65, 70, 75, 85]
  """
  if num_steps <= len(_TURNS):
    raise ValueError(
      f'`epochs` gives {num_steps} steps, and AC/DC has {len(_TURNS) + 1} '
      f'phases. Train for at least {len(_TURNS) + 1} steps.'
    )
  found, latest = [], num_steps - len(_TURNS)
  for i, twentieths in enumerate(_TURNS):
    earliest = found[-1] + 1 if found else 1
    step = max(earliest, twentieths * num_steps // 20)
    found.append(min(step, latest + i))
  return found
