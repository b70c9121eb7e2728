"""Global sparse momentum."""

import jax
import jax.numpy as jnp
import optax

from ong_jax import allocation, masks, ranking, selection
from ong_jax.method import SparseMethod, dense, finish_largest, prunes_to
from ong_jax.states import check_given
from ong_jax.types import Allocation, Predicate


def gsm(
  *,
  sparsity: float,
  allocate: Allocation = allocation.pooled,
  prunable: Predicate = selection.is_kernel,
) -> SparseMethod:
  """Gives a gradient only to the weights that matter most, each step anew.

  Those are the largest |w * dL/dw|; the others are left to weight decay and
  momentum, and fade. So it needs decay, and a high momentum (the paper: 0.98).
  The network stays dense until `finish` keeps its largest weights; train on
  under that mask.

  Only prunable weights are ranked; all others always get their gradient.

  Args:
    sparsity: fraction of the prunable weights without a gradient, and of those
      that are pruned in the end; in [0, 1).
    allocate: how both budgets are split; by default over all leaves.
    prunable: `(path, leaf) -> bool`.

  Returns:
    A `SparseMethod`.

  References:
    Ding et al., Global sparse momentum SGD for pruning very deep neural
    networks, 2019, arXiv:1909.12778.

  Example:
    >>> tx = gsm(sparsity=0.5).transform(optax.sgd(1.0))
    >>> params = {'kernel': jnp.array([[1.0, 2.0]])}
    >>> grads = {'kernel': jnp.array([[3.0, 1.0]])}
    >>> tx.update(grads, tx.init(params), params)[0]
    {'kernel': Array([[-3., -0.]], dtype=float32)}
  """

  masks.check_sparsity(sparsity)

  def keep_what_matters(updates, params):
    check_given(params)
    saliency = jax.tree.map(
      lambda w, g: jnp.abs(w * g),
      selection.select(params, prunable),
      selection.select(updates, prunable),
    )
    mask = ranking.top_k(saliency, allocate(saliency, sparsity))
    return masks.apply_mask(updates, mask)

  return SparseMethod(
    transform=lambda inner: optax.chain(
      optax.stateless(keep_what_matters), inner
    ),
    effective=dense,
    finish=finish_largest(sparsity, allocate, prunable),
    init=prunes_to(sparsity, allocate, prunable),
  )
