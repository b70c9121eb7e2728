"""Dynamic sparse training."""

import math

import jax
import jax.numpy as jnp
import optax

from ong_jax import allocation, selection
from ong_jax.checks import check_number
from ong_jax.method import SparseMethod, keep_best, prunes_to
from ong_jax.states import check_given
from ong_jax.trainable import Trainable, check_trainable, undecayed
from ong_jax.types import Allocation, Predicate

_LOWEST_DENSITY = 0.01  # Of a kernel; where it falls there, thresholds restart.


def dst(
  *,
  sparsity: float | None,
  penalty: float = 5e-6,
  allocate: Allocation = allocation.pooled,
  prunable: Predicate = selection.is_kernel,
) -> SparseMethod:
  """Learns a threshold for each output unit, below which weights are 0.

  The network runs on w H(|w| - t), H the unit step, whose derivative is taken
  to be 2 - 4 |x| up to |x| = 0.4, then 0.4 up to 1. The penalty on exp(-t)
  raises thresholds and gradients resist: that decides the sparsity, which
  cannot be aimed at. So `finish` ends with an exact projection; train on under
  its mask. Thresholds follow the inner optimizer, but do not decay.

  Args:
    sparsity: that `finish` prunes to, in [0, 1): by |w| among survivors, and
      by |w| - t where they do not suffice; None leaves it as it has come to be.
      Where more had been pruned, what is kept beside the survivors is 0 too.
    penalty: factor of the sum of exp(-t) in the loss, at least 0.
    allocate: how that budget is split; by default one ranking over all leaves.
    prunable: `(path, leaf) -> bool`.

  Returns:
    A `SparseMethod`; it trains a `Trainable` whose `extra` are thresholds
    [features] for each kernel [..., features].

  References:
    Liu et al., Dynamic sparse training: find efficient sparse network from
    scratch with trainable masked layers, 2020, arXiv:2005.06870.

  Example:
    >>> method = dst(sparsity=None)
    >>> trainable = method.init({'kernel': jnp.array([[-2.0, 0.25]])})
    >>> trainable.extra['kernel']
    Array([0., 0.], dtype=float32)
    >>> raised = trainable._replace(extra={'kernel': jnp.array([1.0, 1.0])})
    >>> method.effective(raised, None)
    {'kernel': Array([[-2.,  0.]], dtype=float32)}
  """
  check = prunes_to(sparsity, allocate, prunable)
  check_number('penalty', penalty)
  if not 0 <= penalty < math.inf:
    raise ValueError(f'`penalty` must lie in [0, inf); got {penalty}.')

  def init(params):
    weights = selection.select(check(params), prunable)
    return Trainable(
      params, jax.tree.map(lambda w: jnp.zeros(w.shape[-1:], w.dtype), weights)
    )

  def effective(trainable, opt_state, key=None):
    check_trainable(trainable)
    del opt_state, key
    return jax.tree.map(
      lambda w, t: w if t is None else w * _step(jnp.abs(w) - t), *trainable
    )

  def penalize(updates, trainable):
    check_given(trainable)
    extra = jax.tree.map(
      lambda g, t: g - penalty * jnp.exp(-t), updates.extra, trainable.extra
    )
    return updates._replace(extra=extra)

  def restart(updates, trainable):
    def leaf(w, u, t, v):
      if t is None:
        return None
      alive = jnp.abs(w + u) > t + v
      return jnp.where(jnp.mean(alive) <= _LOWEST_DENSITY, -t, v)

    extra = jax.tree.map(
      leaf, trainable.params, updates.params, trainable.extra, updates.extra
    )
    return updates._replace(extra=extra)

  def finish(trainable, opt_state, key=None):
    params = effective(trainable, opt_state, key)
    weights = selection.select(trainable.params, prunable)
    margins = jax.tree.map(
      lambda w, t: jnp.abs(w) - t, weights, trainable.extra
    )
    if sparsity is None:
      return params, jax.tree.map(lambda x: x > 0, margins)
    ranked = jax.tree.map(
      lambda w, x: jnp.where(x > 0, jnp.abs(w), x), weights, margins
    )
    return keep_best(params, ranked, sparsity, allocate)

  def transform(inner):
    return optax.chain(
      optax.stateless(penalize), undecayed(inner), optax.stateless(restart)
    )

  return SparseMethod(transform, effective, finish, init)


@jax.custom_jvp
def _step(x):
  return (x > 0).astype(x.dtype)


@_step.defjvp
def _step_jvp(primals, tangents):
  (x,), (dx,) = primals, tangents
  far = jnp.where(jnp.abs(x) <= 1, 0.4, 0.0)
  slope = jnp.where(jnp.abs(x) <= 0.4, 2 - 4 * jnp.abs(x), far)
  return _step(x), slope.astype(x.dtype) * dx
