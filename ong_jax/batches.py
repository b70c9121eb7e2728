"""Batches that a pruner looks at, one after the other."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ong_jax.saliency import at_least_float32


def check_batches(batches: Iterable[Any]) -> None:
  """Raises a `TypeError` for what is no list of batches.

  That is what can be iterated only once, or not at all, and what looks like a
  single batch: an array, a dict, or a tuple.

  Example:
    >>> check_batches([jnp.ones(2)])
  """
  kind = type(batches).__name__
  if not isinstance(batches, Iterable) or isinstance(batches, Iterator):
    raise TypeError(
      '`batches` must be a list, or something else that can be iterated more '
      f'than once; got {kind}. Pass `list(batches)`.'
    )
  if isinstance(batches, (Mapping, tuple, str)) or hasattr(batches, 'shape'):
    raise TypeError(
      f'`batches` must be a list of batches; got {kind}, which looks like a '
      'single one. Pass `[batch]`.'
    )


def mean_over_batches(trees: Iterable[Any]) -> Any:
  """Averages a tree of arrays for each batch, one held at a time.

  In float32 at least: sums in half precision stop growing.

  Raises:
    ValueError: there is none.

  Example:
    >>> mean_over_batches(iter([{'w': jnp.array(1.0)}, {'w': jnp.array(4.0)}]))
    {'w': Array(2.5, dtype=float32)}
  """
  total, count = None, 0
  for tree in trees:
    tree = jax.tree.map(at_least_float32, tree)
    total = tree if total is None else jax.tree.map(jnp.add, total, tree)
    count += 1
  if not count:
    raise ValueError('`batches` must hold at least one batch.')
  return jax.tree.map(lambda x: x / count, total)
