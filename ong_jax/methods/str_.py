"""Soft threshold reparameterization."""

import math

import jax
import jax.numpy as jnp

from ong_jax import allocation, selection
from ong_jax.checks import check_number
from ong_jax.method import SparseMethod, keep_best, prunes_to
from ong_jax.trainable import Trainable, check_trainable
from ong_jax.types import Allocation, Predicate


def str_(
  *,
  sparsity: float | None,
  start: float = -5.0,
  allocate: Allocation = allocation.pooled,
  prunable: Predicate = selection.is_kernel,
) -> SparseMethod:
  """Learns a threshold for each kernel, by which all its weights shrink.

  The network runs on sign(w) relu(|w| - sigmoid(theta)). Weight decay pulls
  theta to 0, which is a threshold of 1/2, and gradients resist: that decides
  the sparsity, which cannot be aimed at but by `start` and the decay. So
  `finish` ends with an exact projection; train on under its mask.

  Args:
    sparsity: that `finish` prunes to, in [0, 1), by |w| - sigmoid(theta); None
      leaves it as it has come to be. Where more had been pruned, what is kept
      beside the survivors is 0 as well.
    start: theta at the outset. The default is a threshold of 0.007; the paper's
      values belong to its networks and schedules.
    allocate: how that budget is split; by default one ranking over all leaves.
    prunable: `(path, leaf) -> bool`.

  Returns:
    A `SparseMethod`; it trains a `Trainable` whose `extra` is a theta, [], for
    each kernel. The inner optimizer sees both, decays both, and so what it
    masks must be a function of the tree.

  References:
    Kusupati et al., Soft threshold weight reparameterization for learnable
    sparsity, 2020, arXiv:2002.03231.

  Example:
    >>> method = str_(sparsity=None, start=0.0)  # A threshold of 1/2.
    >>> trainable = method.init({'kernel': jnp.array([[-2.0, 0.25]])})
    >>> method.effective(trainable, None)
    {'kernel': Array([[-1.5,  0. ]], dtype=float32)}
  """
  check_number('start', start)
  if not math.isfinite(start):
    raise ValueError(f'`start` must be finite; got {start}.')
  check = prunes_to(sparsity, allocate, prunable)

  def init(params):
    weights = selection.select(check(params), prunable)
    thetas = jax.tree.map(lambda w: jnp.full([], start, w.dtype), weights)
    return Trainable(params, thetas)

  def effective(trainable, opt_state, key=None):
    check_trainable(trainable)
    del opt_state, key

    def shrink(w, theta):
      return jnp.sign(w) * jax.nn.relu(jnp.abs(w) - jax.nn.sigmoid(theta))

    return jax.tree.map(
      lambda w, theta: w if theta is None else shrink(w, theta), *trainable
    )

  def finish(trainable, opt_state, key=None):
    params = effective(trainable, opt_state, key)
    if sparsity is None:
      mask = jax.tree.map(lambda w: w != 0, selection.select(params, prunable))
      return params, mask
    ranked = jax.tree.map(
      lambda w, theta: jnp.abs(w) - jax.nn.sigmoid(theta),
      selection.select(trainable.params, prunable),
      trainable.extra,
    )
    return keep_best(params, ranked, sparsity, allocate)

  return SparseMethod(effective=effective, finish=finish, init=init)
