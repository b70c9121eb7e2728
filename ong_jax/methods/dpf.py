"""Dynamic pruning with feedback."""

import jax
import jax.numpy as jnp

from ong_jax import allocation, ranking, schedules, scores, selection
from ong_jax.method import SparseMethod, prunes_to, straight_through
from ong_jax.pruners import magnitude
from ong_jax.transforms import latent_transform
from ong_jax.types import Allocation, Predicate


def dpf(
  *,
  sparsity: float,
  interval: int,
  num_updates: int,
  refresh: int = 16,
  allocate: Allocation = allocation.pooled,
  prunable: Predicate = selection.is_kernel,
) -> SparseMethod:
  """Trains dense weights by the gradients at the pruned ones.

  What pruning did wrong accumulates in the weights behind the mask, which
  return when they have grown. The sparsity rises as in `gmp`; the mask, of the
  largest weights, is made anew more often than that, until training ends.

  Args:
    sparsity: after the last rise; in [0, 1).
    interval: steps between two rises of the sparsity, and before the first.
    num_updates: how often the sparsity rises.
    refresh: steps between two masks. There is one at every rise as well.
    allocate: how the budget is split; by default one ranking over all leaves.
    prunable: `(path, leaf) -> bool`.

  Returns:
    A `SparseMethod`.

  References:
    Lin et al., Dynamic model pruning with feedback, 2020, arXiv:2006.07253.

  Example:
    >>> method = dpf(sparsity=0.5, interval=1, num_updates=1)
    >>> params = {'kernel': jnp.array([[1.0, 2.0]])}
    >>> tx = method.transform(optax.sgd(1.0))
    >>> grads = {'kernel': jnp.array([[-5.0, 0.0]])}
    >>> updates, opt_state = tx.update(grads, tx.init(params), params)
    >>> params = optax.apply_updates(params, updates)
    >>> params, method.effective(params, opt_state)
    ({'kernel': Array([[6., 2.]], dtype=float32)}, \
{'kernel': Array([[6., 0.]], dtype=float32)})
  """
  schedules.check_steps(interval=interval, refresh=refresh)
  sparsities = schedules.cubic(sparsity, num_updates)

  def renew(params, state):
    weights = selection.select(params, prunable)
    table = schedules.tabulate(weights, sparsities, allocate)
    row, rest = jnp.divmod(state.count, interval)
    due = (state.count % refresh == 0) | ((rest == 0) & (row <= num_updates))
    mask = jax.lax.cond(
      due,
      lambda: ranking.top_k(
        scores.magnitude(weights), schedules.counts_at(table, row)
      ),
      lambda: state.mask,
    )
    return state._replace(mask=mask)  # Momentum is that of the dense weights.

  def transform(inner):
    everything = magnitude(sparsity=0, prunable=prunable)
    return latent_transform(inner, everything, renew)

  init = prunes_to(sparsity, allocate, prunable)
  return SparseMethod(transform, straight_through, init=init)
