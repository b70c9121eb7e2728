"""Going from layer to layer as data do, to prune each by what it is fed."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np

from ong_jax import allocation, layers, masks, selection
from ong_jax.batches import check_batches
from ong_jax.checks import check_function
from ong_jax.layers import Apply, Layer, Statistic
from ong_jax.patterns import groups
from ong_jax.types import Allocation, Mask, Params, Predicate
from ong_jax.values import check_finite

# (number of the leaf, its weights, its layers, a statistic of the inputs of
# each) -> its new weights and its mask.
Operate = Callable[
  [int, jax.Array, list[Layer], list[Any]], tuple[jax.Array, jax.Array]
]


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
  check_function('apply', apply, 'one of params and batch')
  check_batches(batches)
  observe = layers.observer(apply, statistic, batches, prunable)

  def visit(params, operate):
    found = layers.find(apply, params, first(batches), prunable)
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
      _check_met_once(parts)
      weights[leaf], kept[leaf] = operate(leaf, weights[leaf], parts, seen)
    return now(), treedef.unflatten(kept)

  return visit


def counter(
  sparsity: float | None,
  n_of_m: tuple[int, int] | None,
  allocate: Allocation | None,
  prunable: Predicate,
) -> Callable[[Params], list[int | None]]:
  """Makes what counts how much of each leaf is kept; None is for n of m.

  It also refuses weights that are not finite.

  Example:
    >>> count = counter(0.5, None, None, selection.is_kernel)
    >>> count({'kernel': jnp.ones((4, 2))})
    [4]
  """
  if (sparsity is None) == (n_of_m is None):
    raise ValueError(
      'One of `sparsity` and `n_of_m` must be given; got '
      f'{"neither" if n_of_m is None else "both"}.'
    )
  if n_of_m is None:
    masks.check_sparsity(sparsity)
  else:
    if not isinstance(n_of_m, tuple | list) or len(n_of_m) != 2:
      raise TypeError(
        f'`n_of_m` must be two integers, such as (2, 4); got {n_of_m!r:.200}.'
      )
    groups.check(*n_of_m)
    if allocate is not None:
      raise ValueError(
        '`allocate` is for `sparsity`; `n_of_m` keeps alike of all leaves.'
      )

  def count(params):
    weights = selection.select(params, prunable)
    check_finite(weights)
    if n_of_m is not None:
      return [None] * len(jax.tree.leaves(weights))
    counts = (allocate or allocation.uniform)(weights, sparsity)
    if isinstance(counts, int):
      raise ValueError(
        '`allocate` must split the budget by leaf, such as '
        '`allocation.uniform` or `erk`: layers are pruned one by one.'
      )
    return jax.tree.leaves(counts)

  return count


def first(batches: Iterable[Any]) -> Any:
  """Returns the first batch, of which the shapes are read.

  Example:
    >>> first([1, 2])
    1
  """
  for batch in batches:
    return batch
  raise ValueError('`batches` must hold at least one batch.')


def _check_met_once(parts: list[Layer]) -> None:
  index = np.concatenate([part.index.ravel() for part in parts])
  if len(np.unique(index)) < len(index):
    raise ValueError(
      f"Leaf '{parts[0].name}' is multiplied in two different ways; what is "
      'best for one is not for the other. Pass a `prunable` that leaves it out.'
    )
