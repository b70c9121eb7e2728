"""Optimized gradient-driven sparsity."""

import math

import jax
import jax.numpy as jnp
import optax

from ong_jax import allocation, masks, ranking, schedules, selection
from ong_jax.checks import check_number
from ong_jax.method import SparseMethod, prunes_to
from ong_jax.pruners import magnitude
from ong_jax.states import SparseState, check_given, mask_of
from ong_jax.trainable import Trainable, check_trainable, undecayed
from ong_jax.types import Allocation, Predicate


def optg(
  *,
  sparsity: float,
  interval: int,
  num_intervals: int,
  beta: float = 1.0,
  train_weights: bool = True,
  allocate: Allocation = allocation.pooled,
  prunable: Predicate = selection.is_kernel,
) -> SparseMethod:
  """Learns a score for each weight: what pruning it would cost, summed up.

  The gradient of a score is w dL/dw, dL/dw at the pruned network, for kept and
  pruned weights alike; that of a weight is 0 where it is pruned. At every
  interval the highest scores are kept anew. One gate, g(e) = 1 / (1 + exp(-beta
  (e - E / 2))) in interval e of E, opens for both: the sparsity is s g(e), and
  the updates of scores are those of the inner optimizer, undecayed, times g(e).
  The first interval is dense, the last has s exactly.

  Args:
    sparsity: s, in [0, 1).
    interval: steps that one mask is held; an epoch in the paper.
    num_intervals: E, at least 2. The last mask is held from there on.
    beta: how steeply the gate opens, above 0. At 1, as in the paper, nearly all
      of it takes ten intervals, and in runs of fewer the whole run.
    train_weights: if not, nothing but the scores is trained: what is found is a
      supermask of the weights as they are.
    allocate: how the budget is split; by default one ranking over all leaves.
    prunable: `(path, leaf) -> bool`.

  Returns:
    A `SparseMethod`; it trains a `Trainable` whose `extra` are the scores,
    float32, shaped as their weights.

  References:
    Zhang et al., OptG: optimizing gradient-driven criteria in network sparsity,
    2022, arXiv:2201.12826.

  Example:
    >>> method = optg(sparsity=0.5, interval=1, num_intervals=2)
    >>> trainable = method.init({'kernel': jnp.array([[1.0, 2.0]])})
    >>> tx = method.transform(optax.sgd(1.0))
    >>> grads = trainable._replace(extra={'kernel': jnp.array([[-1.0, 1.0]])})
    >>> updates, opt_state = tx.update(grads, tx.init(trainable), trainable)
    >>> mask_of(opt_state)
    {'kernel': Array([[ True, False]], dtype=bool)}
  """
  check = prunes_to(sparsity, allocate, prunable)
  schedules.check_steps(interval=interval, num_intervals=num_intervals)
  if num_intervals < 2:
    raise ValueError('`num_intervals` must be at least 2; got 1.')
  check_number('beta', beta)
  if not 0 < beta < math.inf:
    raise ValueError(f'`beta` must lie in (0, inf); got {beta}.')
  gates = gate(num_intervals, beta)
  sparsities = [0.0, *(sparsity * g for g in gates[1:-1]), sparsity]

  def init(params):
    weights = selection.select(check(params), prunable)
    # Early updates are as small as 1e-24: bfloat16 would lose their order.
    return Trainable(
      params,
      jax.tree.map(lambda w: jnp.zeros(w.shape, jnp.float32), weights),
    )

  def transform(inner):
    inner = undecayed(inner)

    def init_fn(trainable):
      everything = magnitude(sparsity=0, prunable=prunable)(trainable.params)
      return SparseState(
        jnp.zeros([], jnp.int32), everything, inner.init(trainable)
      )

    def update_fn(updates, state, params=None, **extra_args):
      check_given(params)
      updates, inner_state = inner.update(
        updates, state.inner_state, params, **extra_args
      )
      now = jnp.minimum(state.count // interval, num_intervals - 1)
      opened = jnp.array(gates, jnp.float32)[now]
      updates = updates._replace(
        extra=jax.tree.map(lambda u: opened * u, updates.extra)
      )
      if not train_weights:
        zeros = jax.tree.map(jnp.zeros_like, updates.params)
        updates = updates._replace(params=zeros)
      ranked = optax.apply_updates(params.extra, updates.extra)
      table = schedules.tabulate(ranked, sparsities, allocate)
      count = state.count + 1
      row, rest = jnp.divmod(count, interval)
      mask = jax.lax.cond(
        (rest == 0) & (row < num_intervals),
        lambda: ranking.top_k(ranked, schedules.counts_at(table, row)),
        lambda: state.mask,
      )
      return updates, SparseState(count, mask, inner_state)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)

  def effective(trainable, opt_state, key=None):
    check_trainable(trainable)
    del key
    mask = mask_of(opt_state)
    masks.check_like(trainable.params, mask)
    return jax.tree.map(
      lambda w, x, m: w if m is None else _scored(w, x, m), *trainable, mask
    )

  def finish(trainable, opt_state, key=None):
    return effective(trainable, opt_state, key), mask_of(opt_state)

  return SparseMethod(transform, effective, finish, init)


def gate(num_intervals: int, beta: float) -> list[float]:
  """Returns 1 / (1 + exp(-beta (e - E / 2))) for e = 0, ..., E - 1.

  Example:
    >>> gate(2, beta=1.0)
    [0.2689414213699951, 0.5]
  """
  middle = num_intervals / 2
  return [_sigmoid(beta * (e - middle)) for e in range(num_intervals)]


def _sigmoid(x: float) -> float:
  if x >= 0:
    return 1 / (1 + math.exp(-x))
  return math.exp(x) / (1 + math.exp(x))


@jax.custom_vjp
def _scored(w, x, m):
  """Masks w; on the way back, the score x gets w times the gradient."""
  del x
  return jnp.where(m, w, jnp.zeros_like(w))


def _scored_fwd(w, x, m):
  return _scored(w, x, m), (w, x, m)


def _scored_bwd(kept, g):
  w, x, m = kept
  return jnp.where(m, g, jnp.zeros_like(g)), (g * w).astype(x.dtype), None


_scored.defvjp(_scored_fwd, _scored_bwd)
