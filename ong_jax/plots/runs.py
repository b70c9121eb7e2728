"""Pictures of runs: how masks change, how accurate networks become."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ong_jax.plots import drawing
from ong_jax.plots.drawing import COLORS, MARKERS

# Each halves what the one before leaves, or nearly.
_TICKS = (0, 50, 80, 90, 95, 98, 99, 99.5, 99.8, 99.9, 99.95, 99.98, 99.99)
_SHARES = {'churn': 'changed', 'ever_active': 'ever kept'}


class Point(NamedTuple):
  """What runs of one method and of about one sparsity have come to."""

  density: float
  mean: float  # Of the accuracy, in percent.
  std: float  # Of a sample; 0.0 for one run.
  runs: int


def churn(lines: Iterable[Mapping[str, Any]], *, ax: Any = None) -> Any:
  """Draws how much of the mask changes while a network learns.

  Args:
    lines: dicts with `epoch`, and any of `churn` (the share of the prunable
      weights that were pruned or came back since the line before),
      `ever_active` (that were kept in any step so far) and `test_accuracy`, all
      in [0, 1]; `metrics.jsonl` has them. Lines without `epoch` are left out.
    ax: Axes to draw into. The accuracy gets an axis of its own on the right.

  Returns:
    The Axes.

  Raises:
    ValueError: no line has an epoch and one of these.

  Example:
    >>> ax = churn([{'epoch': 1, 'churn': 0.03}, {'epoch': 2, 'churn': 0.01}])
    >>> ax.lines[0].get_ydata().tolist()
    [3.0, 1.0]
  """
  lines, names = list(lines), (*_SHARES, 'test_accuracy')
  found = {name: _series(lines, name) for name in names}
  if not any(found.values()):
    raise ValueError(
      f"`lines` must have 'epoch' and one of {', '.join(names)}; none has. "
      'Pass the lines of a `metrics.jsonl`, each through `json.loads`.'
    )
  ax = drawing.axes(ax, 5.0, 2.8)
  drawing.bare(ax)
  drawn = []
  for i, name in enumerate(names):
    if points := found[name]:
      home, label = ax, _SHARES.get(name)
      if label is None:
        home, label = _right(ax, COLORS[i]), 'test accuracy (right)'
      drawn += home.plot(
        *zip(*points), color=COLORS[i], marker=MARKERS[i], ms=4, label=label
      )
  ax.set_ylim(bottom=0)
  ax.xaxis.get_major_locator().set_params(integer=True)
  ax.set_xlabel('epoch')
  ax.set_ylabel('prunable weights (%)')
  drawing.legend_above(ax, drawn)
  return ax


def _right(ax: Any, color: str) -> Any:
  """An axis of its own for what is no share of weights."""
  twin = ax.twinx()
  twin.spines['top'].set_visible(False)
  twin.set_ylabel('test accuracy (%)', color=color)
  twin.tick_params(axis='y', colors=color)
  return twin


def accuracy(
  rows: Sequence[Mapping[str, Any]], *, by: str = 'method', ax: Any = None
) -> Any:
  """Draws accuracy over sparsity, with a line for each method.

  Points are means, bars the standard deviation over runs (n - 1 in its
  denominator). Runs of a method whose densities differ by less than a tenth
  are one point. The axis is the logarithm of the density, so that 90, 95, 98
  and 99 % are as far apart as they are hard. Those whose `by` is 'dense' are a
  line across, their deviation a band.

  Args:
    rows: dicts with `test_accuracy` and `sparsity`, in [0, 1], and with `by`:
      the contents of `result.json`.
    by: key of the name that a line has.
    ax: Axes to draw into.

  Returns:
    The Axes.

  Raises:
    ValueError: there is no row, a key is missing, or a sparsity is not in
      [0, 1).

  Example:
    >>> rows = [{'method': 'ong', 'sparsity': 0.9, 'test_accuracy': x}
    ...         for x in (0.5, 0.75)]
    >>> ax = accuracy(rows)
    >>> ax.lines[0].get_ydata().tolist()
    [62.5]
  """
  _check_rows(rows, by)
  lines = {}
  for row in rows:
    lines.setdefault(str(row[by]), []).append(row)
  lines = {name: _points(runs) for name, runs in lines.items()}
  dense = lines.pop('dense', None)
  ax = drawing.axes(ax, 5.0, 3.3)
  drawing.bare(ax)
  every = [point for points in lines.values() for point in points]
  # First of all, so that matplotlib need not guess limits of one point.
  _sparsity_axis(ax, [point.density for point in every] or [1.0])
  ends = [
    _draw(ax, name, points, i, len(lines))
    for i, (name, points) in enumerate(lines.items())
  ]
  every += dense or []
  if dense:
    across, level = ax.get_xlim(), dense[0].mean  # Not through its name.
    ax.plot(across, [level, level], color='0.3', linestyle='--', linewidth=1)
    low, high = level - dense[0].std, level + dense[0].std
    ax.fill_between(across, low, high, color='0.3', alpha=0.12, linewidth=0)
    ends.append((across[1], level, 'dense', '0.3'))
  ax.set_ylabel('test accuracy (%)')
  ax.set_title(_spread_said(every), fontsize='small', loc='left')
  drawing.label_ends(ax, ends)
  return ax


def _series(
  lines: Iterable[Mapping[str, Any]], name: str
) -> list[tuple[float, float]]:
  return [
    (line['epoch'], 100 * line[name])
    for line in lines
    if line.get('epoch') is not None and line.get(name) is not None
  ]


def _check_rows(rows: Sequence[Mapping[str, Any]], by: str) -> None:
  if not rows:
    raise ValueError('`rows` must have a row at least; it is empty.')
  for i, row in enumerate(rows):
    for key in ('sparsity', 'test_accuracy', by):
      if row.get(key) is None:
        raise ValueError(f"Row {i} of `rows` has no '{key}', only {list(row)}.")
    if not 0 <= row['sparsity'] < 1:
      raise ValueError(
        f'Row {i} of `rows` has sparsity {row["sparsity"]}, which must lie in '
        '[0, 1): there is no logarithm of an empty network.'
      )


def _points(runs: Sequence[Mapping[str, Any]]) -> list[Point]:
  """Gathers runs by density, the densest first."""
  runs = sorted(runs, key=lambda row: row['sparsity'])
  points = []
  first = None
  for row in runs:
    density = 1 - row['sparsity']
    if first is None or density < 0.9 * first:
      first = density
      points.append([])
    points[-1].append((density, 100 * row['test_accuracy']))
  return [
    Point(
      statistics.fmean(density for density, _ in group),
      statistics.fmean(accuracy for _, accuracy in group),
      statistics.stdev(a for _, a in group) if len(group) > 1 else 0.0,
      len(group),
    )
    for group in points
  ]


def _draw(
  ax: Any, name: str, points: Sequence[Point], i: int, of: int
) -> tuple[float, float, str, str]:
  """Draws the line of a method, and returns where it ends."""
  # Beside each other, or bars at one sparsity would hide each other.
  shift = math.exp(0.03 * ((of - 1) / 2 - i))
  x, y = zip(*((point.density * shift, point.mean) for point in points))
  color, marker = COLORS[i % len(COLORS)], MARKERS[i % len(MARKERS)]
  several = [point.std if point.runs > 1 else math.nan for point in points]
  ax.plot(x, y, color=color, marker=marker, ms=5, lw=1.2)
  ax.errorbar(x, y, several, color=color, ls='none', capsize=2, lw=1)
  return x[-1], y[-1], name, color


def _sparsity_axis(ax: Any, densities: Sequence[float]) -> None:
  """Names densities by their sparsities, rising to the right."""
  ax.set_xscale('log')
  low, high = min(densities) / 1.25, min(1.25 * max(densities), 1.1)
  ax.set_xlim(high, low)
  ticks = [t for t in _TICKS if low <= 1 - t / 100 <= high]
  if len(ticks) < 2:
    ticks = sorted({round(100 * (1 - x), 3) for x in densities})
  ax.set_xticks([1 - t / 100 for t in ticks], [f'{t:g}' for t in ticks])
  ax.minorticks_off()
  ax.set_xlabel('sparsity (%), by the logarithm of the density')


def _spread_said(points: Sequence[Point]) -> str:
  counts = {point.runs for point in points}
  if counts == {1}:
    return 'one run each'
  low, high = min(counts), max(counts)
  of = f'{low}' if low == high else f'{low} to {high}'
  return f'mean and standard deviation of {of} runs'
