"""Iterative exploitation and exploration: enhanced saliency."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from ong_jax import masks, schedules, scores, selection, taylor
from ong_jax.method import SparseMethod, masked
from ong_jax.patterns import Pattern
from ong_jax.transforms import (
  SparseState,
  check_given,
  first_mask,
  map_like,
  state_of,
)
from ong_jax.types import Mask, Params, Predicate, Pruner, Score


class _Inner(NamedTuple):
  """What goes around the inner optimizer's state."""

  inner_state: optax.OptState
  average: taylor.Average | None  # Of what is observed in this stage.
  before: Params | None  # Values of when a weight was active last.


class _Now(NamedTuple):
  """Where in its cycle a step is."""

  cycle: jax.Array  # [] int32
  exploring: jax.Array  # [] bool, as all below.
  observing: jax.Array
  prunes: jax.Array  # At the end of the step.
  grows: jax.Array


def iee(
  first: Mask | Pruner,
  pattern: Pattern,
  *,
  fractions: Sequence[float],
  estimate: int = 150,
  improve: int = 150,
  explore: int = 150,
  score: Score = scores.magnitude,
  observe: taylor.Observe | None = None,
  regrow: Callable[[jax.Array, jax.Array], jax.Array] | None = None,
  prunable: Predicate = selection.is_kernel,
) -> SparseMethod:
  """Prunes and grows by one score, of candidates that had a chance to train.

  Active weights are trained; the others are stored. A cycle has five stages:
  1. the active weights train, and what they score is estimated;
  2. of them the lowest are pruned;
  3. the smaller network trains;
  4. all weights are in the network, but those that were active are frozen, with
     their moments, BatchNorm and all else that is no weight: what is pruned
     explores, and what it scores is estimated;
  5. of what explored, the highest are grown: the budget is met again.
  After the last cycle the mask is fixed. Frozen is exact: to the bit.

  Args:
    first: the mask to begin with, or the pruner that makes it. If its counts
      are not those of the pattern, they become it in the first cycle.
    pattern: the budget, and what competes for it: `patterns.unstructured`,
      `n_of_m`, `whole_channels`. With the allocation `pooled`, densities of
      layers drift.
    fractions: of the budget that is pruned and grown in each cycle, in [0, 1);
      their number is that of the cycles. See `schedules.exponential_decay`.
    estimate, improve, explore: steps of stages 1, 3 and 4.
    score: by which both prune and grow: of the weights at the end of stage 1
      (the network without what is pruned) and of stage 4 (the whole).
    observe: `(params, gradients) -> scores` of a batch, such as
      `taylor.weights()`. If given, `score` is of their average over the stage,
      instead of the weights.
    regrow: `(explored, before) -> values` that grown weights start with, from
      those at the end of stage 4 and those of when they were active last (of
      the outset, if never). By default they stay as explored.
    prunable: `(path, leaf) -> bool`.

  Returns:
    A `SparseMethod`. `finish` has the exact budget in stage 1, and after the
    last cycle; in between it has less. Inside `inner`, bias corrections count
    all steps, those before a moment started again included.

  References:
    Sun et al., Advancing weight and channel sparsification with enhanced
    saliency, 2025, arXiv:2502.03658. Its full text could not be read; fractions
    and what a grown weight starts with are our choice.

  Example:
    >>> from ong_jax import patterns
    >>> params = {'kernel': jnp.array([[3.0, 2.0, 1.0]])}
    >>> mask = {'kernel': jnp.array([[True, False, False]])}
    >>> method = iee(mask, patterns.unstructured(2 / 3), fractions=[1 / 2],
    ...              estimate=1, improve=0, explore=1)
    >>> tx = method.transform(optax.sgd(1.0))
    >>> opt_state = tx.init(params)
    >>> method.effective(params, opt_state)
    {'kernel': Array([[3., 0., 0.]], dtype=float32)}
  """
  fractions = [float(x) for x in fractions]
  _check(fractions, estimate, improve, explore)
  length = estimate + improve + explore

  def at(count):
    cycle, step = jnp.divmod(count, length)
    moves = cycle < len(fractions)
    exploring = moves & (step >= estimate + improve)
    return _Now(
      cycle,
      exploring,
      observing=exploring | (moves & (step < estimate)),
      prunes=moves & (step == estimate - 1),
      grows=exploring & (step == length - 1),
    )

  def choose(now, params, state):
    if observe:
      values = taylor.mean(state.inner_state.average)
    else:
      values = selection.select(_network(params, state.mask, now), prunable)
    kept = pattern.collapse(state.mask)
    ranked = jax.tree.map(  # Those that trained compete; the others stay.
      lambda s, k: jnp.where(
        k ^ now.exploring, _finite(s), jnp.where(k, jnp.inf, -jnp.inf)
      ),
      score(values),
      kept,
    )
    row = jnp.where(now.exploring, len(fractions), now.cycle)
    return pattern.expand(
      pattern.choose(ranked, [*fractions, 0.0], row), params
    )

  def transform(inner):
    inner = optax.with_extra_args_support(inner)

    def init_fn(params):
      mask = first_mask(first, params)
      masked_params = params
      if jax.tree.leaves(params):  # None when `optax.tree.map_params` probes.
        masked_params = masks.apply_mask(params, mask)
      own = _Inner(
        inner.init(masked_params),
        taylor.nothing(observe, params) if observe else None,
        jax.tree.map(jnp.copy, params) if regrow else None,
      )
      return SparseState(jnp.zeros([], jnp.int32), mask, own)

    def update_fn(updates, state, params=None, **extra_args):
      check_given(params)
      now = at(state.count)
      state = _observed(observe, updates, state, params, now)
      updates, state = _trained(inner, updates, state, params, now, extra_args)
      after = optax.apply_updates(params, updates)
      old, due = state.mask, now.prunes | now.grows
      mask = jax.lax.cond(due, lambda: choose(now, after, state), lambda: old)
      if regrow:
        updates, before = _regrown(
          regrow, updates, state, params, after, mask, now
        )
        state = _with_inner(state, before=before)
      return updates, _moved(state, mask, due)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)

  def effective(trainable, opt_state, key=None):
    if key is None:  # Deployed is what is active, also while exploring.
      return masked(trainable, opt_state)
    state = state_of(opt_state)
    return _network(trainable, state.mask, at(state.count))

  return SparseMethod(
    transform,
    effective,
    tracks_statistics=lambda state: ~at(state_of(state).count).exploring,
  )


def _network(params: Params, mask: Mask, now: _Now) -> Params:
  """Returns what runs in training: all that is active, or all there is."""
  shown = jax.tree.map(lambda m: m | now.exploring, mask)
  return masks.apply_mask(params, shown)


def _observed(observe, grads, state, params, now):
  """Adds a batch to the average of this stage."""
  if not observe:
    return state
  scores_now = observe(_network(params, state.mask, now), grads)
  average = taylor.add(state.inner_state.average, scores_now, now.observing)
  return _with_inner(state, average=average)


def _trained(inner, grads, state, params, now, extra_args):
  """Updates what trains now; all else is frozen, with its moments."""
  trains = jax.tree.map(
    lambda p, m: (
      jnp.broadcast_to(~now.exploring, p.shape)
      if m is None
      else m ^ now.exploring
    ),
    params,
    state.mask,
  )
  old = state.inner_state.inner_state
  updates, inner_state = inner.update(
    masks.apply_mask(grads, trains),
    old,
    masks.apply_mask(params, trains),
    **extra_args,
  )
  inner_state = map_like(jnp.where, trains, inner_state, old)
  state = _with_inner(state, inner_state=inner_state)
  # Not the gradients alone: momentum and decay move frozen weights, too.
  return masks.apply_mask(updates, trains), state


def _regrown(regrow, updates, state, params, after, mask, now):
  """Sets what has grown; keeps what is active, before it may be pruned."""

  def start(p, u, a, b, old, new):
    if old is None:
      return u
    return jnp.where(now.grows & new & ~old, regrow(a, b) - p, u)

  before = state.inner_state.before
  updates = jax.tree.map(
    start, params, updates, after, before, state.mask, mask
  )
  before = jax.tree.map(
    lambda a, b, m: b if m is None else jnp.where(now.prunes & m, a, b),
    after,
    before,
    state.mask,
  )
  return updates, before


def _moved(state, mask, due):
  """Replaces the mask; what has come, gone or explored has no moments."""
  stays = jax.tree.map(lambda m, o: ~due | (m & o), mask, state.mask)
  own = state.inner_state
  inner_state = map_like(
    lambda keep, x: jnp.where(keep, x, jnp.zeros_like(x)),
    stays,
    own.inner_state,
  )
  average = jax.tree.map(lambda x: jnp.where(due, 0, x), own.average)
  own = _Inner(inner_state, average, own.before)
  return SparseState(state.count + 1, mask, own)


def _with_inner(state, **fields):
  return state._replace(inner_state=state.inner_state._replace(**fields))


def _finite(x):
  """Below what stays in any case, and above what must not."""
  return jnp.clip(x, jnp.finfo(x.dtype).min, jnp.finfo(x.dtype).max)


def _check(fractions, estimate, improve, explore):
  for fraction in fractions:
    if not 0 <= fraction < 1:
      raise ValueError(f'`fractions` must lie in [0, 1); got {fraction}.')
  schedules.check_steps(estimate=estimate)
  for name, steps in (('improve', improve), ('explore', explore)):
    if steps:
      schedules.check_steps(**{name: steps})
  if any(fractions) and not explore:
    raise ValueError(
      '`explore`=0 gives what is pruned no chance, and growing would go by '
      'chance: let it explore, or make all `fractions` 0.'
    )
