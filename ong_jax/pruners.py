"""Pruners, `params -> mask`: a score, a budget, an allocation."""

import operator
from typing import Any

import jax

from ong_jax import (
  allocation,
  devices,
  masks,
  ranking,
  scores,
  selection,
  values,
)
from ong_jax.checks import check_function
from ong_jax.patterns import Pattern
from ong_jax.saliency import Rank, Saliency, tempered
from ong_jax.types import (
  Allocation,
  Counts,
  Mask,
  Measure,
  Params,
  Predicate,
  Pruner,
  Score,
  Weights,
)


def one_shot(
  score: Score,
  sparsity: float | None = None,
  *,
  allocate: Allocation = allocation.uniform,
  pattern: Pattern | None = None,
  measure: Measure | None = None,
  prunable: Predicate = selection.is_kernel,
) -> Pruner:
  """Makes a pruner that keeps the weights of the highest scores.

  Args:
    score: `weights -> scores`, such as `scores.magnitude`.
    sparsity: fraction of the prunable weights to remove, in [0, 1). Exactly
      N - round(sparsity * N) of them are kept, ties included.
    allocate: how the budget is split among leaves: `allocation.uniform`,
      `erk`, or `pooled` for one ranking over all.
    pattern: instead of `sparsity` and `allocate`, a budget of its own and what
      competes for it; see `ong_jax.patterns`.
    measure: `params -> values` shaped as the weights, which the score is of
      instead of the weights themselves; see `ong_jax.calibrated`.
    prunable: `(path, leaf) -> bool`, which leaves are weights.

  Returns:
    A pure function `params -> mask`. The mask is a tree of bool arrays like
    the params, True = kept, `None` where not prunable. The pruner can be
    jitted; then what depends on values is not checked.

  Raises:
    ValueError: at once for a `sparsity` out of range, or for one and a
      pattern; from the pruner for
      non-finite weights, for NaN scores, and for a budget below one weight a
      leaf or below the floors of `scores.at_least`.

  Example:
    >>> prune = one_shot(scores.magnitude, 0.5)
    >>> prune({'kernel': jnp.array([[1.0, -3.0]]), 'bias': jnp.zeros(2)})
    {'bias': None, 'kernel': Array([[False,  True]], dtype=bool)}
  """
  if (sparsity is None) == (pattern is None):
    raise ValueError(
      'One of `sparsity` and `pattern` must be given; got '
      f'{"neither" if pattern is None else "both"}.'
    )
  check_function('score', score, '`scores.magnitude`')
  check_function('allocate', allocate, '`allocation.erk`')
  check_function('prunable', prunable, '`selection.is_kernel`')
  if pattern is None:
    masks.check_sparsity(sparsity)
  elif not isinstance(pattern, Pattern):
    raise TypeError(
      '`pattern` must be one of `ong_jax.patterns`, such as '
      f'`patterns.n_of_m(2, 4)`; got {pattern!r}.'
    )

  def prune(params: Params) -> Mask:
    weights = selection.select(params, prunable)
    counts = None
    if pattern is None:
      counts = _counts(allocate(weights, sparsity), weights)
    values.check_finite(weights)
    measured = weights
    if measure:
      measured = measure(params)
      values.check_measured(measured)
      values.check_shapes('measure', measured, weights)
    ranked = score(measured)
    values.check_scores(ranked, counts)
    if pattern is None:
      values.check_shapes('score', ranked, weights)
      mask = ranking.top_k(ranked, counts)
    else:
      mask = pattern.expand(pattern.choose(ranked), params)
    masks.check_like(params, mask)  # Scores may have had other shapes.
    return devices.split_like(params, mask)

  return prune


def _counts(counts: Counts, weights: Weights) -> Counts:
  """Reads what an allocation has returned."""
  alike = (jax.tree.structure(0), jax.tree.structure(weights))
  try:
    if jax.tree.structure(counts) in alike:
      return jax.tree.map(operator.index, counts)
  except TypeError:
    pass
  raise TypeError(
    '`allocate` must return one int, or an int for each of the weights; got '
    f'{counts!r:.200}.'
  )


def ong(
  key: jax.Array,
  *,
  sparsity: float,
  saliency: Saliency = tempered,
  rank: Rank = 1,
  allocate: Allocation = allocation.pooled,
  prunable: Predicate = selection.is_kernel,
  **options: Any,
) -> Pruner:
  """Makes a pruner by the saliency that an NMF of the weights shows.

  Keeps the largest weights, those first that lie where rows and columns of
  their kernel carry much. The reconstructed ONG is `saliency=saliency.residual,
  rank=7`, for weights at initialization alone; see `scores.ong`.

  Args:
    key: of the factorizations. Keep it apart from the seed of a training run,
      so that the same weights always give the same mask.
    sparsity: fraction of the prunable weights to remove, in [0, 1).
    saliency: what is made of |W| and its factors; see `scores.ong`.
    rank: of the factorization; see `scores.ong`.
    allocate: how the budget is split; by default one ranking over all leaves.
    prunable: `(path, leaf) -> bool`.
    **options: `inputs` of `scores.ong`, and those of `nmf.nmf`: solver, start,
      max_sweeps, tol, restarts.

  Returns:
    A function `params -> mask`; see `one_shot`.

  Example:
    >>> params = {'fc': {'kernel': jnp.arange(64.0).reshape(8, 8)}}
    >>> mask = ong(jax.random.key(0), sparsity=0.75)(params)
    >>> int(mask['fc']['kernel'].sum())
    16

  References:
    Behera and Prasad, ONG: One-Shot NMF-based Gradient Masking for Efficient
    Model Sparsification, 2025, arXiv:2508.12891.
  """
  score = scores.ong(key, saliency=saliency, rank=rank, **options)
  return one_shot(score, sparsity, allocate=allocate, prunable=prunable)


def magnitude(
  *,
  sparsity: float,
  allocate: Allocation = allocation.pooled,
  prunable: Predicate = selection.is_kernel,
) -> Pruner:
  """Makes a pruner that keeps the weights of largest magnitude.

  Args:
    sparsity: fraction of the prunable weights to remove, in [0, 1).
    allocate: how the budget is split; by default one ranking over all leaves.
    prunable: `(path, leaf) -> bool`.

  Returns:
    A function `params -> mask`; see `one_shot`.

  Example:
    >>> magnitude(sparsity=0.5)({'kernel': jnp.array([[1.0, -3.0]])})
    {'kernel': Array([[False,  True]], dtype=bool)}
  """
  return one_shot(
    scores.magnitude, sparsity, allocate=allocate, prunable=prunable
  )


def lamp(
  *, sparsity: float, prunable: Predicate = selection.is_kernel
) -> Pruner:
  """Makes a pruner by layer-adaptive magnitude, in one ranking.

  Each squared weight is divided by the sum of those of its leaf that are not
  below it; see `scores.lamp`. No leaf is emptied before all are down to one
  weight.

  Args:
    sparsity: fraction of the prunable weights to remove, in [0, 1).
    prunable: `(path, leaf) -> bool`.

  Returns:
    A function `params -> mask`; see `one_shot`.

  References:
    Lee et al., Layer-adaptive sparsity for the magnitude-based pruning, 2021,
    arXiv:2010.07611.

  Example:
    >>> params = {'a': {'kernel': jnp.array([[1.0, 2.0]])},
    ...           'b': {'kernel': jnp.array([[30.0, 10.0]])}}
    >>> lamp(sparsity=0.5)(params)
    {'a': {'kernel': Array([[False,  True]], dtype=bool)}, \
'b': {'kernel': Array([[ True, False]], dtype=bool)}}
  """
  return one_shot(
    scores.lamp(scores.magnitude),
    sparsity,
    allocate=allocation.pooled,
    prunable=prunable,
  )


def random(
  key: jax.Array,
  *,
  sparsity: float,
  allocate: Allocation = allocation.erk,
  prunable: Predicate = selection.is_kernel,
) -> Pruner:
  """Makes a pruner that keeps weights at random: the baseline to beat.

  Args:
    key: of the draw; each leaf has its own, made from its path.
    sparsity: fraction of the prunable weights to remove, in [0, 1).
    allocate: how the budget is split; by default Erdős–Rényi-kernel.
    prunable: `(path, leaf) -> bool`.

  Returns:
    A function `params -> mask`; see `one_shot`.

  Example:
    >>> prune = random(jax.random.key(0), sparsity=0.5)
    >>> int(prune({'kernel': jnp.ones((4, 4))})['kernel'].sum())
    8
  """
  score = scores.random(key)
  return one_shot(score, sparsity, allocate=allocate, prunable=prunable)
