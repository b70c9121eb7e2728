"""Pruning by synaptic flow: what weights carry, seen without any data."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from ong_jax import allocation, masks, ranking, schedules, selection
from ong_jax.checks import check_function
from ong_jax.types import (
  Allocation,
  Measure,
  Params,
  Predicate,
  Pruner,
  Weights,
)
from ong_jax.values import check_finite


def synflow(
  flow: Callable[[Params], jax.Array],
  *,
  sparsity: float,
  rounds: int = 100,
  allocate: Allocation = allocation.pooled,
  prunable: Predicate = selection.is_kernel,
) -> Pruner:
  """Makes a pruner that keeps the paths which carry most, in many rounds.

  R is what a network puts out in sum for an input of ones, if all weights are
  positive and all else lets them through; the score of a weight is |w| dR/d|w|.
  After each round of t the density is (1 - s)^(t / n), and the flow is that of
  what is left, so that no layer is emptied while others have weights to spare.

  In double precision: the flow grows by some ten times a layer.

  Args:
    flow: `params -> [] R`. It gets |w| for weights and for all that is neither
      `scale` (1) nor `bias` (0), in float64, which the network must compute in
      (in Flax, `dtype=jnp.float64`, or None). Normalizations must be linear:
      BatchNorm in evaluation, with mean 0 and variance 1. What has no such
      form, as softmax and LayerNorm, is the caller's to replace: attention by
      the mean over positions, normalization by nothing.
    sparsity: fraction of the prunable weights to remove, in [0, 1).
    rounds: n, at least 1.
    allocate: how the budget is split; by default one ranking over all leaves.
    prunable: `(path, leaf) -> bool`.

  Returns:
    A function `params -> mask`; see `pruners.one_shot`.

  Raises:
    ValueError: of the function, the flow is not finite or not positive.

  References:
    Tanaka et al., Pruning neural networks without any data by iteratively
    conserving synaptic flow, 2020, arXiv:2006.05467.

  Example:
    >>> def flow(params):
    ...   return (jnp.ones(2) @ params['a']['kernel']
    ...           @ params['b']['kernel']).sum()
    >>> params = {'a': {'kernel': jnp.array([[1.0, 4.0], [3.0, 1.0]])},
    ...           'b': {'kernel': jnp.array([[-1.0], [1.0]])}}
    >>> mask = synflow(flow, sparsity=0.5)(params)
    >>> [leaf.tolist() for leaf in jax.tree.leaves(mask)]
    [[[False, True], [True, False]], [[False], [True]]]
  """
  masks.check_sparsity(sparsity)
  schedules.check_steps(rounds=rounds)
  check_function('flow', flow, 'one of the params')

  @jax.jit
  def cut(rest, weights, mask, counts):
    """Prunes once more: the new mask, and the flow before it."""
    shown = masks.apply_mask(weights, mask)
    value, scores = flow_scores(flow, rest, shown)
    # Of weights that carry nothing, the pruned ones stay pruned.
    ranked = jax.tree.map(lambda s, m: jnp.where(m, s, -1), scores, mask)
    return ranking.top_k(ranked, counts), value

  def prune(params):
    chosen = selection.select(params, prunable)
    check_finite(chosen)
    sparsities = schedules.geometric(sparsity, rounds)[1:]
    table = schedules.tabulate(chosen, sparsities, allocate)
    with jax.enable_x64(True):
      rest, weights = linear(params, prunable)
      mask = jax.tree.map(lambda w: jnp.ones(w.shape, bool), weights)

      def after(t, mask):
        return cut(rest, weights, mask, schedules.counts_at(table, t))[0]

      # A program of its own for a round, or one loop in what is jitted around.
      if any(isinstance(w, jax.core.Tracer) for w in jax.tree.leaves(weights)):
        return jax.lax.fori_loop(0, rounds, after, mask)
      _check_flow(cut(rest, weights, mask, schedules.counts_at(table, 0))[1])
      for t in range(rounds):
        mask = after(t, mask)
    return mask

  return prune


def synaptic_flow(
  flow: Callable[[Params], jax.Array],
  prunable: Predicate = selection.is_kernel,
) -> Measure:
  """Measures |w| dR/d|w| once, for rankings other than `synflow`'s rounds.

  Args:
    flow, prunable: see `synflow`.

  Returns:
    A function `params -> values`, in float32, divided by their maximum.

  Example:
    >>> measure = synaptic_flow(lambda params: params['kernel'].sum())
    >>> measure({'kernel': jnp.array([[-2.0], [1.0]])})
    {'kernel': Array([[1. ],
           [0.5]], dtype=float32)}
  """

  def measure(params):
    with jax.enable_x64(True):
      value, found = flow_scores(flow, *linear(params, prunable))
      _check_flow(value)
      highest = jnp.max(jnp.stack([x.max() for x in jax.tree.leaves(found)]))
      return jax.tree.map(lambda x: (x / highest).astype(jnp.float32), found)

  return measure


def linear(
  params: Params,
  prunable: Predicate = selection.is_kernel,
  dtype: jax.typing.DTypeLike = jnp.float64,
) -> tuple[Params, Weights]:
  """Makes weights positive, and lets all else let through what comes.

  Call it and what it returns under `jax.enable_x64(True)`, or lose precision.

  Returns:
    params in `dtype`, with 1 for `scale` and 0 for `bias`; and |weights|.

  Example:
    >>> params = {'kernel': jnp.array([[-2.0]]), 'bias': jnp.array([3.0])}
    >>> with jax.enable_x64(True):
    ...   linear(params)[1]['kernel'].tolist()
    [[2.0]]
  """

  def through(path, x):
    if not jnp.issubdtype(jnp.result_type(x), jnp.floating):
      return x
    names = selection.name_of(path).split('/')
    name = names[-2] if names[-1] == 'value' and len(names) > 1 else names[-1]
    x = jnp.asarray(x, dtype)
    if name == 'scale':
      return jnp.ones_like(x)
    return jnp.zeros_like(x) if name == 'bias' else jnp.abs(x)

  positive = jax.tree_util.tree_map_with_path(through, params)
  return positive, selection.select(positive, prunable)


def flow_scores(
  flow: Callable[[Params], jax.Array], rest: Params, weights: Weights
) -> tuple[jax.Array, Weights]:
  """Returns R, and |w| dR/d|w| of every weight.

  In exact arithmetic the scores of each layer that all paths go through sum to
  R, and those into a unit to those out of it.

  Args:
    flow: `params -> [] R`.
    rest: params, of which only what is not prunable is read.
    weights: positive, `None` elsewhere.

  Example:
    >>> weights = {'kernel': jnp.array([[2.0], [3.0]])}
    >>> flow_scores(lambda p: p['kernel'].sum(), weights, weights)[1]
    {'kernel': Array([[2.],
           [3.]], dtype=float32)}
  """

  def run(weights):
    return flow(jax.tree.map(lambda p, w: p if w is None else w, rest, weights))

  value, grads = jax.value_and_grad(run)(weights)
  return value, jax.tree.map(jnp.multiply, weights, grads)


def _check_flow(value: jax.Array) -> None:
  if isinstance(value, jax.core.Tracer) or (np.isfinite(value) and value > 0):
    return
  raise ValueError(
    f'The flow is {value}, not a positive number. `flow` must compute in '
    'float64, where networks of hundreds of layers do not overflow; what it '
    'sums must be connected to the input by positive weights, with BatchNorm '
    'in evaluation, its mean 0 and its variance 1.'
  )
