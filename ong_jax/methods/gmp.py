"""Gradual magnitude pruning."""

import jax
import jax.numpy as jnp

from ong_jax import (
  allocation,
  ranking,
  schedules,
  scores,
  selection,
  values,
)
from ong_jax.checks import check_function
from ong_jax.method import SparseMethod, prunes_to
from ong_jax.pruners import magnitude
from ong_jax.states import remask
from ong_jax.transforms import latent_transform, masked_transform
from ong_jax.types import Allocation, Predicate, Score


def gmp(
  *,
  sparsity: float,
  interval: int,
  num_updates: int,
  score: Score = scores.magnitude,
  recover: bool = False,
  allocate: Allocation = allocation.pooled,
  prunable: Predicate = selection.is_kernel,
) -> SparseMethod:
  """Prunes in many small steps while training goes on, by magnitude or a score.

  After t updates of the mask the sparsity is s - s (1 - t / n)^3. Momentum is 0
  where the mask has just changed; the authors' code has it 0 wherever the mask
  is, which differs for what `recover` keeps.

  Args:
    sparsity: s, after the last update of the mask; in [0, 1).
    interval: steps between two updates of the mask, and before the first.
    num_updates: n. Leave time to train after the last of them, which comes at
      step n * interval.
    score: `weights -> scores` by which weights stay, in the place of their
      magnitude. It is traced, so one that sums over a kernel, as an NMF does,
      may differ in the last bits where kernels are split over devices.
    recover: whether pruned weights may return. If so, they live on behind the
      mask: no gradient reaches them, but weight decay does, and each mask is
      made anew of all weights. If not, they are 0 for good, but that an
      `allocate` by leaf may round one leaf up as it goes.
    allocate: how the budget is split; by default one ranking over all leaves.
    prunable: `(path, leaf) -> bool`.

  Returns:
    A `SparseMethod`.

  Raises:
    TypeError: `score` is no function.
    ValueError: a number is out of range; from `update`, scores are not shaped
      as the weights.

  References:
    Zhu and Gupta, To prune, or not to prune: exploring the efficacy of pruning
    for model compression, 2017, arXiv:1710.01878.

  Example:
    >>> method = gmp(sparsity=0.75, interval=1, num_updates=1)
    >>> params = {'kernel': jnp.array([[4.0, 3.0, 2.0, 1.0]])}
    >>> tx = method.transform(optax.sgd(0.1))
    >>> grads = {'kernel': jnp.zeros((1, 4))}
    >>> updates, opt_state = tx.update(grads, tx.init(params), params)
    >>> params = optax.apply_updates(params, updates)
    >>> method.finish(params, opt_state)[0]
    {'kernel': Array([[4., 0., 0., 0.]], dtype=float32)}
  """
  check_function('score', score, '`scores.magnitude`')
  schedules.check_steps(interval=interval)
  sparsities = schedules.cubic(sparsity, num_updates)

  def renew(params, state):
    weights = selection.select(params, prunable)
    table = schedules.tabulate(weights, sparsities, allocate)
    row, rest = jnp.divmod(state.count, interval)

    def prune():
      ranked = score(weights)
      values.check_shapes('score', ranked, weights)
      ranked = jax.tree.map(_lowest_for_nan, ranked)
      if not recover:  # Whatever their score, the pruned ones stay pruned.
        ranked = jax.tree.map(
          lambda x, m: jnp.where(m, x, -jnp.inf), ranked, state.mask
        )
      return ranking.top_k(ranked, schedules.counts_at(table, row))

    due = (rest == 0) & (row <= num_updates)
    return remask(state, jax.lax.cond(due, prune, lambda: state.mask))

  def transform(inner):
    everything = magnitude(sparsity=0, prunable=prunable)
    wrap = latent_transform if recover else masked_transform
    return wrap(inner, everything, renew)

  init = prunes_to(sparsity, allocate, prunable)
  return SparseMethod(transform, init=init)


def _lowest_for_nan(x: jax.Array) -> jax.Array:
  """Ranks NaN below all numbers, but above what is pruned."""
  return jnp.where(jnp.isnan(x), jnp.finfo(x.dtype).min, x)
