"""Pictures of masks: of one kernel, of all densities, of two that differ."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from ong_jax.masks import check_bool, check_like
from ong_jax.plots import drawing
from ong_jax.plots.drawing import COLORS
from ong_jax.selection import name_of
from ong_jax.types import Mask

_MOST_WEIGHTS = 256  # That can be told apart along a side of a picture.
_PRUNED = np.array([1.0, 1.0, 1.0])
_KEPT = np.array([0.0, 0.28, 0.47])
_EMPTY = np.array([0.98, 0.84, 0.58])


def kernel(mask_leaf: Any, *, ax: Any = None) -> Any:
  """Draws one kernel's mask, filters by inputs.

  A convolution has a cell of its height x width for each filter and input.
  Filters without a weight are orange. Where a kernel has too many weights for
  paper, a square stands for many, and its shade for how many of them are kept.

  Args:
    mask_leaf: bool array [..., inputs, filters].
    ax: Axes to draw into.

  Returns:
    The Axes.

  Raises:
    TypeError: the leaf is not bool.
    ValueError: it has fewer than two axes, or no weight.

  Example:
    >>> kernel(jnp.eye(3, dtype=bool)).get_title()
    '3 of 9 weights kept (33.3 %)'
  """
  check_bool({'mask_leaf': mask_leaf})
  m = np.asarray(mask_leaf)
  if m.ndim < 2 or not m.size:
    raise ValueError(
      '`mask_leaf` must have axes [..., inputs, filters] and a weight; its '
      f'shape is {m.shape}. Pass one leaf of a mask.'
    )
  (height, width), (inputs, filters) = drawing.cell(m.shape), m.shape[-2:]
  flat = drawing.spread_out(m)
  steep = flat.shape[0] / flat.shape[1]
  ax = drawing.axes(ax, 5.0, min(max(4.2 * steep, 0.8), 5.0) + 1.0)
  place = {
    'extent': (-0.5, inputs - 0.5, filters - 0.5, -0.5),
    'aspect': height / width if 0.1 < steep < 10 else 'auto',
    'interpolation': 'nearest',
  }
  if max(flat.shape) <= _MOST_WEIGHTS:
    ax.imshow(_colors(m, flat), **place)
    drawing.grid(ax, inputs, filters)
  else:
    drawing.shares(ax, flat, _MOST_WEIGHTS // 2, place)
  ax.set_xlabel('input' + f' ({height} x {width} weights each)' * (m.ndim > 2))
  ax.set_ylabel('filter')
  title = f'{m.sum():,} of {m.size:,} weights kept ({100 * m.mean():.3g} %)'
  ax.set_title(title, fontsize='medium')
  return ax


def _colors(m: np.ndarray, flat: np.ndarray) -> np.ndarray:
  empty = ~m.any(axis=tuple(range(m.ndim - 1)))
  empty = np.repeat(empty, len(flat) // len(empty))
  colors = np.where(empty[:, None, None], _EMPTY, _PRUNED)
  return np.where(flat[..., None], _KEPT, colors)


def densities(*masks: Mask, labels: Sequence[str] = (), ax: Any = None) -> Any:
  """Draws what masks keep of each layer, as bars.

  Args:
    *masks: of one network, or of several.
    labels: a name for each mask; not needed for one.
    ax: Axes to draw into.

  Returns:
    The Axes.

  Raises:
    TypeError: a leaf of a mask is not bool.
    ValueError: there is no mask or no layer, or not a label for each.

  Example:
    >>> mask = {'fc': {'kernel': jnp.eye(4, dtype=bool)}}
    >>> ax = densities(mask, mask, labels=['ong', 'random'])
    >>> [float(bar.get_width()) for bar in ax.patches]
    [25.0, 25.0]
  """
  if len(masks) != len(labels) and (len(masks) != 1 or labels):
    raise ValueError(
      f'`labels` must name each of the {len(masks)} masks, got {labels!r}.'
    )
  layers = [_layers(mask) for mask in masks]
  paths = list(dict.fromkeys(path for found in layers for path in found))
  if not paths:
    raise ValueError('`masks` must have a layer that is prunable; none has.')
  ax = drawing.axes(ax, 5.0, 0.9 + len(paths) * max(0.13 * len(masks), 0.22))
  thick = 0.8 / len(masks)
  for i, found in enumerate(layers):
    drawn = [(k, found[path]) for k, path in enumerate(paths) if path in found]
    ax.barh(
      [k + (i - (len(masks) - 1) / 2) * thick for k, _ in drawn],
      [100 * int(np.count_nonzero(m)) / max(m.size, 1) for _, m in drawn],
      thick,
      color=COLORS[i % len(COLORS)],
      label=labels[i] if labels else None,
    )
  drawing.rows(ax, paths)
  ax.set_xlabel('weights kept (%)')
  if labels:
    drawing.legend_above(ax)
  return ax


def overlap(a: Mask, b: Mask, *, ax: Any = None) -> Any:
  """Draws how much two masks of one network agree, layer by layer.

  The weights that both keep over those that either keeps: 1 for equal masks. A
  mark shows where two random masks of the same counts would be.

  Args:
    a: a mask.
    b: another, of the same network.
    ax: Axes to draw into.

  Returns:
    The Axes.

  Raises:
    TypeError: a leaf of a mask is not bool.
    ValueError: the masks are not of one network, or have no layer.

  Example:
    >>> a = {'kernel': jnp.array([[True, True], [False, False]])}
    >>> b = {'kernel': jnp.array([[True, False], [True, True]])}
    >>> ax = overlap(a, b)
    >>> float(ax.patches[0].get_width())
    25.0
  """
  check_bool(a)
  check_like(a, b)
  ours, theirs = _layers(a), _layers(b)
  if not ours or ours.keys() != theirs.keys():
    raise ValueError(
      '`a` and `b` must have the same layers, and one at least; they have '
      f'{list(ours)[:4]} and {list(theirs)[:4]}.'
    )
  ax = drawing.axes(ax, 5.0, 0.9 + 0.22 * len(ours))
  shared, chance = zip(*(_shared(m, theirs[path]) for path, m in ours.items()))
  where = range(len(ours))
  bars = ax.barh(where, shared, 0.7, color=COLORS[0], label='these two')
  marks = ax.plot(
    chance, where, '|', color=COLORS[1], ms=9, mew=2, label='two random masks'
  )
  drawing.rows(ax, list(ours))
  ax.set_xlabel('kept by both, of what either keeps (%)')
  drawing.legend_above(ax, [bars, *marks])
  return ax


def _layers(mask: Mask) -> dict[str, np.ndarray]:
  check_bool(mask)
  leaves = jax.tree_util.tree_leaves_with_path(mask)
  return {name_of(path): np.asarray(m) for path, m in leaves}


def _shared(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
  """Intersection over union in percent; the same of what chance expects."""
  both, either = (int(np.count_nonzero(x)) for x in (a & b, a | b))
  p, q = float(np.mean(a)), float(np.mean(b))
  if not either:
    return 100.0, 100.0  # Two that keep nothing are equal.
  return 100 * both / either, 100 * p * q / (p + q - p * q)
