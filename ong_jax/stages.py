"""When a method that goes through stages does what: arithmetic on a count."""

import numbers
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ong_jax import schedules


class Now(NamedTuple):
  """Where in its cycle a step is."""

  cycle: jax.Array  # [] int32
  exploring: jax.Array  # [] bool, as all below.
  observing: jax.Array  # In a stage whose end prunes or grows.
  prunes: jax.Array  # At the end of the step.
  grows: jax.Array


class Cycles(NamedTuple):
  """Cycles of three stages that take steps; see `make_cycles`."""

  fractions: list[float]
  estimate: int
  improve: int
  explore: int

  def at(self, count: jax.typing.ArrayLike) -> Now:
    """Returns where the step is that comes after `count` others.

    Example:
      >>> cycles = Cycles([0.3], estimate=2, improve=1, explore=1)
      >>> [bool(cycles.at(i).exploring) for i in range(8)]
      [False, False, False, True, False, False, False, False]
    """
    before = self.estimate + self.improve
    cycle, step = jnp.divmod(count, before + self.explore)
    moves = cycle < len(self.fractions)
    exploring = moves & (step >= before)
    return Now(
      cycle,
      exploring,
      observing=exploring | (moves & (step < self.estimate)),
      prunes=moves & (step == self.estimate - 1),
      grows=exploring & (step == before + self.explore - 1),
    )


def make_cycles(
  fractions: Sequence[float], estimate: int, improve: int, explore: int
) -> Cycles:
  """Checks and makes cycles of estimating, improving and exploring.

  Args:
    fractions: that each cycle moves, in [0, 1).
    estimate: steps, at least 1; then something is pruned.
    improve: steps, at least 0.
    explore: steps, at least 0, and 1 if anything is moved; then it grows.

  Example:
    >>> make_cycles([0.3, 0.1], 150, 150, 150).fractions
    [0.3, 0.1]
  """
  if isinstance(fractions, numbers.Real):
    raise TypeError(
      f'`fractions` must have a number for each cycle; got {fractions}.'
    )
  for fraction in fractions:
    if not 0 <= fraction < 1:
      raise ValueError(f'`fractions` must lie in [0, 1); got {fraction}.')
  schedules.check_steps(estimate=estimate)
  for name, steps in (('improve', improve), ('explore', explore)):
    if not isinstance(steps, numbers.Integral) or steps < 0:
      raise ValueError(
        f'`{name}` must be an integer of at least 0; got {steps!r}.'
      )
  if any(fractions) and not explore:
    raise ValueError(
      '`explore`=0 gives what is pruned no chance, and growing would go by '
      'chance: let it explore, or make all `fractions` 0.'
    )
  return Cycles([float(x) for x in fractions], estimate, improve, explore)
