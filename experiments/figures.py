"""The pictures of a report, as SVG in data URIs."""

import base64
import io
import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any

from experiments import dots, paired, tables
from experiments.rows import Row, Section
from ong_jax import plots
from ong_jax.plots.drawing import COLORS, MARKERS, bare

_WIDTH = 7.5  # Inches: as wide as the page.
_MOST = 12  # Configurations that a picture with a legend can show.


def of(section: Section) -> list[dict[str, str]]:
  """Draws what there is to draw of a section.

  Args:
    section: rows of one budget.

  Returns:
    `caption`, `alt` and `source`, a data URI, of each picture.
  """
  accuracy = tables.accuracy(section).capitalize()
  sparse = [row for row in section.rows if not paired.is_dense(row)]
  if len(_looks(section)) > _MOST:
    return [
      _encoded(
        dots.accuracies(section),
        f'{accuracy}: mean, standard deviation where there are several '
        'seeds, and each of them as a small dot. Curves and layers are drawn '
        f'of up to {_MOST} configurations: name fewer runs to see them.',
      )
    ]
  found = []
  if sparse:
    found.append(
      _encoded(
        _accuracy(section),
        f'{accuracy} over the fraction of weights that are removed: mean, and '
        'standard deviation where there are several seeds. The axis is the '
        'logarithm of what is left; points of one sparsity stand side by side.',
      )
    )
  if sparse and any(len(_curve(row)) > 1 for row in section.rows):
    found.append(
      _encoded(
        _panels(section, _curve, 'epoch', f'{tables.accuracy(section)}, %'),
        f'{accuracy} while training, of what would have been deployed then: '
        'mean over seeds.',
      )
    )
  if sparse and any(_densities(row) for row in sparse):
    found.append(
      _encoded(
        _panels(section, _densities, 'layer', 'weights left, %', log=True),
        'Weights that are left in each layer, from the input to the output: '
        f'mean over seeds. {_layers(sparse)}',
      )
    )
  return found


def differences(
  section: Section, label: str, found: Sequence[paired.Difference]
) -> dict[str, str]:
  """Draws rows against one of them; see `paired.against`."""
  return _encoded(
    dots.differences(section, found),
    f'{tables.paired_words(label, found)} Thick is the first of them, thin the '
    'other; full are dots where that has no 0 in it.',
  )


def _layers(rows: Sequence[Row]) -> str:
  """Names the first and the last of them."""
  layers = next(x for row in rows if (x := row.runs[0].result.get('layers')))
  names = [layer['path'].removesuffix('/kernel') for layer in layers]
  return f'1 is {names[0]}, {len(names)} is {names[-1]}.'


def _looks(section: Section) -> dict[str, dict[str, Any]]:
  """One look for each method, in all pictures as in `plots.accuracy`."""
  labels = {
    section.label(r): None for r in section.rows if not paired.is_dense(r)
  }
  return {
    label: {
      'color': COLORS[i % len(COLORS)],
      'marker': MARKERS[i % len(MARKERS)],
    }
    for i, label in enumerate(labels)
  }


def _accuracy(section: Section) -> Any:
  from matplotlib.figure import Figure

  figure = Figure((_WIDTH, 4.2), layout='constrained')
  results = [
    {
      'label': 'dense' if paired.is_dense(row) else section.label(row),
      'sparsity': run.result['sparsity'],
      'test_accuracy': run.result['test_accuracy'],
    }
    for row in section.rows
    for run in row.runs
  ]
  plots.accuracy(results, by='label', ax=figure.add_subplot())
  return figure


def _panels(
  section: Section,
  points: Callable[[Row], list[tuple[float, float]]],
  x_label: str,
  y_label: str,
  *,
  log: bool = False,
) -> Any:
  """Draws a panel for each sparsity, in one look and on one scale."""
  from matplotlib.figure import Figure

  looks = _looks(section)
  asked = sorted(
    {r.config.sparsity for r in section.rows if not paired.is_dense(r)}
  )
  columns = min(len(asked), 3)
  num_lines = math.ceil(len(asked) / columns)
  figure = Figure(
    (_WIDTH, 2.6 * num_lines + 0.25 * math.ceil(len(looks) / 3)),
    layout='constrained',
  )
  panels = figure.subplots(
    num_lines, columns, sharex=True, sharey=True, squeeze=False
  )
  for panel, sparsity in zip(panels.flat, asked):
    panel.set_title(f'{100 * sparsity:g} % removed', fontsize=9)
    for row in section.rows:
      if not paired.is_dense(row) and row.config.sparsity != sparsity:
        continue
      if not (found := points(row)):
        continue
      look = looks.get(section.label(row), {'color': '0.6'})
      panel.plot(
        *zip(*found),
        **(look | {'markersize': 3, 'linewidth': 1.2}),
        label=section.label(row),
      )
    bare(panel)
    if log:
      panel.set_yscale('log')
  _label(panels, len(asked), x_label, y_label, log=log)
  _name(figure, panels)
  return figure


def _label(
  panels: Any, num_used: int, x_label: str, y_label: str, *, log: bool
) -> None:
  """Labels the axes at the rim of a grid, and hides what is not used."""
  from matplotlib.ticker import MaxNLocator, NullFormatter, StrMethodFormatter

  for i, panel in enumerate(panels.flat):
    panel.set_visible(i < num_used)
    if i % panels.shape[1] == 0:
      panel.set_ylabel(y_label, fontsize=9)
    if i + panels.shape[1] >= num_used:  # Nothing is below it.
      panel.set_xlabel(x_label, fontsize=9)
      panel.tick_params(labelbottom=True)
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    if log:
      panel.yaxis.set_major_formatter(StrMethodFormatter('{x:g}'))
      panel.yaxis.set_minor_formatter(NullFormatter())


def _name(figure: Any, panels: Any) -> None:
  """Puts one legend for all panels below them."""
  lines = {}
  for panel in panels.flat:
    handles, labels = panel.get_legend_handles_labels()
    lines |= dict(zip(labels, handles))
  figure.legend(
    lines.values(),
    lines.keys(),
    loc='outside lower center',
    ncols=3,
    fontsize=8,
    frameon=False,
  )


def _curve(row: Row) -> list[tuple[float, float]]:
  """(epoch, mean test accuracy in percent), where all seeds have it."""
  seeds = [
    {
      line['epoch']: line['test_accuracy']
      for line in run.lines
      if 'epoch' in line and 'test_accuracy' in line
    }
    for run in row.runs
  ]
  shared = set.intersection(*(set(seed) for seed in seeds))
  return [
    (epoch, 100 * statistics.fmean(seed[epoch] for seed in seeds))
    for epoch in sorted(shared)
  ]


def _densities(row: Row) -> list[tuple[float, float]]:
  """(layer, mean percent of its weights that are left)."""
  if paired.is_dense(row):
    return []
  runs = [run.result.get('layers', []) for run in row.runs]
  return [
    (i, 100 * statistics.fmean(1 - layer['sparsity'] for layer in layers))
    for i, layers in enumerate(zip(*runs), 1)
  ]


def _encoded(figure: Any, caption: str) -> dict[str, str]:
  """As SVG, the same from the same numbers."""
  import matplotlib

  stream = io.BytesIO()
  with matplotlib.rc_context({'svg.hashsalt': 'ong_jax'}):
    figure.savefig(stream, format='svg', metadata={'Date': None})
  data = base64.b64encode(stream.getvalue()).decode()
  return {
    'caption': caption,
    'alt': caption.split(':')[0],
    'source': f'data:image/svg+xml;base64,{data}',
  }
