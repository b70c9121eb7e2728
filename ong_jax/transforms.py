"""Training under a mask, inside anybody's optax chain."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ong_jax import masks
from ong_jax.types import Mask, Params, Pruner


class SparseState(NamedTuple):
  """The mask is state, so it is checkpointed and sharded with the moments."""

  count: jax.Array  # [] int32: the updates so far.
  # bool arrays shaped as their params; None where not prunable, or where the
  # mask is made of what is trained.
  mask: Mask
  inner_state: optax.OptState


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
  inner = optax.with_extra_args_support(inner)

  def init_fn(params):
    own = first_mask(mask, params)
    if jax.tree.leaves(params):  # None when `optax.tree.map_params` probes.
      params = masks.apply_mask(params, own)  # Some states copy the params.
    return SparseState(jnp.zeros([], jnp.int32), own, inner.init(params))

  def update_fn(updates, state, params=None, **extra_args):
    check_given(params)
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
    >>> everything = {'kernel': jnp.array([True, True])}
    >>> def renew(params, state):
    ...   return remask(state, {'kernel': jnp.abs(params['kernel']) > 1})
    >>> tx = latent_transform(optax.sgd(1.0), everything, renew)
    >>> params = {'kernel': jnp.array([2.0, 3.0])}
    >>> _, state = tx.update(params, tx.init(params), params)
    >>> mask_of(state)
    {'kernel': Array([False, False], dtype=bool)}
  """
  inner = optax.with_extra_args_support(inner)

  def init_fn(params):
    own = first_mask(mask, params)
    return SparseState(jnp.zeros([], jnp.int32), own, inner.init(params))

  def update_fn(updates, state, params=None, **extra_args):
    check_given(params)
    updates, inner_state = inner.update(
      updates, state.inner_state, params, **extra_args
    )
    state = SparseState(state.count + 1, state.mask, inner_state)
    return updates, renew(optax.apply_updates(params, updates), state)

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def remask(state: SparseState, mask: Mask) -> SparseState:
  """Replaces the mask; moments become 0 wherever it changed.

  What is pruned leaves no momentum behind, and what returns starts without.

  Args:
    state: of one of the transformations here.
    mask: the new one.

  Returns:
    The new state.

  Example:
    >>> tx = masked_transform(optax.trace(0.9), {'kernel': jnp.array([True])})
    >>> params = {'kernel': jnp.ones(1)}
    >>> _, state = tx.update(params, tx.init(params), params)
    >>> remask(state, {'kernel': jnp.array([False])}).inner_state.trace
    {'kernel': Array([0.], dtype=float32)}
  """
  same = jax.tree.map(jnp.equal, mask, state.mask)
  inner_state = map_like(
    lambda keep, x: jnp.where(keep, x, jnp.zeros_like(x)),
    same,
    state.inner_state,
  )
  return state._replace(mask=mask, inner_state=inner_state)


def map_like(f: Callable, tree: Any, state: Any, *rest: Any) -> Any:
  """Maps over the leaves of a state that mirror a leaf of another tree.

  A leaf mirrors one whose path ends its own path, if both have one shape:
  moments mirror their params in the state of any optimizer, however it is
  wrapped. All other leaves stay as they are.

  Args:
    f: `(leaf of tree, leaf of state, *leaves of rest) -> leaf`.
    tree: of arrays with the structure of the params, `None` where to skip.
    state: tree of any structure.
    *rest: trees of the structure of `state`.

  Returns:
    A tree like `state`.

  Example:
    >>> state = optax.trace(0.9).init({'kernel': jnp.ones(2)})
    >>> ones = {'kernel': jnp.ones(2)}
    >>> map_like(lambda one, x: x + one, ones, state).trace
    {'kernel': Array([1., 1.], dtype=float32)}
  """
  paths = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda x: x is None)
  mirrored = dict(paths)

  def visit(path, x, *others):
    ends = (path[i:] for i in range(len(path) + 1))  # The longest first.
    leaf = mirrored.get(next((end for end in ends if end in mirrored), None))
    if leaf is None or leaf.shape != jnp.shape(x):
      return x
    return f(leaf, x, *others)

  return jax.tree_util.tree_map_with_path(visit, state, *rest)


def state_of(
  opt_state: optax.OptState, params: Params | None = None
) -> SparseState:
  """Finds the sparse state in an optimizer state, wherever wrappers put it.

  Args:
    opt_state: state of any chain around one of the transformations here.
    params: all of them. Only needed where `optax.partition` or `optax.masked`
      left a whole subtree to another transformation.

  Returns:
    The state. Its mask is `None` for what is another transformation's.

  Raises:
    ValueError: there is none, or more than one.

  Example:
    >>> tx = masked_transform(optax.sgd(0.1), {'kernel': jnp.array([True])})
    >>> int(state_of(optax.chain(tx).init({'kernel': jnp.ones(1)})).count)
    0
  """

  def is_ours(x):
    return isinstance(x, SparseState)

  found = [x for x in jax.tree.leaves(opt_state, is_leaf=is_ours) if is_ours(x)]
  if len(found) != 1:
    raise ValueError(
      '`opt_state` must hold the state of exactly one `masked_transform` or '
      f'other sparse transformation; it holds {len(found)}.'
    )
  return found[0]._replace(mask=_without_holes(found[0].mask, params))


def _without_holes(mask: Mask, params: Params | None) -> Mask:
  """Puts `None` where optax put a `MaskedNode`, for each leaf below it."""

  def is_hole(m):
    return isinstance(m, optax.MaskedNode)

  def fill(m, p=None):
    return jax.tree.map(lambda _: None, p) if is_hole(m) else m

  if not any(map(is_hole, jax.tree.leaves(mask, is_leaf=is_hole))):
    return mask  # Whether it fits the params, others find out.
  rest = () if params is None else (params,)
  return jax.tree.map(
    fill, mask, *rest, is_leaf=lambda m: m is None or is_hole(m)
  )


def mask_of(opt_state: optax.OptState, params: Params | None = None) -> Mask:
  """Finds the mask in an optimizer state; see `state_of`.

  Example:
    >>> tx = masked_transform(optax.sgd(0.1), {'kernel': jnp.array([True])})
    >>> mask_of(optax.chain(tx).init({'kernel': jnp.ones(1)}))
    {'kernel': Array([ True], dtype=bool)}
  """
  return state_of(opt_state, params).mask


def first_mask(mask: Mask | Pruner, params: Params) -> Mask:
  """Copies a mask, or has a pruner make it.

  Example:
    >>> first_mask({'kernel': jnp.array([True])}, {'kernel': jnp.ones(1)})
    {'kernel': Array([ True], dtype=bool)}
  """
  # A mask may be callable, too: an Equinox model is. A pruner is one leaf.
  is_leaf = jax.tree_util.treedef_is_leaf(jax.tree.structure(mask))
  own = mask(params) if is_leaf and callable(mask) else mask
  return jax.tree.map(jnp.copy, own)  # The caller's survives donation.


def check_given(params: Params | None) -> None:
  """Raises a `ValueError` if `update` was called without params.

  Example:
    >>> check_given({'kernel': jnp.ones(1)})
  """
  if params is None:
    raise ValueError(
      '`update` needs the parameters: call `tx.update(updates, state, params)`.'
    )
