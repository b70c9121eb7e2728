"""What a mask leaves of a network, layer by layer."""

import html
import math
import numbers
from collections.abc import Mapping
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
  macs: int | None = None  # Multiply-accumulates left; None: not known.
  dense_macs: int | None = None


class Summary(NamedTuple):
  """What a mask leaves of a network; prints as a table, in notebooks, too."""

  layers: tuple[Layer, ...]
  kept: int
  prunable: int
  sparsity: float
  empty_layers: int
  empty_filters: int
  macs: int | None = None  # Of all that was counted, masked or not.
  dense_macs: int | None = None

  def __str__(self) -> str:
    """Draws the table."""
    rows = self._rows()
    width = max(len(path) for path, *_ in rows)
    lines = [
      f'{path:{width}}  {shape:>18}  {kept:>10}  {sparse:>8}  {empty:>5}'
      + ''.join(f'  {macs:>13}' for macs in rest)
      for path, shape, kept, sparse, empty, *rest in rows
    ]
    return '\n'.join([*lines, *self._totals()])

  def _repr_html_(self) -> str:
    """Draws the table for a notebook, with a bar for each layer's density."""
    head, *rows = self._rows()
    style = [
      f' style="padding: 0.1em 0.6em; text-align: {side}"'
      for side in ('left', 'right')
    ]

    def row(kind, cells, bar):
      cells = ''.join(
        f'<{kind}{style[i > 0]}>{html.escape(cell)}</{kind}>'
        for i, cell in enumerate(cells)
      )
      return f'<tr>{cells}<{kind}{style[0]}>{bar}</{kind}></tr>'

    lines = [row('th', head, 'density')]
    for cells, layer in zip(rows, self.layers):
      lines.append(row('td', cells, _bar(1 - layer.sparsity)))
    totals = '<br>'.join(map(html.escape, self._totals()))
    return f'<table>{"".join(lines)}</table><p>{totals}</p>'

  def _rows(self) -> list[tuple[str, ...]]:
    """The cells of the head and of each layer; that of MACs if counted."""
    counted = self.macs is not None
    return [
      ('layer', 'shape', 'kept', 'sparsity', 'empty') + ('MACs left',) * counted
    ] + [
      (
        x.path,
        'x'.join(map(str, x.shape)),
        f'{x.kept:,}',
        f'{x.sparsity:.2%}',
        f'{x.empty_filters or ""}',
      )
      + ('' if x.macs is None else f'{x.macs:,}',) * counted
      for x in self.layers
    ]

  def _totals(self) -> list[str]:
    lines = [
      f'{self.kept:,} of {self.prunable:,} weights kept, sparsity '
      f'{self.sparsity:.4%}; empty: {self.empty_layers} layers, '
      f'{self.empty_filters} filters'
    ]
    if self.macs is not None:
      share = self.macs / self.dense_macs if self.dense_macs else 0.0
      lines.append(
        f'{self.macs:,} of {self.dense_macs:,} multiply-accumulates (MACs) '
        f'left, {share:.4%}'
      )
    return lines


def summarize(mask: Mask, macs: Mapping[str, int] | None = None) -> Summary:
  """Counts what a mask keeps, layer by layer, on the host.

  Args:
    mask: tree of bool arrays, concrete.
    macs: multiply-accumulates of each dense layer, by the path of its kernel
      in the mask, such as 'fc/kernel'. A layer keeps as many of them as of its
      weights. What has no mask counts whole.

  Returns:
    A `Summary`. An empty filter is a slice of the last axis with no weight
    left: its output is constant, and what it feeds sees a constant. With
    `macs`, there is one more column.

  Raises:
    TypeError: a leaf of the mask is no bool array.
    ValueError: `macs` has not every leaf of the mask, or what is no number.

  Example:
    >>> mask = {'fc': {'kernel': jnp.array([[True, False], [True, False]])}}
    >>> print(summarize(mask))
    layer                   shape        kept  sparsity  empty
    fc/kernel                 2x2           2    50.00%      1
    2 of 4 weights kept, sparsity 50.0000%; empty: 0 layers, 1 filters
    >>> summarize(mask, macs={'fc/kernel': 40}).macs
    20
  """
  check_bool(mask)
  leaves = [
    (name_of(path), np.asarray(m))
    for path, m in jax.tree_util.tree_leaves_with_path(mask)
  ]
  if macs is not None:
    _check_macs(macs, [path for path, _ in leaves])
  layers = tuple(_layer(path, m, macs) for path, m in leaves)
  left, dense = None, None
  if macs is not None:
    dense = sum(macs.values())
    left = dense - sum(x.dense_macs - x.macs for x in layers)
  return Summary(
    layers=layers,
    kept=sum(x.kept for x in layers),
    prunable=sum(m.size for _, m in leaves),
    sparsity=sparsity(mask),
    empty_layers=sum(x.kept == 0 for x in layers),
    empty_filters=sum(x.empty_filters for x in layers),
    macs=left,
    dense_macs=dense,
  )


def _layer(path: str, m: np.ndarray, macs: Mapping[str, int] | None) -> Layer:
  kept = int(np.count_nonzero(m))
  filters = m.reshape(math.prod(m.shape[:-1]), *m.shape[-1:])
  dense = None if macs is None else macs[path]
  return Layer(
    path=path,
    shape=m.shape,
    kept=kept,
    sparsity=(m.size - kept) / max(m.size, 1),
    empty_filters=int(np.count_nonzero(~filters.any(axis=0))),
    macs=None if dense is None else round(dense * kept / max(m.size, 1)),
    dense_macs=dense,
  )


def _check_macs(macs: Mapping[str, int], paths: list[str]) -> None:
  for path in paths:
    if path not in macs:
      raise ValueError(
        f"`macs` has nothing for mask leaf '{path}', only for "
        f'{sorted(macs)[:4]}. Name every layer by its path in the mask, or '
        'leave `macs` out.'
      )
  for path, count in macs.items():
    if not (isinstance(count, numbers.Integral) and count >= 0):
      raise ValueError(
        f"`macs` of '{path}' must be an integer of at least 0, got {count!r}."
      )


def _bar(density: float) -> str:
  """A bar of 100 pixels in HTML alone, on light and on dark pages."""
  return (
    '<div style="width: 100px; height: 0.8em; background: '
    'rgba(128, 128, 128, 0.25)"><div style="width: '
    f'{density:.1%}; height: 100%; background: #0072B2"></div></div>'
  )
