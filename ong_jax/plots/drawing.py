"""What pictures of masks share: how a kernel lies, axes, colors, labels."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ong_jax import optional

# Okabe and Ito's, without the yellow that is lost on paper. With color-blind
# eyes they differ in lightness; in print the markers tell them apart.
COLORS = (
  '#0072B2',
  '#D55E00',
  '#009E73',
  '#CC79A7',
  '#E69F00',
  '#56B4E9',
  '#000000',
)
MARKERS = 'osD^vPXp'
_FONT_SIZE = 9  # Points.


def axes(ax: Any, width: float, height: float) -> Any:
  """Returns `ax`, or the Axes of a new figure of so many inches."""
  if ax is not None:
    return ax
  plt = optional.load('matplotlib.pyplot', 'plot')
  figure, ax = plt.subplots(figsize=(width, height), layout='constrained')
  del figure  # It is `ax.figure`.
  return ax


def bare(ax: Any) -> None:
  """Takes away the lines of the frame that hold no ticks."""
  ax.spines[['top', 'right']].set_visible(False)


def cell(shape: Sequence[int]) -> tuple[int, int]:
  """Height and width of what a filter has for one input.

  Example:
    >>> cell((3, 5, 16, 32)), cell((5, 16, 32)), cell((64, 10))
    ((3, 5), (1, 5), (1, 1))
  """
  spatial = tuple(shape[:-2])
  return math.prod(spatial[:-1]), spatial[-1] if spatial else 1


def spread_out(kernel: np.ndarray) -> np.ndarray:
  """Lays a kernel out as filters x inputs.

  Args:
    kernel: array [..., inputs, filters], of any dtype and of two axes or more.

  Returns:
    Array [filters * h, inputs * w], where what a filter has for an input is a
    `cell` of h x w.

  Example:
    >>> spread_out(np.array([[1, 2], [3, 4], [5, 6]]))
    array([[1, 3, 5],
           [2, 4, 6]])
  """
  height, width = cell(kernel.shape)
  inputs, filters = kernel.shape[-2:]
  blocks = kernel.reshape(height, width, inputs, filters)
  return blocks.transpose(3, 0, 2, 1).reshape(filters * height, inputs * width)


def grid(ax: Any, columns: int, rows: int) -> None:
  """Draws lines between cells, as many as can be told apart."""
  box = ax.get_window_extent()
  for axis, length, count in (
    (ax.axvline, box.width, columns),
    (ax.axhline, box.height, rows),
  ):
    step = 1
    while step * length * 72 < 4 * count * ax.figure.dpi:  # Four points.
      step *= 2
    for i in range(step, count, step):
      axis(i - 0.5, color='0.8', linewidth=0.3)
  for axis in (ax.xaxis, ax.yaxis):
    axis.get_major_locator().set_params(integer=True)


def shares(ax: Any, flat: np.ndarray, most: int, place: dict) -> None:
  """Draws which share of the `True` is where, in `most` squares a side.

  Args:
    flat: bool array [rows, columns].
    place: of `imshow`.
  """
  parts = [min(size, most) for size in flat.shape]
  edges = [
    np.arange(n) * size // n for n, size in zip(parts, flat.shape)
  ]  # Squares of nearly one size.
  found = np.add.reduceat(flat.astype(np.int32), edges[0], axis=0)
  found = np.add.reduceat(found, edges[1], axis=1)
  heights, widths = (
    np.diff(edge, append=size) for edge, size in zip(edges, flat.shape)
  )
  shown = ax.imshow(
    100 * found / np.outer(heights, widths), vmin=0, cmap='Blues', **place
  )
  ax.figure.colorbar(shown, ax=ax, label='weights kept (%)')


def rows(ax: Any, paths: Sequence[str]) -> None:
  """Names horizontal bars, the first one on top."""
  names = [path.split('/') for path in paths]
  while all(len(name) > 1 for name in names) and (
    len({name[-1] for name in names}) == 1
  ):
    names = [name[:-1] for name in names]  # All are a 'kernel'.
  ax.set_yticks(range(len(names)), ['/'.join(name) for name in names])
  ax.set_ylim(len(names) - 0.5, -0.5)
  ax.set_xlim(left=0)
  ax.tick_params(axis='y', length=0)
  bare(ax)


def legend_above(ax: Any, drawn: Sequence[Any] | None = None) -> None:
  """Puts the legend where no data can be: of `drawn`, or of what has names."""
  ax.legend(
    handles=drawn,
    loc='lower left',
    bbox_to_anchor=(0, 1),
    ncols=4,
    frameon=False,
    fontsize=_FONT_SIZE,
    borderaxespad=0.2,
    handlelength=1.2,
    columnspacing=1.2,
  )


def label_ends(ax: Any, ends: Sequence[tuple[float, float, str, str]]) -> None:
  """Names lines where they end, in room that it makes to their right.

  Args:
    ends: of each line: x, y, text, color. Its limits are those of `ax` now.
  """
  if not ends:
    return
  pixel = ax.figure.dpi / 72  # Per point.
  box = ax.get_window_extent()
  longest = max(len(text) for *_, text, _ in ends)
  room = (0.6 * _FONT_SIZE * longest + 16) * pixel / box.width
  _make_room(ax, min(room, 0.6))
  at = ax.transData.transform([end[:2] for end in ends])
  gap = 1.2 * _FONT_SIZE * pixel
  right = max(at[:, 0])
  for (x, y, text, color), (px, py), level in zip(
    ends, at, _apart(at[:, 1], gap)
  ):
    ax.annotate(
      text,
      xy=(x, y),
      xytext=((right - px) / pixel + 14, (level - py) / pixel),
      textcoords='offset points',
      va='center',
      fontsize=_FONT_SIZE,
      annotation_clip=False,
      # Dotted, that none is taken for the line that it names.
      arrowprops={
        'arrowstyle': '-',
        'color': color,
        'linewidth': 0.8,
        'linestyle': ':',
        'shrinkB': 4,
      },
    )


def _make_room(ax: Any, share: float) -> None:
  """Moves the right limit so that this share of the width is free."""
  (left, right), axis = ax.get_xlim(), ax.xaxis
  to, back = axis.get_transform(), axis.get_transform().inverted()
  a, b = to.transform([left, right])
  ax.set_xlim(left, back.transform([a + (b - a) / (1 - share)])[0])


def _apart(levels: Sequence[float], gap: float) -> np.ndarray:
  """Moves numbers until none is closer to the next than `gap`.

  Example:
    >>> _apart([0.0, 5.0, 5.5], 1.0).tolist()
    [0.0, 4.75, 5.75]
  """
  order = np.argsort(levels, kind='stable')
  runs = []  # Where the first of some that touch is, and how many they are.
  for level in np.asarray(levels, float)[order]:
    runs.append((level, 1))
    while len(runs) > 1 and runs[-1][0] < runs[-2][0] + runs[-2][1] * gap:
      (a, m), (b, n) = runs[-2:]
      # Where, taken together, they are moved the least.
      runs[-2:] = [((m * a + n * (b - m * gap)) / (m + n), m + n)]
  places = np.empty(len(order))
  places[order] = np.concatenate([a + gap * np.arange(n) for a, n in runs])
  return places
