"""Iterative soft shrinkage by a percentage."""

import numbers

import jax
import jax.numpy as jnp
import optax

from ong_jax import allocation, ranking, scores, selection
from ong_jax.method import SparseMethod, dense, finish_largest, prunes_to
from ong_jax.states import check_given
from ong_jax.types import Allocation, Predicate


def iss_p(
  *,
  sparsity: float,
  shrink: float = 0.05,
  allocate: Allocation = allocation.uniform,
  prunable: Predicate = selection.is_kernel,
) -> SparseMethod:
  """Shrinks the smallest weights at the end of each step, each step anew.

  These are the weights that would be pruned after the update; they become
  (1 - shrink) w. All weights go on training: one whose gradient makes up for
  what it loses grows out of them again. The network stays dense until `finish`
  keeps its largest weights; train on under that mask.

  Args:
    sparsity: fraction of the prunable weights that shrink, and of those that
      are pruned in the end; in [0, 1).
    shrink: the fraction of its magnitude that a weight loses, in [0, 1]. At 0
      training is dense, at 1 weights are zeroed in each step. The default is
      that of the commands that the authors published, for super-resolution.
    allocate: how both budgets are split; by default alike for all leaves.
    prunable: `(path, leaf) -> bool`.

  Returns:
    A `SparseMethod`. The inner optimizer knows nothing of the shrinkage: its
    moments are those of its own updates.

  Raises:
    ValueError: a number is out of its range; from `init`, the sparsity leaves
      fewer weights than there are leaves.

  References:
    Wang et al., Iterative soft shrinkage learning for efficient image
    super-resolution, ICCV 2023, arXiv:2303.09650.

  Example:
    >>> tx = iss_p(sparsity=0.5, shrink=0.25).transform(optax.sgd(1.0))
    >>> params = {'kernel': jnp.array([[3.0, 4.0]])}
    >>> grads = {'kernel': jnp.array([[-2.0, 0.0]])}
    >>> updates, _ = tx.update(grads, tx.init(params), params)
    >>> optax.apply_updates(params, updates)
    {'kernel': Array([[5., 3.]], dtype=float32)}
  """
  if not (isinstance(shrink, numbers.Real) and 0 <= shrink <= 1):
    raise ValueError(f'`shrink` must lie in [0, 1]; got {shrink!r}.')

  def shrink_the_smallest(updates, params):
    check_given(params)
    after = selection.select(optax.apply_updates(params, updates), prunable)
    mask = ranking.top_k(scores.magnitude(after), allocate(after, sparsity))

    def shrunk(u, w, m):  # To (1 - shrink) (w + u): exact at both ends.
      if m is None:
        return u
      return jnp.where(m, u, (1 - shrink) * u - shrink * w)

    return jax.tree.map(shrunk, updates, params, mask)

  return SparseMethod(
    transform=lambda inner: optax.chain(
      inner, optax.stateless(shrink_the_smallest)
    ),
    effective=dense,
    finish=finish_largest(sparsity, allocate, prunable),
    init=prunes_to(sparsity, allocate, prunable),
  )
