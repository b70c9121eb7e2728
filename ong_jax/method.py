"""One record for every way to train sparse."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ong_jax import allocation, masks, ranking, scores, selection
from ong_jax.states import mask_of
from ong_jax.transforms import masked_transform
from ong_jax.types import (
  Allocation,
  Mask,
  Params,
  Predicate,
  Pruner,
  Scores,
)


def masked(
  trainable: Params, opt_state: optax.OptState, key: jax.Array | None = None
) -> Params:
  """Applies the mask that the optimizer state holds.

  Example:
    >>> params = {'kernel': jnp.array([[3.0, 4.0]])}
    >>> mask = {'kernel': jnp.array([[True, False]])}
    >>> tx = masked_transform(optax.sgd(0.1), mask)
    >>> masked(params, tx.init(params))
    {'kernel': Array([[3., 0.]], dtype=float32)}
  """
  del key  # Nothing is random.
  return masks.apply_mask(trainable, mask_of(opt_state, trainable))


def straight_through(
  trainable: Params, opt_state: optax.OptState, key: jax.Array | None = None
) -> Params:
  """Applies the mask on the way forward, and ignores it on the way back.

  So pruned weights have a gradient, too: that at the masked weights.

  References:
    Bengio et al., Estimating or propagating gradients through stochastic
    neurons, 2013, arXiv:1308.3432.

  Example:
    >>> params = {'kernel': jnp.array([[3.0, 4.0]])}
    >>> mask = {'kernel': jnp.array([[True, False]])}
    >>> tx = masked_transform(optax.sgd(0.1), mask)
    >>> def loss(params):
    ...   effective = straight_through(params, tx.init(params))
    ...   return jnp.sum(jnp.exp(effective['kernel']))
    >>> jax.grad(loss)(params)['kernel'].round(2)
    Array([[20.09,  1.  ]], dtype=float32)
  """
  del key  # Nothing is random.
  mask = mask_of(opt_state, trainable)
  masks.check_like(trainable, mask)
  return jax.tree.map(
    lambda w, m: w if m is None else _straight_through(w, m), trainable, mask
  )


@jax.custom_jvp
def _straight_through(w, m):
  return jnp.where(m, w, jnp.zeros_like(w))


@_straight_through.defjvp
def _(primals, tangents):
  return _straight_through(*primals), tangents[0]


def finish_masked(
  trainable: Params, opt_state: optax.OptState, key: jax.Array | None = None
) -> tuple[Params, Mask]:
  """Returns the masked params and their mask.

  Example:
    >>> params = {'kernel': jnp.array([[3.0, 4.0]])}
    >>> mask = {'kernel': jnp.array([[True, False]])}
    >>> tx = masked_transform(optax.sgd(0.1), mask)
    >>> params, mask = finish_masked(params, tx.init(params))
    >>> params, mask
    ({'kernel': Array([[3., 0.]], dtype=float32)}, \
{'kernel': Array([[ True, False]], dtype=bool)})
  """
  mask = mask_of(opt_state, trainable)
  return masks.apply_mask(trainable, mask), mask


def dense(
  trainable: Params, opt_state: optax.OptState, key: jax.Array | None = None
) -> Params:
  """Returns all weights as they are: for methods that prune in `finish` alone.

  Example:
    >>> dense({'kernel': jnp.ones(2)}, optax.EmptyState())
    {'kernel': Array([1., 1.], dtype=float32)}
  """
  del opt_state, key
  return trainable


def keep_best(
  params: Params,
  ranked: Scores,
  sparsity: float,
  allocate: Allocation = allocation.pooled,
) -> tuple[Params, Mask]:
  """Prunes to an exact sparsity: what a `finish` may end with.

  Args:
    params: to be pruned.
    ranked: scores of the prunable ones, `None` elsewhere.
    sparsity: fraction of them to remove, in [0, 1).
    allocate: how the budget is split.

  Returns:
    params and mask.

  Example:
    >>> params = {'kernel': jnp.array([[-3.0, 2.0]])}
    >>> keep_best(params, jax.tree.map(jnp.abs, params), 0.5)[0]
    {'kernel': Array([[-3.,  0.]], dtype=float32)}
  """
  mask = ranking.top_k(ranked, allocate(ranked, sparsity))
  return masks.apply_mask(params, mask), mask


def finish_largest(
  sparsity: float, allocate: Allocation, prunable: Predicate
) -> Callable[..., tuple[Params, Mask]]:
  """Makes a `finish` that keeps the largest weights of a dense network.

  Example:
    >>> finish = finish_largest(0.5, allocation.pooled, selection.is_kernel)
    >>> finish({'kernel': jnp.array([[-3.0, 2.0]])}, None)[0]
    {'kernel': Array([[-3.,  0.]], dtype=float32)}
  """

  def finish(trainable, opt_state, key=None):
    del opt_state, key
    ranked = scores.magnitude(selection.select(trainable, prunable))
    return keep_best(trainable, ranked, sparsity, allocate)

  return finish


def prunes_to(
  sparsity: float | None,
  allocate: Allocation = allocation.pooled,
  prunable: Predicate = selection.is_kernel,
) -> Callable[[Params], Params]:
  """Makes an `init` that refuses a sparsity before anything is trained.

  Example:
    >>> prunes_to(0.9)({'kernel': jnp.ones((2, 2))})
    Traceback (most recent call last):
      ...
    ValueError: `sparsity`=0.9 keeps 0 of 4 weights, fewer than the 1 \
prunable leaves. With these params it can be 0.75.
  """
  if sparsity is not None:
    masks.check_sparsity(sparsity)

  def init(params):
    weights = selection.select(params, prunable)
    if sparsity is not None:
      allocate(weights, sparsity)
    return params

  return init


def _identity(x):
  return x


def _always(opt_state):
  del opt_state
  return True


class SparseMethod(NamedTuple):
  """A way to train sparse, as pure functions that any training loop can call.

  `trainable` is what the optimizer changes: the params, or a `Trainable` of the
  params and what a method learns beside them. `opt_state` is the state of the
  transformation that `transform` returned.

      trainable = method.init(params)
      tx = method.transform(optax.sgd(0.1))
      opt_state = tx.init(trainable)

      def loss_fn(trainable):
        return loss(method.effective(trainable, opt_state, key), batch)

      updates, opt_state = tx.update(jax.grad(loss_fn)(trainable), opt_state,
                                     trainable)
      trainable = optax.apply_updates(trainable, updates)

      params, mask = method.finish(trainable, opt_state)

  The state holds all that changes, and a mask is renewed at the end of an
  `update`: between two steps nothing happens.
  """

  # A transformation of params -> one of the trainable, whose `init` makes the
  # first mask.
  transform: Callable[
    [optax.GradientTransformation], optax.GradientTransformation
  ] = _identity
  # (trainable, opt_state, key) -> the params that the network runs on,
  # differentiable in `trainable`. Without a key: what would be deployed now.
  effective: Callable[..., Params] = masked
  # (trainable, opt_state, key=None) -> (params with exact zeros, mask).
  finish: Callable[..., tuple[Params, Mask]] = finish_masked
  # params -> trainable.
  init: Callable[[Params], Any] = _identity
  # opt_state -> whether this step may move BatchNorm's averages.
  tracks_statistics: Callable[[optax.OptState], Any] = _always


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
    >>> method.effective(params, opt_state)
    {'kernel': Array([[3., 0.]], dtype=float32)}
  """
  return SparseMethod(lambda inner: masked_transform(inner, mask))
