"""What a sparse transformation keeps, inside the state of any optimizer."""

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


def remask(state: SparseState, mask: Mask) -> SparseState:
  """Replaces the mask; moments become 0 wherever it changed.

  What is pruned leaves no momentum behind, and what returns starts without.

  Args:
    state: of one of the transformations here.
    mask: the new one.

  Returns:
    The new state.

  Example:
    >>> from ong_jax import masked_transform
    >>> tx = masked_transform(optax.trace(0.9), {'kernel': jnp.array([True])})
    >>> params = {'kernel': jnp.ones(1)}
    >>> _, state = tx.update(params, tx.init(params), params)
    >>> remask(state, {'kernel': jnp.array([False])}).inner_state.trace
    {'kernel': Array([0.], dtype=float32)}
  """
  masks.check_like(state.mask, mask)
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
  leaves = jax.tree_util.tree_leaves_with_path(
    tree, is_leaf=lambda x: x is None
  )
  by_path = dict(leaves)

  def visit(path, x, *others):
    leaf = mirrored(path, by_path)
    if leaf is None or leaf.shape != jnp.shape(x):
      return x
    return f(leaf, x, *others)

  return jax.tree_util.tree_map_with_path(visit, state, *rest)


def mirrored(
  path: jax.tree_util.KeyPath, leaves: dict[jax.tree_util.KeyPath, Any]
) -> Any | None:
  """Returns that of `leaves` whose path ends this one, or None.

  Example:
    >>> leaves = {('b',): 1, ('a', 'b'): 2}
    >>> mirrored(('mu', 'a', 'b'), leaves), mirrored(('count',), leaves)
    (2, None)
  """
  ends = (path[i:] for i in range(len(path) + 1))  # The longest first.
  return leaves.get(next((end for end in ends if end in leaves), None))


def restart(
  inner: optax.GradientTransformation, keep: Any, state: Any, params: Params
) -> Any:
  """Begins the inner state of some weights anew, as `inner.init` would.

  Moments become 0; copies of weights, which some states have, theirs.

  Args:
    inner: the transformation.
    keep: tree of bool arrays like the params, of what goes on; `None` where all
      does.
    state: of `inner`.
    params: as they are now.

  Returns:
    A state like `state`.

  Example:
    >>> inner, params = optax.trace(0.9), {'kernel': jnp.ones(2)}
    >>> _, state = inner.update(params, inner.init(params))
    >>> keep = {'kernel': jnp.array([True, False])}
    >>> restart(inner, keep, state, params).trace
    {'kernel': Array([1., 0.], dtype=float32)}
  """
  return map_like(jnp.where, keep, state, inner.init(params))


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
    >>> from ong_jax import masked_transform
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
    >>> from ong_jax import masked_transform
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
  masks.check_bool(own)
  return jax.tree.map(jnp.copy, own)  # The caller's survives donation.


def check_inner(inner: optax.GradientTransformation) -> None:
  """Raises a `TypeError` unless this is a transformation.

  Example:
    >>> check_inner(optax.sgd(0.1))
  """
  if not isinstance(inner, optax.GradientTransformation):
    raise TypeError(
      '`inner` must be a transformation, such as `optax.sgd(0.1)`; got '
      f'{inner!r:.200}.'
    )


def check_state(state: SparseState) -> None:
  """Raises a `TypeError` unless `update` was given what `init` returned.

  Example:
    >>> check_state(SparseState(0, None, None))
  """
  if not isinstance(state, SparseState):
    raise TypeError(
      '`state` must be what `init` of this transformation or its last '
      f'`update` returned; got a {type(state).__name__}.'
    )


def check_given(params: Params | None) -> None:
  """Raises a `ValueError` if `update` was called without params.

  Example:
    >>> check_given({'kernel': jnp.ones(1)})
  """
  if params is None:
    raise ValueError(
      '`update` needs the parameters: call `tx.update(updates, state, params)`.'
    )
