"""Continuous sparsification."""

import math

import jax
import jax.numpy as jnp
import optax

from ong_jax import allocation, masks, schedules, selection
from ong_jax.checks import check_number
from ong_jax.method import SparseMethod, keep_best, prunes_to
from ong_jax.states import SparseState, check_given, state_of
from ong_jax.trainable import Trainable, check_trainable, undecayed
from ong_jax.types import Allocation, Params, Predicate


def cs(
  *,
  sparsity: float | None,
  num_steps: int,
  start: float = 0.0,
  final_beta: float = 200.0,
  penalty: float = 1e-8,
  allocate: Allocation = allocation.pooled,
  prunable: Predicate = selection.is_kernel,
) -> SparseMethod:
  """Learns a gate for each weight, which hardens while training goes on.

  The network runs on w sigmoid(beta q) / sigmoid(start), where the inverse
  temperature beta rises from 1 to its final value, and is deployed with the
  weights of q > 0. The penalty on the gates lowers q and gradients resist: that
  decides the sparsity, which cannot be aimed at but by `start` and `penalty`.
  So `finish` ends with an exact projection; train on under its mask. Gates
  follow the inner optimizer, but do not decay.

  Args:
    sparsity: that `finish` prunes to, in [0, 1), by q; None leaves it as it has
      come to be. Where gates are shut that it keeps, weights may be 0.
    num_steps: over which beta rises, geometrically.
    start: q at the outset, at least -80; below 0 for high sparsity.
    final_beta: beta in the end, at least 1.
    penalty: factor of the sum of all sigmoid(beta q) in the loss, at least 0.
    allocate: how that budget is split; by default one ranking over all leaves.
    prunable: `(path, leaf) -> bool`.

  Returns:
    A `SparseMethod`; it trains a `Trainable` whose `extra` are the q, shaped as
    their weights.

  References:
    Savarese et al., Winning the lottery with continuous sparsification, 2020,
    arXiv:1912.04427.

  Example:
    >>> method = cs(sparsity=None, num_steps=100)
    >>> trainable = method.init({'kernel': jnp.array([[-2.0, 0.25]])})
    >>> opt_state = method.transform(optax.sgd(0.1)).init(trainable)
    >>> method.effective(trainable, opt_state, jax.random.key(0))
    {'kernel': Array([[-2.  ,  0.25]], dtype=float32)}
  """
  check = prunes_to(sparsity, allocate, prunable)
  schedules.check_steps(num_steps=num_steps)
  for name, value, low in (
    ('start', start, -80),  # Below, float32 has no sigmoid to divide by.
    ('final_beta', final_beta, 1),
  ):
    check_number(name, value)
    if not low <= value < math.inf:
      raise ValueError(f'`{name}` must lie in [{low}, inf); got {value}.')
  check_number('penalty', penalty)
  if not 0 <= penalty < math.inf:
    raise ValueError(f'`penalty` must lie in [0, inf); got {penalty}.')

  def beta_of(state):
    return final_beta ** jnp.minimum(state.count / num_steps, 1)

  def init(params):
    weights = selection.select(check(params), prunable)
    return Trainable(
      params, jax.tree.map(lambda w: jnp.full_like(w, start), weights)
    )

  def transform(inner):
    inner = undecayed(inner)

    def init_fn(trainable):
      return SparseState(jnp.zeros([], jnp.int32), None, inner.init(trainable))

    def update_fn(updates, state, params=None, **extra_args):
      check_given(params)
      beta = beta_of(state)

      def penalize(g, q):
        gate = jax.nn.sigmoid(beta * q)
        return g + (penalty * beta * gate * (1 - gate)).astype(g.dtype)

      extra = jax.tree.map(penalize, updates.extra, params.extra)
      updates, inner_state = inner.update(
        updates._replace(extra=extra), state.inner_state, params, **extra_args
      )
      return updates, SparseState(state.count + 1, None, inner_state)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)

  def effective(trainable, opt_state, key=None):
    check_trainable(trainable)
    gated = gate_weights(trainable, beta_of(state_of(opt_state)), start)
    if key is not None:
      return gated
    return masks.apply_mask(
      gated, jax.tree.map(lambda q: q > 0, trainable.extra)
    )

  def finish(trainable, opt_state, key=None):
    del key
    if sparsity is None:
      params = effective(trainable, opt_state)
      return params, jax.tree.map(lambda q: q > 0, trainable.extra)
    gated = gate_weights(trainable, beta_of(state_of(opt_state)), start)
    return keep_best(gated, trainable.extra, sparsity, allocate)

  return SparseMethod(transform, effective, finish, init)


def gate_weights(
  trainable: Trainable, beta: jax.typing.ArrayLike, start: float
) -> Params:
  """Returns w sigmoid(beta q) / sigmoid(start).

  Example:
    >>> one = {'kernel': jnp.ones((1, 1))}
    >>> gate_weights(Trainable(one, one), beta=0.0, start=0.0)
    {'kernel': Array([[1.]], dtype=float32)}
  """
  c = 1 / jax.nn.sigmoid(start)
  return jax.tree.map(
    lambda w, q: (
      w if q is None else w * (c * jax.nn.sigmoid(beta * q)).astype(w.dtype)
    ),
    *trainable,
  )
