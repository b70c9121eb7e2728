"""What methods share that rewire a sparse network as it trains."""

import numbers
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ong_jax import devices, masks, moves, schedules, scores, selection, values
from ong_jax.checks import (
  check_function,
  check_key,
  check_list,
  check_number,
)
from ong_jax.patterns import Pattern
from ong_jax.states import SparseState, first_mask, remask
from ong_jax.types import Mask, Params, Predicate, Pruner, Score

_SINGLE_WEIGHTS = Pattern(lambda: None)  # Its other fields are the defaults.


class Rewiring(NamedTuple):
  """When a mask is updated, and how; see `make_rewiring`."""

  key: jax.Array
  pattern: Pattern
  interval: int
  fractions: list[float]
  first: Mask | Pruner | None
  prunable: Predicate
  grow: Score | None = None

  def begin(self, params: Params) -> Mask:
    """Makes the first mask: a pruner.

    It refuses now what would not fit when it is time for an update.

    Example:
      >>> from ong_jax import patterns
      >>> pattern = patterns.n_of_m(1, 2)
      >>> wiring = make_rewiring(jax.random.key(0), pattern, 9, [0.3])
      >>> int(wiring.begin({'kernel': jnp.ones((4, 1))})['kernel'].sum())
      2
    """
    if self.first is None:
      weights = selection.select(params, self.prunable)
      mask = self.pattern.choose(scores.random(self.key)(weights))
      mask = devices.split_like(weights, mask)
    else:
      mask = first_mask(self.first, params)
    if jax.tree.leaves(params):  # None when `optax.tree.map_params` probes.
      masks.check_like(params, mask)
      state = SparseState(jnp.zeros([], jnp.int32), mask, ())
      jax.eval_shape(self._moved, params, state)
    return mask

  def updates_within(
    self, count: jax.typing.ArrayLike, num_steps: int = 1
  ) -> jax.Array:
    """Tells whether a step is among so many that end with an update.

    Args:
      count: of steps, this one included; may be traced.
      num_steps: 1 asks whether this step ends with an update.

    Example:
      >>> from ong_jax import patterns
      >>> pattern = patterns.unstructured(0.5)
      >>> wiring = make_rewiring(jax.random.key(0), pattern, 3, [0.3, 0.1])
      >>> [i for i in range(1, 20) if wiring.updates_within(i)]
      [3, 6]
      >>> [i for i in range(1, 20) if wiring.updates_within(i, 2)]
      [2, 3, 5, 6]
    """
    count = jnp.asarray(count)
    last = self.interval * len(self.fractions)
    return (-count % self.interval < num_steps) & (count <= last)

  def renew(
    self, params: Params, state: SparseState, gains: Any = None
  ) -> SparseState:
    """Drops the smallest weights and grows others, if it is time.

    Args:
      params: after the step.
      state: after the step; its count includes it.
      gains: floats of at least 0 for all that the mask has: the highest grow.
        If none are given, they are what `grow` scores, if there is such a
        score, and else growth is at random.

    Returns:
      The state with its new mask, and moments that are 0 where it changed.

    Example:
      >>> from ong_jax import patterns
      >>> pattern = patterns.unstructured(0.5)
      >>> wiring = make_rewiring(jax.random.key(0), pattern, 1, [0.5])
      >>> params = {'kernel': jnp.array([4.0, 3.0, 0.0, 0.0])}
      >>> mask = {'kernel': jnp.array([True, True, False, False])}
      >>> state = SparseState(jnp.array(1), mask, ())
      >>> gains = {'kernel': jnp.array([5.0, 9.0, 1.0, 2.0])}
      >>> wiring.renew(params, state, gains).mask
      {'kernel': Array([ True, False, False,  True], dtype=bool)}
    """
    mask = jax.lax.cond(
      self.updates_within(state.count),
      lambda: self._moved(params, state, gains),
      lambda: state.mask,
    )
    return remask(state, mask)

  def _moved(self, params, state, gains=None):
    weights = where_masked(params, state.mask)
    sizes = scores.magnitude(weights)
    if gains is None:
      gains = self._gains(weights, jax.tree.map(jnp.zeros_like, sizes))
    key = jax.random.fold_in(self.key, state.count)
    cuts = [*self.fractions, 0.0]
    row = state.count // self.interval - 1
    move = moves.replace(key, self.pattern, cuts, row)
    return move(sizes, gains, state.mask)

  def _gains(self, weights, zeros):
    if self.grow is None:
      return zeros
    gains = self.grow(weights)
    values.check_shapes('grow', gains, weights)
    return gains


def make_rewiring(
  key: jax.Array,
  pattern: Pattern,
  interval: int,
  fractions: Sequence[float],
  first: Mask | Pruner | None = None,
  prunable: Predicate = selection.is_kernel,
  grow: Score | None = None,
) -> Rewiring:
  """Checks and makes a plan of updates of a mask.

  Args:
    key: of all that is drawn.
    pattern: of single weights.
    interval: steps between two updates, and before the first.
    fractions: of the budget that each update replaces, in [0, 1).
    first: the mask to begin with, or the pruner that makes it; by default a
      random one of the pattern.
    prunable: `(path, leaf) -> bool`, for that random mask.
    grow: a score, finite and at least 0, of the weights, of which those that
      are pruned are 0. The highest come.

  Raises:
    ValueError, TypeError: an argument is not what it must be.

  Example:
    >>> from ong_jax import patterns
    >>> pattern = patterns.unstructured(0.5)
    >>> make_rewiring(jax.random.key(0), pattern, 100, [0.3, 0.1]).fractions
    [0.3, 0.1]
  """
  if not isinstance(pattern, Pattern):
    raise TypeError(
      '`pattern` must be one of `ong_jax.patterns`, such as '
      f'`patterns.unstructured(0.9)`; got {pattern!r}.'
    )
  if pattern[1:] != _SINGLE_WEIGHTS[1:]:
    raise ValueError(
      '`pattern` must be of single weights, as `patterns.unstructured` and '
      '`n_of_m` are: a whole channel that is 0 has no gradient to grow by, and '
      'none to train with. `iee` moves channels.'
    )
  check_key(key)
  if grow is not None:
    check_function('grow', grow, 'one of weights')
  schedules.check_steps(interval=interval)
  if isinstance(fractions, numbers.Real):
    raise TypeError(
      '`fractions` must have a number for each update of the mask, such as '
      f'`schedules.cosine_decay(0.3, num_updates)`; got {fractions}.'
    )
  check_list('fractions', fractions)
  fractions = list(fractions)
  for fraction in fractions:
    check_number('fractions', fraction)
  for fraction in (fractions := [float(x) for x in fractions]):
    if not 0 <= fraction < 1:
      raise ValueError(f'`fractions` must lie in [0, 1); got {fraction}.')
  return Rewiring(key, pattern, interval, fractions, first, prunable, grow)


def where_masked(tree: Params, mask: Mask) -> Params:
  """Replaces what has no mask by `None`.

  Example:
    >>> tree = {'kernel': jnp.ones(1), 'bias': jnp.ones(1)}
    >>> where_masked(tree, {'kernel': jnp.array([True]), 'bias': None})
    {'bias': None, 'kernel': Array([1.], dtype=float32)}
  """
  return jax.tree.map(lambda x, m: None if m is None else x, tree, mask)
