"""Learning rates: of training, and of retraining after pruning.

A rate is a fraction of the peak over the steps of a segment. The retraining
schedules are those that BIMP's framework compares. They look back at the
original training of the network: T steps with a peak of 1, for which retraining
has T_rt steps.

References:
  Zimmer et al., How I learned to stop worrying and love retraining, 2023,
  arXiv:2111.00843.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import optax

from experiments.config import Config
from experiments.metrics import Drop

_WARMUP = 0.1  # Fraction of the retraining steps.


class Rate(NamedTuple):
  """A learning rate over a segment."""

  shape: optax.Schedule  # Step of the segment -> fraction of the peak.
  # What pruning took from the network -> fraction of the config's peak.
  adapt: Callable[[Drop], float] = lambda drop: 1.0


def training(config: Config, num_steps: int) -> Rate:
  """Rises linearly to the peak, then decays to 0.

  Args:
    config: says how long it rises, and how it decays.
    num_steps: that the schedule spans.

  Example:
    >>> rate = training(Config(warmup_fraction=0.2), num_steps=10)
    >>> [round(float(rate.shape(step)), 3) for step in (0, 1, 2, 6, 10)]
    [0.0, 0.5, 1.0, 0.5, 0.0]
  """
  warmup = warmup_steps(config, num_steps)
  rest = max(1, num_steps - warmup)
  decay = {
    'linear': optax.linear_schedule(1, 0, rest),
    'cosine': optax.cosine_decay_schedule(1, rest),
  }[config.schedule]
  rise = optax.linear_schedule(0, 1, max(1, warmup))
  return Rate(optax.join_schedules([rise, decay], [warmup]))


def warmup_steps(config: Config, num_steps: int) -> int:
  """Returns for how many steps the rate of training rises.

  Example:
    >>> warmup_steps(Config(warmup_fraction=0.2), 10)
    2
  """
  return round(config.warmup_fraction * num_steps)


def ft(config: Config, num_steps: int, original_steps: int) -> Rate:
  """Fine-tuning: stays at the last rate of the original training.

  A schedule that decays to 0 leaves next to nothing of it.

  References:
    Han et al., Learning both weights and connections for efficient neural
    networks, 2015, arXiv:1506.02626.

  Example:
    >>> float(ft(Config(warmup_fraction=0), 10, original_steps=4).shape(0))
    0.25
  """
  del num_steps
  return Rate(lambda step: _last(config, original_steps))


def lrw(config: Config, num_steps: int, original_steps: int) -> Rate:
  """Learning-rate rewinding: replays the last steps of the original training.

  References:
    Renda et al., Comparing rewinding and fine-tuning in neural network pruning,
    2020, arXiv:2003.02389.

  Example:
    >>> rate = lrw(Config(warmup_fraction=0), 1, original_steps=4)
    >>> float(rate.shape(0))
    0.25
  """
  if num_steps > original_steps:
    raise ValueError(
      f'`retraining`=lrw replays the original training, whose {original_steps} '
      f'steps are fewer than the {num_steps} of retraining. Train longer, '
      'retrain shorter, or take llr.'
    )
  original = training(config, original_steps).shape
  return Rate(lambda step: original(step + original_steps - num_steps))


def slr(config: Config, num_steps: int, original_steps: int) -> Rate:
  """Scaled learning-rate restarts: the original schedule, compressed.

  References:
    Le and Hua, Network pruning that matters: a case study on retraining
    variants, 2021, arXiv:2105.03193.

  Example:
    >>> float(slr(Config(warmup_fraction=0), 10, original_steps=90).shape(5.5))
    0.5
  """
  original = training(config, original_steps).shape
  risen = warmup_steps(config, original_steps)
  return Rate(
    _warmed_up(
      num_steps,
      lambda part: original(jnp.maximum(part * original_steps, risen)),
    )
  )


def clr(config: Config, num_steps: int, original_steps: int) -> Rate:
  """Cyclic restarts: a cosine from the peak to the last original rate.

  References:
    Le and Hua, Network pruning that matters: a case study on retraining
    variants, 2021, arXiv:2105.03193.

  Example:
    >>> rate = clr(Config(warmup_fraction=0), 10, original_steps=5)
    >>> round(float(rate.shape(5.5)), 3)  # Halfway between 1 and 1/5.
    0.6
  """
  low = _last(config, original_steps)
  return Rate(
    _warmed_up(
      num_steps,
      lambda part: low + (1 - low) * (1 + jnp.cos(jnp.pi * part)) / 2,
    )
  )


def llr(config: Config, num_steps: int, original_steps: int) -> Rate:
  """Linear restarts: from the peak to 0.

  Example:
    >>> rate = llr(Config(), 10, original_steps=200)
    >>> [round(float(rate.shape(step)), 3) for step in (0, 1, 5.5, 10)]
    [0.0, 1.0, 0.5, 0.0]
  """
  del config, original_steps
  return Rate(_warmed_up(num_steps, lambda part: 1 - part))


def allr(config: Config, num_steps: int, original_steps: int) -> Rate:
  """Adaptive linear restarts: the more pruning took away, the higher the peak.

  As `llr`, from the peak times rho / sqrt(p), clipped to [T_rt / T, 1]. Pruning
  took the fraction p of the weights that were left, and the share rho of their
  norm. The authors' code has the norm of all parameters in rho, BatchNorm's
  included; here it is that of the prunable weights, of which p is the share,
  so that rho / sqrt(p) <= 1 if the smallest were pruned.

  Example:
    >>> rate = allr(Config(), 10, original_steps=100)
    >>> rate.adapt(Drop(100, 75, norm_before=1.0, norm_after=1.0))
    0.1
  """
  floor = min(num_steps / original_steps, 1)

  def adapt(drop):
    if not drop.fraction_pruned:
      return floor
    wanted = drop.relative_norm_drop / math.sqrt(drop.fraction_pruned)
    return min(max(wanted, floor), 1)

  return llr(config, num_steps, original_steps)._replace(adapt=adapt)


RETRAINING = {f.__name__: f for f in (ft, lrw, slr, clr, llr, allr)}


def _last(config: Config, original_steps: int) -> float:
  return float(training(config, original_steps).shape(original_steps - 1))


def _warmed_up(num_steps: int, decay: Callable) -> optax.Schedule:
  """Half a cosine from 0 to 1, then `decay` of the part of what remains."""
  warmup = round(_WARMUP * num_steps)

  def shape(step):
    rise = (1 - jnp.cos(jnp.pi * step / max(warmup, 1))) / 2
    part = (step - warmup) / max(num_steps - warmup, 1)
    return jnp.where(step < warmup, rise, decay(part))

  return shape
