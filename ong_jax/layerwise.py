"""Pruning layer after layer, by what each of them is fed."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp

from ong_jax import layers, patterns, scores, selection
from ong_jax.calibrated import check_batches
from ong_jax.layers import Apply, Layer, Statistic
from ong_jax.patterns import Pattern
from ong_jax.pruners import one_shot
from ong_jax.saliency import at_least_float32
from ong_jax.types import Mask, Measure, Params, Predicate, Pruner, Weights

# (number of the leaf, its weights, its layers, a statistic of the inputs of
# each) -> its new weights and its mask.
Operate = Callable[
  [int, jax.Array, list[Layer], list[Any]], tuple[jax.Array, jax.Array]
]


def activations(
  apply: Apply,
  batches: Iterable[Any],
  prunable: Predicate = selection.is_kernel,
) -> Measure:
  """Measures |w| |x|: x all that the weight is multiplied by, as one vector.

  In one pass over the batches, through the network as it is.

  Args:
    apply: `(params, batch) -> outputs`.
    batches: anything that can be iterated more than once, such as a list; none
      is held.
    prunable: `(path, leaf) -> bool`.

  References:
    Sun et al., A simple and effective pruning approach for large language
    models, 2023, arXiv:2306.11695.

  Example:
    >>> def apply(params, x):
    ...   return x @ params['kernel']
    >>> measure = activations(apply, [jnp.array([[3.0, 1.0], [4.0, 0.0]])])
    >>> measure({'kernel': jnp.array([[1.0], [-2.0]])})
    {'kernel': Array([[5.],
           [2.]], dtype=float32)}
  """
  check_batches(batches)
  observe = layers.observer(apply, _squares, batches, prunable)

  def measure(params):
    found = layers.find(apply, params, _first(batches), prunable)
    weights, treedef = jax.tree.flatten(selection.select(params, prunable))
    squares = observe(params, range(len(weights)))
    return treedef.unflatten(
      _weighted(
        w, *zip(*[(x, s) for x, s in zip(found, squares) if x.leaf == leaf])
      )
      for leaf, w in enumerate(weights)
    )

  return measure


def wanda(
  apply: Apply,
  batches: Iterable[Any],
  *,
  sparsity: float | None = None,
  pattern: Pattern | None = None,
  sequential: bool = True,
  prunable: Predicate = selection.is_kernel,
) -> Pruner:
  """Makes a pruner of trained networks, by weights and activations.

  Keeps the largest |w| |x| of each output, with the same number of inputs for
  all of them, layer after layer in the order in which data meet them. Layers
  are found by following the weights through the program, so that they can be
  of any library; see `layers`.

  Args:
    apply: `(params, batch) -> outputs`; with BatchNorm as it is to run.
    batches: anything that can be iterated more than once, such as a list; once
      for every layer. None is held.
    sparsity: fraction of the prunable weights to remove, in [0, 1).
    pattern: instead, one that chooses leaf by leaf, such as
      `patterns.n_of_m(2, 4)`.
    sequential: whether a layer is shown what the pruned ones before it put out,
      as in the paper. If not, all are shown the dense network's, in one pass.
    prunable: `(path, leaf) -> bool`.

  Returns:
    A function `params -> mask`; see `one_shot`.

  References:
    Sun et al., A simple and effective pruning approach for large language
    models, 2023, arXiv:2306.11695.

  Example:
    >>> def apply(params, x):
    ...   return x @ params['kernel']
    >>> prune = wanda(apply, [jnp.array([[3.0, 1.0]])], sparsity=0.5)
    >>> prune({'kernel': jnp.array([[1.0, -9.0], [-2.0, 1.0]])})
    {'kernel': Array([[ True,  True],
           [False, False]], dtype=bool)}
  """
  if (sparsity is None) == (pattern is None):
    raise ValueError(
      f'One of `sparsity` and `pattern` must be given; got {sparsity} and '
      f'{pattern}.'
    )
  if pattern is None:
    pattern = patterns.per_output(sparsity)

  def choose(measure):
    return one_shot(
      scores.identity, pattern=pattern, measure=measure, prunable=prunable
    )

  if not sequential:
    return choose(activations(apply, batches, prunable))
  visit = in_order(apply, batches, _squares, sequential, prunable)

  def prune(params):
    weights, treedef = jax.tree.flatten(selection.select(params, prunable))
    measured = [jnp.zeros(w.shape) for w in weights]

    def operate(leaf, w, parts, squares):
      measured[leaf] = _weighted(w, parts, squares)
      mask = choose(lambda params: treedef.unflatten(measured))(params)
      kept = jax.tree.leaves(mask)[leaf]
      return jnp.where(kept, w, 0), kept

    return visit(params, operate)[1]

  return prune


def in_order(
  apply: Apply,
  batches: Iterable[Any],
  statistic: Statistic,
  sequential: bool = True,
  prunable: Predicate = selection.is_kernel,
) -> Callable[[Params, Operate], tuple[Params, Mask]]:
  """Makes what goes from leaf to leaf as data do, and operates on each.

  Args:
    apply: `(params, batch) -> outputs`.
    batches: anything that can be iterated more than once.
    statistic: of the inputs of a layer; see `layers.observer`.
    sequential: whether what is seen at a leaf is what those before it put out
      after they were operated on.
    prunable: `(path, leaf) -> bool`.

  Returns:
    A function `(params, operate) -> (params, mask)`.

  Example:
    >>> def apply(params, x):
    ...   return x @ params['kernel']
    >>> visit = in_order(apply, [jnp.ones((2, 3))], jnp.sum)
    >>> def operate(leaf, kernel, layers, sums):
    ...   return sums[0] * kernel, kernel > 0
    >>> visit({'kernel': jnp.ones((3, 1))}, operate)[0]['kernel'].ravel()
    Array([6., 6., 6.], dtype=float32)
  """
  check_batches(batches)
  observe = layers.observer(apply, statistic, batches, prunable)

  def visit(params, operate):
    found = layers.find(apply, params, _first(batches), prunable)
    weights, treedef = jax.tree.flatten(selection.select(params, prunable))
    order = list(dict.fromkeys(layer.leaf for layer in found))
    kept = [None] * len(weights)

    def now():
      return jax.tree.map(
        lambda p, w: p if w is None else w, params, treedef.unflatten(weights)
      )

    def look(which):
      return observe(now(), which)

    known = None if sequential else look(order)
    for leaf in order:
      ids = [i for i, layer in enumerate(found) if layer.leaf == leaf]
      seen = look([leaf]) if sequential else [known[i] for i in ids]
      parts = [found[i] for i in ids]
      weights[leaf], kept[leaf] = operate(leaf, weights[leaf], parts, seen)
    return now(), treedef.unflatten(kept)

  return visit


def _first(batches: Iterable[Any]) -> Any:
  for batch in batches:
    return batch
  raise ValueError('`batches` must hold at least one batch.')


def _squares(x: jax.Array) -> jax.Array:
  """|x|^2 of every input, [groups, fan_in]."""
  return jnp.square(x).sum(1)


def _weighted(
  w: jax.Array, parts: list[Layer], squares: list[jax.Array]
) -> Weights:
  """|w| times the norm of all that each weight meets."""
  total = jnp.zeros(w.size, jnp.float32)
  for part, s in zip(parts, squares):
    total = total.at[part.index].add(s[..., None])
  return jnp.abs(at_least_float32(w)) * jnp.sqrt(total).reshape(w.shape)
