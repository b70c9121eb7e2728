"""Top-KAST: top-k always sparse training."""

import math
import numbers
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from ong_jax import allocation, masks, ranking, schedules, scores, selection
from ong_jax.method import SparseMethod, straight_through
from ong_jax.pruners import magnitude
from ong_jax.states import (
  SparseState,
  check_given,
  first_mask,
  restart,
  state_of,
)
from ong_jax.types import Allocation, Mask, Predicate


def top_kast(
  *,
  sparsity: float,
  backward_sparsity: float,
  interval: int = 1,
  penalty: float = 1e-4,
  allocate: Allocation = allocation.uniform,
  prunable: Predicate = selection.is_kernel,
) -> SparseMethod:
  """Runs on the largest weights, and trains those and the next largest.

  The network runs on A, the largest weights. B, which contains A, gets the
  gradient at that network; all else is frozen to the bit, and has no moments:
  what enters B starts without. The gradient has one more term,

      penalty * w on A, and penalty * w / d on the rest of B,

  where d = 1 - sparsity, so that what does not run must earn its place. It goes
  through the inner chain as gradients do; the chain's own decay acts on B, too.

  Args:
    sparsity: of what runs; 1 - sparsity is the density d of A. In [0, 1).
    backward_sparsity: of what is trained, likewise of B; in [0, `sparsity`].
      0 trains all weights, `sparsity` nothing but those that run. Where
      `allocate` would give B fewer weights of a leaf than A, by its rounding,
      it gets as many.
    interval: steps between two choices of A and B.
    penalty: at least 0. The default is our choice, of the size of the usual
      weight decay; at a sparsity of 0.9 it is 1e-3 on the rest of B.
    allocate: how both budgets are split; by default alike for all leaves, as in
      the paper.
    prunable: `(path, leaf) -> bool`.

  Returns:
    A `SparseMethod`. The mask of its state is A. Weights behind it live on in
    the params until `finish`.

  Raises:
    ValueError: a number is out of its range; from the `init` of the
      transformation, a sparsity leaves fewer weights than there are leaves.

  References:
    Jayakumar et al., Top-KAST: top-K always sparse training, 2021,
    arXiv:2106.03517.

  Example:
    >>> method = top_kast(sparsity=2 / 3, backward_sparsity=1 / 3, penalty=0)
    >>> params = {'kernel': jnp.array([[1.0, 2.0, 3.0]])}
    >>> tx = method.transform(optax.sgd(1.0))
    >>> opt_state = tx.init(params)
    >>> method.effective(params, opt_state)
    {'kernel': Array([[0., 0., 3.]], dtype=float32)}
    >>> grads = {'kernel': jnp.ones((1, 3))}
    >>> updates, _ = tx.update(grads, opt_state, params)
    >>> optax.apply_updates(params, updates)
    {'kernel': Array([[1., 1., 2.]], dtype=float32)}
  """
  first = magnitude(sparsity=sparsity, allocate=allocate, prunable=prunable)
  schedules.check_steps(interval=interval)
  _check_backward(sparsity, backward_sparsity)
  if not (isinstance(penalty, numbers.Real) and 0 <= penalty < math.inf):
    raise ValueError(f'`penalty` must lie in [0, inf); got {penalty!r}.')

  def choose(params):
    ranked = scores.magnitude(selection.select(params, prunable))
    few = allocate(ranked, sparsity)
    many = jax.tree.map(max, few, allocate(ranked, backward_sparsity))
    return ranking.top_k(ranked, few), ranking.top_k(ranked, many)

  def with_penalty(g, w, m):
    if m is None:
      return g
    return g + jnp.where(m, penalty, penalty / (1 - sparsity)) * w

  def transform(inner):
    inner = optax.with_extra_args_support(inner)

    def init_fn(params):
      forward = first_mask(first, params)  # It refuses what is not finite.
      _, backward = choose(params)
      if jax.tree.leaves(params):  # None when `optax.tree.map_params` probes.
        params = masks.apply_mask(params, backward)  # Some states copy them.
      own = _Inner(backward, inner.init(params))
      return SparseState(jnp.zeros([], jnp.int32), forward, own)

    def update_fn(updates, state, params=None, **extra_args):
      check_given(params)
      forward, (backward, inner_state) = state.mask, state.inner_state
      trained = masks.apply_mask(params, backward)
      updates = masks.apply_mask(updates, backward)
      updates = jax.tree.map(with_penalty, updates, trained, forward)
      updates, inner_state = inner.update(
        updates, inner_state, trained, **extra_args
      )
      updates = masks.apply_mask(updates, backward)  # Whatever `inner` added.
      after, count = optax.apply_updates(params, updates), state.count + 1
      forward, chosen = jax.lax.cond(
        count % interval == 0,
        lambda: choose(after),
        lambda: (forward, backward),
      )
      stays = jax.tree.map(jnp.logical_and, backward, chosen)
      shown = masks.apply_mask(after, chosen)
      inner_state = restart(inner, stays, inner_state, shown)
      return updates, SparseState(count, forward, _Inner(chosen, inner_state))

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)

  def effective(trainable, opt_state, key=None):
    del key  # Nothing is random.
    backward = state_of(opt_state).inner_state.backward
    return straight_through(masks.apply_mask(trainable, backward), opt_state)

  return SparseMethod(transform, effective)


class _Inner(NamedTuple):
  """What goes around the inner optimizer's state."""

  backward: Mask  # B, of what is trained.
  inner_state: optax.OptState


def _check_backward(sparsity: float, backward_sparsity: float) -> None:
  if not (
    isinstance(backward_sparsity, numbers.Real)
    and 0 <= backward_sparsity <= sparsity
  ):
    raise ValueError(
      f'`backward_sparsity` must lie in [0, {sparsity}], so that all weights '
      f'that run are trained; got {backward_sparsity!r}. Lower it to '
      f'`sparsity`={sparsity} at most.'
    )
