"""Straight-through magnitude: STE, SR-STE, and discovering neural wirings."""

import math

import jax
import jax.numpy as jnp
import optax

from ong_jax import allocation, patterns, pruners, scores, selection
from ong_jax.checks import check_number
from ong_jax.method import SparseMethod, straight_through
from ong_jax.states import check_given
from ong_jax.transforms import latent_transform
from ong_jax.types import Allocation, Predicate, Score


def ste(
  pattern: patterns.Pattern,
  *,
  decay: float = 0.0,
  score: Score = scores.magnitude,
  prunable: Predicate = selection.is_kernel,
) -> SparseMethod:
  """Runs on what a pattern chooses of the weights of each step.

  Every weight, kept or not, gets the gradient at the pruned network. So what is
  pruned drifts behind the mask, returns where it has grown, and decays by the
  weight decay of the inner optimizer; `finish` drops it.

  With `decay` it is SR-STE: lambda (1 - M) w is added to the raw gradient,
  before anything of the inner optimizer, so that fewer masks change. That was
  made for SGD: an adaptive optimizer divides it by the second moment with the
  gradient, and it is no longer lambda that decides.

  Args:
    pattern: `patterns.unstructured`, `n_of_m`, or another.
    decay: lambda, at least 0; 2e-4 in the paper.
    score: of the weights, by which the pattern chooses. Whole channels want
      `patterns.per_channel(names, scores.magnitude)`.
    prunable: `(path, leaf) -> bool`.

  Returns:
    A `SparseMethod`. Its weights are dense: the sparse ones are what
    `effective` and `finish` return.

  Raises:
    ValueError: `decay` is below 0 or not finite.
    TypeError: `pattern` is none.

  References:
    Bengio et al., Estimating or propagating gradients through stochastic
    neurons, 2013, arXiv:1308.3432.
    Zhou et al., Learning N:M fine-grained structured sparse neural networks
    from scratch, 2021, arXiv:2102.04010.

  Example:
    >>> method = ste(patterns.n_of_m(1, 2), decay=0.5)
    >>> params = {'kernel': jnp.array([[1.0], [2.0]])}
    >>> tx = method.transform(optax.sgd(1.0))
    >>> opt_state = tx.init(params)
    >>> method.effective(params, opt_state)['kernel'].ravel()
    Array([0., 2.], dtype=float32)
    >>> grads = {'kernel': jnp.zeros((2, 1))}
    >>> tx.update(grads, opt_state, params)[0]['kernel'].ravel()
    Array([-0.5, -0. ], dtype=float32)
  """
  check_number('decay', decay)
  if not 0 <= decay < math.inf:
    raise ValueError(f'`decay` must lie in [0, inf); got {decay}.')
  prune = pruners.one_shot(score, pattern=pattern, prunable=prunable)
  again = jax.jit(prune)  # In training no value is looked at on the host.

  def renew(params, state):
    return state._replace(mask=again(params))

  def transform(inner):
    latent = latent_transform(inner, prune, renew)
    if not decay:
      return latent

    def update_fn(updates, state, params=None, **extra_args):
      check_given(params)
      updates = jax.tree.map(
        lambda p, g, m: g if m is None else jnp.where(m, g, g + decay * p),
        params,
        updates,
        state.mask,
      )
      return latent.update(updates, state, params, **extra_args)

    return optax.GradientTransformationExtraArgs(latent.init, update_fn)

  return SparseMethod(transform, straight_through)


def dnw(
  *,
  sparsity: float,
  allocate: Allocation = allocation.pooled,
  prunable: Predicate = selection.is_kernel,
) -> SparseMethod:
  """Runs on the largest weights of each step, and trains all of them.

  Every weight gets the gradient at the pruned network, so one that should have
  been there grows until it is: `ste` without a decay, under one ranking.

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
  return ste(patterns.unstructured(sparsity, allocate), prunable=prunable)
