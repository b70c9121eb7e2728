"""Iterative exploitation and exploration: enhanced saliency."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from ong_jax import masks, moves, scores, selection, taylor
from ong_jax.method import SparseMethod, masked
from ong_jax.patterns import Pattern
from ong_jax.stages import Now, make_cycles
from ong_jax.states import (
  SparseState,
  check_given,
  first_mask,
  map_like,
  state_of,
)
from ong_jax.types import Mask, Params, Predicate, Pruner, Score


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
  After the last cycle the mask is fixed. Frozen is exact, to the bit, but for
  moments that have not the shape of their weight, as Adafactor's.

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
      instead of the weights. Batches that are not finite are left out; a stage
      of which none is left prunes nothing, and grows the first there are.
    regrow: `(explored, before) -> values` that grown weights start with, up to
      rounding, from those at the end of stage 4 and those of when they were
      active last (of the outset, if never). By default they stay as explored.
    prunable: `(path, leaf) -> bool`.

  Returns:
    A `SparseMethod`. Training must pass a key to `effective`, which draws
    nothing but tells it from evaluation: without one, nothing explores. After
    the first cycle, `finish` has the exact budget in stage 1 and when all
    cycles are over, and less in between. The state of `inner` counts all steps:
    Adam, whose moments begin again, takes steps of up to six times its rate
    when exploring begins.

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
    >>> method.effective(params, opt_state, jax.random.key(0))
    {'kernel': Array([[3., 0., 0.]], dtype=float32)}
  """
  cycles = make_cycles(fractions, estimate, improve, explore)
  cuts = [*cycles.fractions, 0.0]

  def choose(now, params, state):
    values = selection.select(_network(params, state.mask, now), prunable)
    if observe:
      values = taylor.mean(state.inner_state.average)
    row = jnp.where(now.exploring, len(cycles.fractions), now.cycle)
    kept = pattern.collapse(state.mask)
    move = moves.grow_or_prune(pattern, now.exploring, cuts, row)
    return pattern.expand(move(score(values), kept), params)

  def transform(inner):
    inner = optax.with_extra_args_support(inner)

    def init_fn(params):
      mask = first_mask(first, params)
      before = jax.tree.map(jnp.copy, params) if regrow else None
      if not jax.tree.leaves(params):  # `optax.tree.map_params` probes.
        average = jnp.zeros([]) if observe else None  # It lets a leaf be.
        return _state(mask, inner.init(params), average, before)
      average = taylor.nothing(observe, params) if observe else None
      shown = masks.apply_mask(params, mask)
      state = _state(mask, inner.init(shown), average, before)
      # What does not fit is refused now, not when it is time to prune.
      jax.eval_shape(choose, cycles.at(state.count), params, state)
      return state

    def update_fn(updates, state, params=None, **extra_args):
      check_given(params)
      now = cycles.at(state.count)
      state = _observed(observe, updates, state, params, now)
      updates, state = _trained(inner, updates, state, params, now, extra_args)
      after = optax.apply_updates(params, updates)
      old, due = state.mask, now.prunes | now.grows
      if observe:  # Nothing is pruned unseen.
        due &= now.grows | (state.inner_state.average.count > 0)
      mask = jax.lax.cond(due, lambda: choose(now, after, state), lambda: old)
      if regrow:
        updates, state = _regrown(
          regrow, updates, state, params, after, mask, now
        )
      return updates, _moved(state, mask, due)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)

  def effective(trainable, opt_state, key=None):
    if key is None:  # Deployed is what is active, also while exploring.
      return masked(trainable, opt_state)
    state = state_of(opt_state)
    return _network(trainable, state.mask, cycles.at(state.count))

  return SparseMethod(
    transform,
    effective,
    tracks_statistics=lambda s: ~cycles.at(state_of(s).count).exploring,
  )


class _Inner(NamedTuple):
  """What goes around the inner optimizer's state."""

  inner_state: optax.OptState
  average: taylor.Average | None  # Of what is observed in this stage.
  before: Params | None  # Values of when a weight was active last.


def _network(params: Params, mask: Mask, now: Now) -> Params:
  """What runs in training: all that is active, or all there is."""
  shown = jax.tree.map(lambda m: m | now.exploring, mask)
  return masks.apply_mask(params, shown)


def _observed(observe, grads, state, params, now):
  """Adds a batch to the average of this stage."""
  if not observe:
    return state
  found = observe(_network(params, state.mask, now), grads)
  average = taylor.add(state.inner_state.average, found, now.observing)
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
  return updates, _with_inner(state, before=before)


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


def _state(mask, inner_state, average, before):
  own = _Inner(inner_state, average, before)
  return SparseState(jnp.zeros([], jnp.int32), mask, own)
