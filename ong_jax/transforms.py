"""Training under a mask, inside anybody's optax chain."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from ong_jax import masks
from ong_jax.states import (
  SparseState,
  check_given,
  check_inner,
  check_state,
  first_mask,
)
from ong_jax.types import Mask, Params, Pruner

# (params, state) -> state: at the end of an update, with the params that it
# leads to and the state after it, whose `count` includes it.
Renew = Callable[[Params, SparseState], SparseState]


def masked_transform(
  inner: optax.GradientTransformation,
  mask: Mask | Pruner,
  renew: Renew | None = None,
) -> optax.GradientTransformationExtraArgs:
  """Wraps a transformation so that pruned weights are and stay 0.

  As `optax.masked`, but by element and not by leaf. What `inner` sees (updates,
  params, its own state) is 0 where pruned, so a global norm, weight decay or a
  second moment is that of the survivors alone. What comes out makes pruned
  weights exactly 0.0, whatever `inner` added; the first update that is applied
  does so even if the params were not masked before. Only a weight that is not
  finite when it is pruned stays so, as no update makes it 0: `apply_mask` does.

  The moments are 0 where pruned as well, provided that `inner` starts them at 0
  and adds nothing but gradients; Adagrad, Yogi, AdaBelief and Adafactor add
  constants.

  Nothing may scale the output: only what injects, accumulates or skips
  (`optax.inject_hyperparams`, `MultiSteps`, `apply_if_finite`) goes around it,
  the rest inside.

  Args:
    inner: any optax transformation.
    mask: tree of bool arrays shaped as their params, True = kept, `None` where
      not prunable; or a pruner, which makes the mask from the params in `init`.
    renew: `(params, state) -> state`, for a mask that changes in training; see
      `remask`. What it prunes is 0 after the same update; what it brings back
      starts at 0.

  Returns:
    The transformation. Its `update` needs `params`.

  Raises:
    ValueError, TypeError: from `init`, the mask does not fit the params; from
      `update`, `params` is missing.

  Example:
    >>> params = {'kernel': jnp.array([[3.0, 4.0]])}
    >>> mask = {'kernel': jnp.array([[True, False]])}
    >>> tx = masked_transform(optax.sgd(1.0), mask)
    >>> grads = {'kernel': jnp.array([[1.0, jnp.nan]])}
    >>> updates, _ = tx.update(grads, tx.init(params), params)
    >>> optax.apply_updates(params, updates)
    {'kernel': Array([[2., 0.]], dtype=float32)}
  """
  check_inner(inner)
  inner = optax.with_extra_args_support(inner)

  def init_fn(params):
    own = first_mask(mask, params)
    if jax.tree.leaves(params):  # None when `optax.tree.map_params` probes.
      params = masks.apply_mask(params, own)  # Some states copy the params.
    return SparseState(jnp.zeros([], jnp.int32), own, inner.init(params))

  def update_fn(updates, state, params=None, **extra_args):
    check_given(params)
    check_state(state)
    updates = masks.apply_mask(updates, state.mask)  # Keeps pruned moments 0,
    masked = masks.apply_mask(params, state.mask)  # from weight decay too.
    updates, inner_state = inner.update(
      updates, state.inner_state, masked, **extra_args
    )
    old = state.mask
    state = SparseState(state.count + 1, old, inner_state)
    if renew is not None:
      updates = masks.apply_mask(updates, old)
      state = renew(optax.apply_updates(masked, updates), state)
    updates = jax.tree.map(  # p + (-p) is exactly 0, whatever `inner` added.
      lambda p, u, m, o: u if m is None else jnp.where(m & o, u, -p),
      params,
      updates,
      state.mask,
      old,
    )
    return updates, state

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def latent_transform(
  inner: optax.GradientTransformation, mask: Mask | Pruner, renew: Renew
) -> optax.GradientTransformationExtraArgs:
  """Wraps a transformation that trains all weights, and carries their mask.

  For methods whose pruned weights live on behind the mask and may return. The
  mask takes effect where the network is run, not here: gradients, moments and
  params reach `inner` as they are.

  Args:
    inner: any optax transformation.
    mask: the first one, or the pruner that makes it in `init`.
    renew: `(params, state) -> state`, at the end of every update; see `remask`.

  Returns:
    The transformation. Its `update` needs `params`.

  Example:
    >>> from ong_jax import mask_of, remask
    >>> everything = {'kernel': jnp.array([True, True])}
    >>> def renew(params, state):
    ...   return remask(state, {'kernel': jnp.abs(params['kernel']) > 1})
    >>> tx = latent_transform(optax.sgd(1.0), everything, renew)
    >>> params = {'kernel': jnp.array([2.0, 3.0])}
    >>> _, state = tx.update(params, tx.init(params), params)
    >>> mask_of(state)
    {'kernel': Array([False, False], dtype=bool)}
  """
  check_inner(inner)
  inner = optax.with_extra_args_support(inner)

  def init_fn(params):
    own = first_mask(mask, params)
    return SparseState(jnp.zeros([], jnp.int32), own, inner.init(params))

  def update_fn(updates, state, params=None, **extra_args):
    check_given(params)
    check_state(state)
    updates, inner_state = inner.update(
      updates, state.inner_state, params, **extra_args
    )
    state = SparseState(state.count + 1, state.mask, inner_state)
    return updates, renew(optax.apply_updates(params, updates), state)

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)
