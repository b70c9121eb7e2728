"""Learning-compression, as selective weight decay."""

import math

import jax
import jax.numpy as jnp
import optax

from ong_jax import allocation, ranking, scores, selection
from ong_jax.method import SparseMethod, dense, finish_largest, prunes_to
from ong_jax.states import check_given
from ong_jax.types import Allocation, Predicate


def lc(
  *,
  sparsity: float,
  weight_decay: float,
  allocate: Allocation = allocation.pooled,
  prunable: Predicate = selection.is_kernel,
) -> SparseMethod:
  """Lets weight decay act only on the weights that are to be pruned.

  It takes the decay of the inner optimizer back from the largest weights of
  each step; the penalty is constant, where the authors' of BIMP once let it
  grow. The network stays dense until `finish` keeps its largest weights; train
  on under that mask.

  Args:
    sparsity: fraction of the prunable weights that decay, and of those that
      are pruned in the end; in [0, 1).
    weight_decay: that the inner optimizer adds to gradients, as
      `optax.add_decayed_weights` does at the head of a chain. Decay that is
      decoupled from the gradients (AdamW's) cannot be taken back here.
    allocate: how both budgets are split; by default over all leaves.
    prunable: `(path, leaf) -> bool`.

  Returns:
    A `SparseMethod`.

  References:
    Carreira-Perpinan and Idelbayev, "Learning-compression" algorithms for
    neural net pruning, CVPR 2018; here in the penalty form of BIMP's framework
    (Zimmer et al., 2023, arXiv:2111.00843).

  Example:
    >>> inner = optax.chain(optax.add_decayed_weights(0.5), optax.sgd(1.0))
    >>> tx = lc(sparsity=0.5, weight_decay=0.5).transform(inner)
    >>> params = {'kernel': jnp.array([[1.0, 2.0]])}
    >>> grads = {'kernel': jnp.zeros((1, 2))}
    >>> tx.update(grads, tx.init(params), params)[0]
    {'kernel': Array([[-0.5, -0. ]], dtype=float32)}
  """
  if not 0 <= weight_decay < math.inf:
    raise ValueError(
      f'`weight_decay` must lie in [0, inf); got {weight_decay}.'
    )

  def spare_the_largest(updates, params):
    check_given(params)
    weights = selection.select(params, prunable)
    mask = ranking.top_k(scores.magnitude(weights), allocate(weights, sparsity))
    return jax.tree.map(
      lambda u, w, m: u if m is None else jnp.where(m, u - weight_decay * w, u),
      updates,
      params,
      mask,
    )

  return SparseMethod(
    transform=lambda inner: optax.chain(
      optax.stateless(spare_the_largest), inner
    ),
    effective=dense,
    finish=finish_largest(sparsity, allocate, prunable),
    init=prunes_to(sparsity, allocate, prunable),
  )
