"""Pictures with a line for each row: its name, and dots with intervals."""

from collections.abc import Sequence
from typing import Any

from experiments import tables
from experiments.paired import Difference, is_dense
from experiments.rows import Row, Section
from ong_jax.plots.drawing import COLORS, bare

_WIDTH, _LINE = 7.5, 0.19  # Inches.


def accuracies(section: Section) -> Any:
  """Draws the mean of each row, its deviation, and a small dot for each seed.

  Args:
    section: rows of one budget; those of a sparsity are a panel.
  """
  by_sparsity: dict[float, list[Row]] = {}
  for row in section.rows:
    asked = 0.0 if is_dense(row) else row.config.sparsity
    by_sparsity.setdefault(asked, []).append(row)
  figure, panels = _panels([len(rows) for rows in by_sparsity.values()])
  for panel, (asked, rows) in zip(panels, by_sparsity.items()):
    _names(panel, [section.label(row) for row in rows])
    for i, row in enumerate(rows):
      values = [100 * value for value in row.values('test_accuracy')]
      panel.plot(values, [i] * len(values), 'o', color='0.7', ms=3)
      panel.errorbar(
        100 * row.mean('test_accuracy'),
        i,
        xerr=100 * (row.deviation('test_accuracy') or 0),
        color=COLORS[0],
        marker='o',
        ms=4,
        lw=1.2,
      )
    panel.set_title(f'{100 * asked:g} % removed', fontsize=9, loc='left')
  panels[-1].set_xlabel(f'{tables.accuracy(section)}, %', fontsize=9)
  return figure


def differences(section: Section, found: Sequence[Difference]) -> Any:
  """Draws by how much rows are ahead of one, with confidence intervals.

  Args:
    section: that they are of.
    found: of `paired.against`, at least one; those of a sparsity are a panel.
  """
  by_sparsity: dict[float, list[Difference]] = {}
  for x in found:
    by_sparsity.setdefault(x.row.config.sparsity, []).append(x)
  figure, panels = _panels([len(some) for some in by_sparsity.values()])
  for panel, (asked, some) in zip(panels, by_sparsity.items()):
    panel.axvline(0, color='0.6', lw=0.8)
    _names(panel, [section.label(x.row) for x in some])
    for i, x in enumerate(some):
      sure = x.jointly is not None and abs(x.mean) > x.jointly
      for half, width in (x.jointly, 0.8), (x.alone, 2.2):
        panel.errorbar(x.mean, i, xerr=half or 0, color=COLORS[0], lw=width)
      face = COLORS[0] if sure else 'white'
      panel.plot(
        x.mean, i, 'o', color=COLORS[0], ms=5, markerfacecolor=face, zorder=3
      )
    panel.set_title(f'{100 * asked:g} % removed', fontsize=9, loc='left')
  panels[-1].set_xlabel(f'points of {tables.accuracy(section)}', fontsize=9)
  return figure


def _panels(heights: list[int]) -> tuple[Any, list[Any]]:
  """One below the other, as high as they have lines, over one axis."""
  from matplotlib.figure import Figure

  lines = sum(heights) + 2 * len(heights) + 1
  figure = Figure((_WIDTH, _LINE * lines + 0.3), layout='constrained')
  panels = figure.subplots(
    len(heights), squeeze=False, sharex=True, height_ratios=heights
  )
  return figure, list(panels[:, 0])


def _names(panel: Any, labels: list[str]) -> None:
  panel.set_yticks(range(len(labels)), labels, fontsize=7.5)
  panel.set_ylim(len(labels) - 0.4, -0.6)  # The first on top.
  panel.grid(axis='x', color='0.9', lw=0.6)
  panel.set_axisbelow(True)
  panel.tick_params(axis='y', length=0)
  bare(panel)
