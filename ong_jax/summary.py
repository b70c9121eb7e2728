"""What a mask leaves of a network, layer by layer."""

import math
from typing import NamedTuple

import jax
import numpy as np

from ong_jax.masks import check_bool, sparsity
from ong_jax.selection import name_of
from ong_jax.types import Mask


class Layer(NamedTuple):
  """What a mask leaves of one kernel."""

  path: str
  shape: tuple[int, ...]
  kept: int  # Weights.
  sparsity: float
  empty_filters: int  # Output units (last axis) with no weight left.


class Summary(NamedTuple):
  """What a mask leaves of a network; prints as a table."""

  layers: tuple[Layer, ...]
  kept: int
  prunable: int
  sparsity: float
  empty_layers: int
  empty_filters: int

  def __str__(self) -> str:
    """Draws the table."""
    width = max([len(layer.path) for layer in self.layers] + [5])
    head = f'{"layer":{width}}  {"shape":>18}  {"kept":>10}  sparsity  empty'
    rows = [
      f'{x.path:{width}}  {"x".join(map(str, x.shape)):>18}  {x.kept:10,}'
      f'  {x.sparsity:8.2%}  {x.empty_filters or "":>5}'
      for x in self.layers
    ]
    total = (
      f'{self.kept:,} of {self.prunable:,} weights kept, sparsity '
      f'{self.sparsity:.4%}; empty: {self.empty_layers} layers, '
      f'{self.empty_filters} filters'
    )
    return '\n'.join([head, *rows, total])


def summarize(mask: Mask) -> Summary:
  """Counts what a mask keeps, layer by layer, on the host.

  Args:
    mask: tree of bool arrays, concrete.

  Returns:
    A `Summary`. An empty filter is a slice of the last axis with no weight
    left: its output is constant, and what it feeds sees a constant.

  Example:
    >>> mask = {'fc': {'kernel': jnp.array([[True, False], [True, False]])}}
    >>> print(summarize(mask))
    layer                   shape        kept  sparsity  empty
    fc/kernel                 2x2           2    50.00%      1
    2 of 4 weights kept, sparsity 50.0000%; empty: 0 layers, 1 filters
  """

  def layer(path, m):
    m = np.asarray(m)
    kept = int(np.count_nonzero(m))
    filters = m.reshape(math.prod(m.shape[:-1]), *m.shape[-1:])
    return Layer(
      path=name_of(path),
      shape=m.shape,
      kept=kept,
      sparsity=(m.size - kept) / max(m.size, 1),
      empty_filters=int(np.count_nonzero(~filters.any(axis=0))),
    )

  check_bool(mask)
  leaves = jax.tree_util.tree_leaves_with_path(mask)
  layers = tuple(layer(path, m) for path, m in leaves)
  return Summary(
    layers=layers,
    kept=sum(x.kept for x in layers),
    prunable=sum(m.size for _, m in leaves),
    sparsity=sparsity(mask),
    empty_layers=sum(x.kept == 0 for x in layers),
    empty_filters=sum(x.empty_filters for x in layers),
  )
