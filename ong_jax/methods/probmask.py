"""Probabilistic masking under one global budget."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ong_jax import allocation, masks, ranking, schedules, selection
from ong_jax.method import SparseMethod, keep_best, prunes_to
from ong_jax.states import SparseState, check_given, state_of
from ong_jax.trainable import Trainable, check_trainable
from ong_jax.types import Predicate

_SHRINK = 5e-7  # Keeps gradients alive at the probabilities 0 and 1.
_HALVINGS = 32  # Of an interval that float32 cannot divide much further.


def probmask(
  *,
  sparsity: float,
  interval: int,
  num_intervals: int,
  rate: float = 6e-3,
  clip: float = 3.0,
  ramp: tuple[float, float] = (0.16, 0.6),
  train_weights: bool = True,
  prunable: Predicate = selection.is_kernel,
) -> SparseMethod:
  """Learns with which probability each weight is kept, under one budget.

  The network runs on w m, m a soft sample of the mask: the sigmoid of T (logit
  p + logistic noise), with the inverse temperature T rising from 1 towards 33.
  The probabilities follow Adam and are then projected onto those in [0, 1] that
  sum up to no more than the budget K. In interval e of E, K is all weights up
  to 0.16 E, then falls as a cubic to the target at 0.6 E. How the layers share
  it is an outcome. Take two samples a step, or more.

  Args:
    sparsity: of the final mask, in [0, 1).
    interval: steps at one budget and temperature; an epoch in the paper.
    num_intervals: E, at least 2. The last ones are kept from there on.
    rate: of Adam on the probabilities; falls by a cosine over E intervals.
    clip: global norm that gradients of weights and probabilities are clipped to
      together, before the inner optimizer; above 0.
    ramp: where the budget begins and ends to fall, as fractions of E.
    train_weights: if not, nothing but the probabilities is trained: what is
      found is a supermask of the weights as they are.
    prunable: `(path, leaf) -> bool`.

  Returns:
    A `SparseMethod`; it trains a `Trainable` whose `extra` are probabilities,
    float32, shaped as their weights. Without a key, `effective` and `finish`
    keep the most probable weights, as many as the budget or the target has;
    with one, `finish` draws a mask, whose count is random.

  References:
    Zhou et al., Effective sparsification of neural networks with global
    sparsity constraint, 2021, arXiv:2105.01571.

  Example:
    >>> method = probmask(sparsity=0.5, interval=1, num_intervals=4)
    >>> trainable = method.init({'kernel': jnp.array([[1.0, 2.0]])})
    >>> trainable.extra['kernel']
    Array([[1., 1.]], dtype=float32)
    >>> probable = {'kernel': jnp.array([[0.1, 0.9]])}
    >>> method.finish(trainable._replace(extra=probable), None)[0]
    {'kernel': Array([[0., 2.]], dtype=float32)}
  """
  check = prunes_to(sparsity, prunable=prunable)
  schedules.check_steps(interval=interval, num_intervals=num_intervals)
  for name, value in (('rate', rate), ('clip', clip)):
    if not 0 < value < math.inf:
      raise ValueError(f'`{name}` must lie in (0, inf); got {value}.')
  sparsities = budgets(sparsity, num_intervals, ramp)
  temperatures = inverse_temperatures(num_intervals)
  clipping = optax.clip_by_global_norm(clip)

  def cosine(count):
    share = jnp.minimum(count // interval, num_intervals) / num_intervals
    return rate * (1 + jnp.cos(jnp.pi * share)) / 2

  adam = optax.adam(cosine)

  def now(state):
    return jnp.minimum(state.count // interval, num_intervals - 1)

  def budget_at(probabilities, state):
    table = schedules.tabulate(probabilities, sparsities, allocation.pooled)
    return schedules.counts_at(table, now(state))

  def init(params):
    weights = selection.select(check(params), prunable)
    return Trainable(
      params, jax.tree.map(lambda w: jnp.ones(w.shape, jnp.float32), weights)
    )

  def transform(inner):
    inner = optax.with_extra_args_support(inner)

    def init_fn(trainable):
      states = inner.init(trainable.params), adam.init(trainable.extra)
      return SparseState(jnp.zeros([], jnp.int32), None, states)

    def update_fn(updates, state, params=None, **extra_args):
      check_given(params)
      updates, _ = clipping.update(updates, optax.EmptyState())
      of_weights, of_adam = state.inner_state
      weights, of_weights = inner.update(
        updates.params, of_weights, params.params, **extra_args
      )
      if not train_weights:
        weights = jax.tree.map(jnp.zeros_like, weights)
      moves, of_adam = adam.update(updates.extra, of_adam, params.extra)
      projected = project(
        optax.apply_updates(params.extra, moves),
        budget_at(params.extra, state),
      )
      moves = jax.tree.map(jnp.subtract, projected, params.extra)
      state = SparseState(state.count + 1, None, (of_weights, of_adam))
      return Trainable(weights, moves), state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)

  def effective(trainable, opt_state, key=None):
    check_trainable(trainable)
    state = state_of(opt_state)
    if key is None:
      budget = budget_at(trainable.extra, state)
      mask = ranking.top_k(trainable.extra, budget)
      return masks.apply_mask(trainable.params, mask)
    inverse = jnp.array(temperatures, jnp.float32)[now(state)]
    soft = concrete(key, trainable.extra, inverse)
    return jax.tree.map(
      lambda w, m: w if m is None else w * m.astype(w.dtype),
      trainable.params,
      soft,
    )

  def finish(trainable, opt_state, key=None):
    del opt_state
    if key is None:
      return keep_best(trainable.params, trainable.extra, sparsity)
    mask = jax.tree.map(
      lambda p, k: jax.random.uniform(k, p.shape) < p,
      trainable.extra,
      selection.leaf_keys(key, trainable.extra),
    )
    return masks.apply_mask(trainable.params, mask), mask

  return SparseMethod(transform, effective, finish, init)


def budgets(
  sparsity: float, num_intervals: int, ramp: tuple[float, float]
) -> list[float]:
  """Returns the sparsity of each interval's budget.

  Example:
    >>> budgets(0.9, 10, ramp=(0.1, 0.3))[:4]
    [0.0, 0.0, 0.7875, 0.9]
  """
  begin, end = (math.floor(x * num_intervals) for x in ramp)
  if not (0 <= begin < end <= num_intervals - 1):
    raise ValueError(
      f'`ramp`={ramp} must take one interval at least and end before the last; '
      f'of {num_intervals} intervals it begins in {begin} and ends in {end}.'
    )
  falling = schedules.cubic(sparsity, end - begin)
  return [0.0] * begin + falling + [sparsity] * (num_intervals - end - 1)


def inverse_temperatures(num_intervals: int) -> list[float]:
  """Returns T of each interval: 1 / (0.97 (1 - e / E) + 0.03).

  Example:
    >>> [round(t, 2) for t in inverse_temperatures(4)]
    [1.0, 1.32, 1.94, 3.67]
  """
  return [
    1 / (0.97 * (1 - e / num_intervals) + 0.03) for e in range(num_intervals)
  ]


def concrete(
  key: jax.Array, probabilities: Any, inverse_temperature: jax.typing.ArrayLike
) -> Any:
  """Draws a soft mask: above 1/2 with the probability that a weight has.

  Each leaf draws from its own key, made from its path.

  Args:
    key: a key of `jax.random.key`.
    probabilities: tree of arrays, in [0, 1] up to rounding.
    inverse_temperature: T, above 0; the higher, the harder.

  Returns:
    Tree of arrays in [0, 1].

  Example:
    >>> ps = {'kernel': jnp.array([0.0, 1.0])}
    >>> concrete(jax.random.key(0), ps, 1.0)['kernel'].round(3)
    Array([0., 1.], dtype=float32)
  """

  def draw(p, k):
    kept = _SHRINK + (1 - 2 * _SHRINK) * p
    pruned = _SHRINK + (1 - 2 * _SHRINK) * (1 - p)
    noise = jax.random.logistic(k, p.shape)
    logit = jnp.log(kept) - jnp.log(pruned)
    return jax.nn.sigmoid(inverse_temperature * (logit + noise))

  keys = selection.leaf_keys(key, probabilities)
  return jax.tree.map(draw, probabilities, keys)


def project(points: Any, budget: jax.typing.ArrayLike) -> Any:
  """Finds the nearest probabilities that sum up to no more than a budget.

  They are clip(z - v, 0, 1), with one v >= 0 for the whole tree: 0 if the
  budget is met without, else where it is met exactly. By bisection, and a last
  step on the straight piece that is left.

  Args:
    points: z, tree of arrays.
    budget: K, at least 0.

  Returns:
    Tree of arrays in [0, 1].

  Example:
    >>> found = project({'kernel': jnp.array([1.0, 1.0, 0.1])}, 1.5)
    >>> [round(float(p), 3) for p in found['kernel']]
    [0.75, 0.75, 0.0]
  """
  leaves = jax.tree.leaves(points)

  def excess(v):
    return sum(jnp.sum(jnp.clip(z - v, 0, 1)) for z in leaves) - budget

  def halve(_, ends):
    low, high = ends
    middle = (low + high) / 2
    over = excess(middle) > 0
    return jnp.where(over, middle, low), jnp.where(over, high, middle)

  highest = jnp.maximum(0, jnp.stack([jnp.max(z) for z in leaves]).max())
  ends = jnp.zeros_like(highest), highest
  low, high = jax.lax.fori_loop(0, _HALVINGS, halve, ends)
  moving = sum(jnp.sum((z > low) & (z - low < 1)) for z in leaves)
  v = jnp.clip(low + excess(low) / jnp.maximum(moving, 1), low, high)
  v = jnp.where(excess(0.0) > 0, v, 0)
  return jax.tree.map(lambda z: jnp.clip(z - v, 0, 1), points)
