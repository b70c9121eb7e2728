"""Training under a mask, inside anybody's optax chain."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ong_jax import masks
from ong_jax.types import Mask, Params, Pruner


class MaskedTransformState(NamedTuple):
  """The mask is state, so it is checkpointed and sharded with the moments."""

  mask: Mask  # bool arrays shaped as their params; None where not prunable.
  inner_state: optax.OptState


def masked_transform(
  inner: optax.GradientTransformation, mask: Mask | Pruner
) -> optax.GradientTransformationExtraArgs:
  """Wraps a transformation so that pruned weights are and stay 0.

  As `optax.masked`, but by element and not by leaf. What `inner` sees (updates,
  params, its own state) is 0 where pruned, so a global norm, weight decay or a
  second moment is that of the survivors alone. What comes out makes pruned
  weights exactly 0.0, whatever `inner` added; the first update that is applied
  does so even if the params were not masked before.

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
  inner = optax.with_extra_args_support(inner)

  def init_fn(params: Params) -> MaskedTransformState:
    # A mask may be callable, too: an Equinox model is. A pruner is one leaf.
    is_leaf = jax.tree_util.treedef_is_leaf(jax.tree.structure(mask))
    own = mask(params) if is_leaf and callable(mask) else mask
    own = jax.tree.map(jnp.copy, own)  # The caller's survives donation.
    if jax.tree.leaves(params):  # None when `optax.tree.map_params` probes.
      params = masks.apply_mask(params, own)  # Some states copy the params.
    return MaskedTransformState(own, inner.init(params))

  def update_fn(updates, state, params=None, **extra_args):
    if params is None:
      raise ValueError(
        '`masked_transform` needs the parameters: call '
        '`tx.update(updates, state, params)`.'
      )
    updates = masks.apply_mask(updates, state.mask)  # Keeps pruned moments 0,
    masked = masks.apply_mask(params, state.mask)  # from weight decay too.
    updates, inner_state = inner.update(
      updates, state.inner_state, masked, **extra_args
    )
    updates = jax.tree.map(  # p + (-p) is exactly 0, whatever `inner` added.
      lambda p, u, m: u if m is None else jnp.where(m, u, -p),
      params,
      updates,
      state.mask,
    )
    return updates, state._replace(inner_state=inner_state)

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _identity(x):
  return x


def _always(opt_state):
  del opt_state
  return True


class SparseMethod(NamedTuple):
  """A way to train sparse, as pure functions that any training loop can call.

  `trainable` is what the optimizer changes: the params, or the params and what
  a method learns beside them. `opt_state` is the state of the transformation
  that `transform` returned; the mask is in it.
  """

  # (trainable, opt_state, key) -> the params that the network runs on,
  # differentiable in `trainable`. Without a key: what would be deployed now.
  effective: Callable[[Any, optax.OptState, jax.Array | None], Params]
  # (trainable, opt_state, key=None) -> (params with exact zeros, mask).
  finish: Callable[..., tuple[Params, Mask]]
  # params -> trainable.
  init: Callable[[Params], Any] = _identity
  # A transformation of params -> one of the trainable, whose `init` makes the
  # first mask.
  transform: Callable[
    [optax.GradientTransformation], optax.GradientTransformation
  ] = _identity
  # opt_state -> whether this step may move BatchNorm's averages.
  tracks_statistics: Callable[[optax.OptState], Any] = _always


def mask_of(opt_state: optax.OptState) -> Mask:
  """Finds the mask in an optimizer state, wherever wrappers have put it.

  Args:
    opt_state: state of any chain around one `masked_transform`.

  Returns:
    The mask.

  Raises:
    ValueError: there is none, or more than one.

  Example:
    >>> tx = masked_transform(optax.sgd(0.1), {'kernel': jnp.array([True])})
    >>> mask_of(optax.chain(tx).init({'kernel': jnp.ones(1)}))
    {'kernel': Array([ True], dtype=bool)}
  """

  def is_ours(x):
    return isinstance(x, MaskedTransformState)

  found = [x for x in jax.tree.leaves(opt_state, is_leaf=is_ours) if is_ours(x)]
  if len(found) != 1:
    raise ValueError(
      '`opt_state` must hold the state of exactly one `masked_transform`; it '
      f'holds {len(found)}.'
    )
  return found[0].mask


def static(mask: Mask | Pruner) -> SparseMethod:
  """Trains under one mask, made at the outset and never changed.

  Args:
    mask: a mask, or a pruner that makes it from the params when the optimizer
      state is made.

  Returns:
    A `SparseMethod`.

  Example:
    >>> params = {'kernel': jnp.array([[3.0, 4.0]])}
    >>> method = static({'kernel': jnp.array([[True, False]])})
    >>> opt_state = method.transform(optax.sgd(0.1)).init(params)
    >>> method.effective(params, opt_state, None)
    {'kernel': Array([[3., 0.]], dtype=float32)}
  """

  def effective(trainable, opt_state, key=None):
    del key  # Nothing is random.
    return masks.apply_mask(trainable, mask_of(opt_state))

  def finish(trainable, opt_state, key=None):
    return effective(trainable, opt_state, key), mask_of(opt_state)

  return SparseMethod(
    effective, finish, transform=lambda inner: masked_transform(inner, mask)
  )
