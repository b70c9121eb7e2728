"""Discovering neural wirings."""

from ong_jax import allocation, ranking, scores, selection
from ong_jax.method import SparseMethod, straight_through
from ong_jax.pruners import magnitude
from ong_jax.transforms import latent_transform
from ong_jax.types import Allocation, Predicate


def dnw(
  *,
  sparsity: float,
  allocate: Allocation = allocation.pooled,
  prunable: Predicate = selection.is_kernel,
) -> SparseMethod:
  """Runs on the largest weights of each step, and trains all of them.

  Every weight gets the gradient at the pruned network, so one that should have
  been there grows until it is.

  Args:
    sparsity: from the first step on; in [0, 1).
    allocate: how the budget is split; by default one ranking over all leaves.
    prunable: `(path, leaf) -> bool`.

  Returns:
    A `SparseMethod`.

  References:
    Wortsman et al., Discovering neural wirings, 2019, arXiv:1906.00586.

  Example:
    >>> method = dnw(sparsity=0.5)
    >>> params = {'kernel': jnp.array([[1.0, 2.0]])}
    >>> opt_state = method.transform(optax.sgd(1.0)).init(params)
    >>> method.effective(params, opt_state)
    {'kernel': Array([[0., 2.]], dtype=float32)}
  """
  first = magnitude(sparsity=sparsity, allocate=allocate, prunable=prunable)

  def renew(params, state):
    weights = scores.magnitude(selection.select(params, prunable))
    mask = ranking.top_k(weights, allocate(weights, sparsity))
    return state._replace(mask=mask)

  return SparseMethod(
    lambda inner: latent_transform(inner, first, renew), straight_through
  )
