"""A run as a list of segments, and the parts that recipes share."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

import ong_jax
from experiments.calibration import Calibration
from experiments.config import Config, check_choice
from experiments.learning_rates import RETRAINING, Rate, training
from ong_jax import SparseMethod, allocation, schedules
from ong_jax.costs import Costs
from ong_jax.types import Mask, Params, Pruner

ALLOCATIONS = {
  f.__name__: f for f in (allocation.pooled, allocation.uniform, allocation.erk)
}


Prune = Callable[[Params, Mask | None], tuple[Params, Mask]]


class Segment(NamedTuple):
  """A part of a run: so many steps of one method, with a fresh optimizer.

  It begins with what the segment before finished with: params and a mask.
  """

  steps: int
  method: Callable[[Mask | None], SparseMethod]  # Of the mask at the beginning.
  rate: Rate
  # (params, mask) -> those at the beginning, else they are the last ones. The
  # params are not masked yet, and may be others than were given.
  prune: Prune | None = None
  keep_at: int | None = None  # The step whose weights are kept for rewinding.
  rewind: bool = False  # Whether to begin with those.
  # Whether what trains is not what is deployed: if a run ends so, BatchNorm is
  # estimated anew.
  soft: bool = False
  latent: bool = False  # Whether what is pruned lives on, behind the mask.
  samples: int = 1  # A step, of what the method draws at random.
  # Masks to draw at the end, of which the best on training images is kept; 0
  # leaves the choice to the method.
  draws: int = 0


class Run(NamedTuple):
  """What a recipe reads to make segments."""

  config: Config
  steps_per_epoch: int
  calibration: Calibration | None = None  # Data to look at before training.
  names: Any = None  # Of the groups of channels: see `ong_jax.channels`.
  costs: Callable[[str], Costs] | None = None  # By 'weights', 'macs', ...
  # Key -> (params, statistics), as at first.
  draw: Callable[[jax.Array], tuple[Params, Any]] | None = None

  @property
  def steps(self) -> int:
    """Of sparse training."""
    return round(self.config.epochs * self.steps_per_epoch)

  @property
  def dense_steps(self) -> int:
    """Before it."""
    return round(self.config.dense_epochs * self.steps_per_epoch)

  @property
  def trained(self) -> bool:
    """Whether sparse training begins with a trained network."""
    return self.dense_steps > 0 or self.config.init_from is not None

  @property
  def original_steps(self) -> int:
    """Of the training that retraining looks back at."""
    epochs = self.config.dense_epochs or self.config.original_epochs or 0
    return round(epochs * self.steps_per_epoch)


def an_epoch(run: Run) -> int:
  """Returns the steps of an epoch, or an eighth of a run that is shorter.

  Example:
    >>> from experiments.config import Config
    >>> an_epoch(Run(Config(epochs=2), steps_per_epoch=40))
    10
  """
  return max(1, min(run.steps_per_epoch, run.steps // 8))


def by(pruner: Pruner) -> Prune:
  """Prunes all of the weights by one pruner, whatever was pruned before."""
  return lambda params, mask: (params, pruner(params))


def dense_segment(run: Run, num_steps: int) -> Segment:
  """Trains under a mask that keeps everything."""
  everything = ong_jax.magnitude(sparsity=0)
  return Segment(
    num_steps,
    ong_jax.static,
    training(run.config, num_steps),
    prune=by(everything),
  )


def after_dense(run: Run) -> list[Segment]:
  """Returns the dense training that comes before, if there is any."""
  return [dense_segment(run, run.dense_steps)] if run.dense_steps else []


def throughout(
  run: Run, method: ong_jax.SparseMethod, num_steps: int | None = None
) -> list[Segment]:
  """Trains by one method."""
  num_steps = run.steps if num_steps is None else num_steps
  return after_dense(run) + [
    Segment(num_steps, lambda mask: method, training(run.config, num_steps))
  ]


def then_retrain(
  run: Run,
  method: Callable[[int], ong_jax.SparseMethod],
  fraction: float,
  retraining: str,
) -> list[Segment]:
  """Trains by a method that prunes in the end, then under its mask."""
  check_fraction('retrain', fraction)
  num_steps = run.steps - round(fraction * run.steps)
  segments = throughout(run, method(num_steps), num_steps)
  rest = run.steps - num_steps
  rate = retraining_rate(run, retraining, rest, num_steps)
  if not rest:
    return segments
  return [*segments, Segment(rest, ong_jax.static, rate)]


def retraining_rate(
  run: Run, name: str, num_steps: int, original_steps: int
) -> Rate:
  """Makes the retraining schedule of this name."""
  make = choose('retraining', name, RETRAINING)
  return make(run.config, num_steps, max(original_steps, 1))


def kept_of(run: Run, m: int) -> int:
  """Returns how many of every m weights the sparsity keeps.

  Raises:
    ValueError: no whole number, or none, or all.

  Example:
    >>> kept_of(Run(Config(sparsity=0.75), steps_per_epoch=1), m=8)
    2
  """
  schedules.check_steps(m=m)
  n = round((1 - run.config.sparsity) * m)
  if not 0 < n < m or abs(n - (1 - run.config.sparsity) * m) > 1e-4:
    known = ', '.join(f'{1 - n / m:.6g}' for n in range(m - 1, 0, -1))
    raise ValueError(
      f'`sparsity`={run.config.sparsity} keeps no whole number of every {m} '
      f'weights. Take one of {known}, or another `m`.'
    )
  return n


def choose(name: str, value: str, known: dict[str, Any]) -> Any:
  """Looks an option up, or raises a `ValueError` with the nearest."""
  check_choice(name, value, known)
  return known[value]


def check_fraction(name: str, value: float) -> None:
  """Raises a `ValueError` unless the value lies in [0, 1)."""
  if not 0 <= value < 1:
    raise ValueError(f'`{name}` must lie in [0, 1), got {value}.')
