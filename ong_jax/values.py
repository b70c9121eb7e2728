"""What values must be like: finite weights, measured values, scores."""

from typing import Any

import jax
import numpy as np

from ong_jax import selection
from ong_jax.types import Counts, Scores, Weights


def check_finite(weights: Weights) -> None:
  """Raises a `ValueError` for weights that are not finite; it names the leaf.

  Example:
    >>> check_finite({'kernel': jnp.ones(2)})
  """
  for path, leaf in _on_host(weights):
    if leaf.dtype == object:
      raise TypeError(
        f"Leaf '{selection.name_of(path)}' has a shape but no values, which "
        'pruning needs. Pass params that were initialized.'
      )
    if not np.isfinite(leaf).all():
      raise ValueError(
        f"Leaf '{selection.name_of(path)}' has weights that are not finite; "
        'pruning would hide it. Look at how they were trained or loaded.'
      )


def check_measured(measured: Weights) -> None:
  """Before a score may add floors, which are infinite."""
  for path, leaf in _on_host(measured):
    if num_bad := np.size(leaf) - np.isfinite(leaf).sum():
      raise ValueError(
        f"Of leaf '{selection.name_of(path)}', {num_bad} measured values are "
        'not finite. Look at the batches, and at the loss on them.'
      )


def check_scores(ranked: Scores, counts: Counts | None) -> None:
  """Raises for NaN, and where more scores are infinite than are kept."""
  floors = {}
  for path, leaf in _on_host(ranked):
    name = selection.name_of(path)
    if num_nan := np.isnan(leaf).sum():
      raise ValueError(
        f"Leaf '{name}' has {num_nan} NaN scores. Look at the score, and "
        'whether weights are so large that products of them overflow.'
      )
    floors[name] = np.isposinf(leaf).sum()
  if counts is None:  # A pattern's own business.
    return
  if isinstance(counts, int):
    floors = {'all leaves': sum(floors.values())}
  for (name, floor), kept in zip(floors.items(), jax.tree.leaves(counts)):
    if floor > kept:
      raise ValueError(
        f"Floors ask for {floor} weights of '{name}', but only {kept} are "
        'kept. Lower the floor or `sparsity`.'
      )


def check_shapes(what: str, ranked: Scores, weights: Weights) -> None:
  """Raises a `ValueError` unless each weight has a value, and nothing else.

  Args:
    what: has made the values: 'score', 'measure' or 'grow', a score as well.
    ranked: the values.
    weights: `None` where not prunable.

  Example:
    >>> check_shapes('score', {'kernel': jnp.ones(2)}, {'kernel': jnp.ones(2)})
  """
  nouns = {'measure': 'values'}.get(what, 'scores')
  found, wanted = (
    {
      selection.name_of(path): np.shape(leaf)
      for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
    for tree in (ranked, weights)
  )
  for name in found.keys() | wanted.keys():
    if found.get(name) != wanted.get(name):
      raise ValueError(
        f'`{what}` must return {nouns} shaped as the weights. Leaf '
        f"'{name}' has shape {wanted.get(name)}, and {nouns} of shape "
        f'{found.get(name)}. '
        'Where they take a `prunable`, give the same to all.'
      )


def _on_host(
  tree: Any,
) -> list[tuple[jax.tree_util.KeyPath, np.ndarray]]:
  """The leaves whose values can be looked at: none under jit.

  By NumPy: checks that must be compiled for every shape cost seconds.
  """
  return [
    (path, np.asarray(leaf))
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    if not isinstance(leaf, jax.core.Tracer)
    and getattr(leaf, 'is_fully_addressable', True)
  ]
