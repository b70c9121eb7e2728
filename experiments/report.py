"""Makes a page and a table of finished runs.

    python -m experiments.report RUNS --out=DIR

RUNS are directories of runs, or of studies. Two files are written to DIR:
`report.html`, which needs nothing beside itself, and `report.md`.
"""

import argparse
import os
import pathlib
import statistics
import sys
from collections.abc import Sequence
from typing import Any

from experiments import commands, console, rows
from experiments.rows import Row, Section

HEAD = (
  *('method', 'sparsity asked', 'reached', 'test accuracy, %', 'n'),
  *('speed-up in theory', 'time of a run'),
)
CAPTION = (
  'Mean and standard deviation over n seeds. Speed-up in theory: '
  'multiply-accumulates of the dense network over those of nonzero weights; '
  'the runs themselves were no faster for it. Times are those of runs that '
  'went through at once.'
)


def cells(section: Section, row: Row) -> list[str]:
  """Writes a row of the table, a text for each of `HEAD`."""
  accuracy = f'{100 * row.mean("test_accuracy"):.2f}'
  if (deviation := row.deviation('test_accuracy')) is not None:
    accuracy += f' ± {100 * deviation:.2f}'
  dense = row.config.method == 'dense'
  speedup = row.mean('speedup')
  # Of a run that was resumed, only the last part is known.
  seconds = [
    run.result['seconds']
    for run in row.runs
    if 'seconds' in run.result and not run.result.get('resumed_at_step')
  ]
  return [
    section.label(row),
    '–' if dense else f'{100 * row.config.sparsity:g} %',
    f'{100 * row.sparsity:.2f} %',
    accuracy,
    str(len(row.runs)),
    f'{speedup:.2f}' if speedup else '–',
    console.duration(statistics.fmean(seconds)) if seconds else '–',
  ]


def title(section: Section) -> str:
  """Names the budget of a section.

  Example:
    >>> title(Section((('model', 'resnet8'), ('dataset', 'cifar10'),
    ...                ('epochs', 3), ('batch_size', 128),
    ...                ('init_from', None)), (), {}))
    'resnet8 on cifar10, 3 epochs'
  """
  budget = dict(section.budget)
  text = '{model} on {dataset}, {epochs:g} epoch'.format(**budget)
  text += '' if budget['epochs'] == 1 else 's'
  if budget['init_from']:
    text += f', from {budget["init_from"]}'
  return text


def words(section: Section) -> str:
  """Says what the rows of a section have in common, and what is unsure."""
  budget = dict(section.budget)
  text = (
    'These rows compare at equal budget: the same network, data and number of '
    f'steps, dense training included, in batches of {budget["batch_size"]}.'
  )
  if section.common:
    pairs = ', '.join(f'{k} {v}' for k, v in section.common.items())
    text += f' All have {pairs}.'
  counts = {len(row.runs) for row in section.rows}
  if len(counts) > 1:
    text += ' They do not all have as many seeds.'
  if min(counts) == 1:
    text += ' Of a single seed, no deviation is known.'
  return text


def markdown(sections: Sequence[Section], problems: Sequence[str]) -> str:
  """Writes the tables and their commands as Markdown."""
  parts = [f'# {lead(sections)}']
  parts += [f'Left out: {problem}' for problem in problems]
  for section in sections:
    table = [HEAD, ['---'] * len(HEAD)]
    table += [cells(section, row) for row in section.rows]
    parts += [
      f'## {title(section)}',
      words(section),
      '\n'.join(f'| {" | ".join(row)} |' for row in table),
      CAPTION,
      '\n'.join(
        f'- `{commands.command(row.config)}` (seeds {seeds(row)})'
        for row in section.rows
      ),
    ]
  return '\n\n'.join([*parts, where(sections)]) + '\n'


def lead(sections: Sequence[Section]) -> str:
  """Says how much there is."""
  every = [row for section in sections for row in section.rows]
  runs = sum(len(row.runs) for row in every)
  budgets = f', {len(sections)} budgets' if len(sections) > 1 else ''
  return f'{runs} runs, {len(every)} configurations{budgets}'


def seeds(row: Row) -> str:
  """Lists the seeds of a row."""
  return ', '.join(str(run.config.seed) for run in row.runs)


def where(sections: Sequence[Section]) -> str:
  """Says on what devices and versions the runs were made."""
  results = [
    run.result
    for section in sections
    for row in section.rows
    for run in row.runs
  ]
  devices = sorted({str(r.get('device', 'unknown')) for r in results})
  versions = sorted(
    {
      ', '.join(f'{k} {v}' for k, v in r.get('versions', {}).items())
      for r in results
    }
  )
  return f'Devices: {"; ".join(devices)}. Versions: {"; ".join(versions)}.'


def page(sections: Sequence[Section], problems: Sequence[str]) -> str:
  """Writes the page, pictures included."""
  import jinja2

  from experiments import figures

  template = pathlib.Path(__file__).with_name('report.html').read_text()
  environment = jinja2.Environment(autoescape=True, trim_blocks=True)
  return environment.from_string(template).render(
    title='Sparse training, compared',
    lead=f'{lead(sections)}.',
    problems=problems,
    head=HEAD,
    caption=CAPTION,
    where=where(sections),
    sections=[
      {
        'title': title(section),
        'words': words(section),
        'table': _table(section),
        'figures': figures.of(section),
      }
      for section in sections
    ],
  )


def _table(section: Section) -> list[dict[str, Any]]:
  table, before = [], None
  for row in section.rows:
    found = cells(section, row)
    table.append(
      {
        'cells': found,
        'first': before is not None and found[1] != before,
        'seeds': seeds(row),
        'command': commands.command(row.config),
      }
    )
    before = found[1]
  return table


def parser() -> argparse.ArgumentParser:
  """Says what the command line takes."""
  found = argparse.ArgumentParser(
    prog='python -m experiments.report',
    description='Makes a page and a table of finished runs.',
    allow_abbrev=False,
  )
  found.add_argument(
    'runs', nargs='+', help='directories of runs, or of studies'
  )
  found.add_argument(
    '--out', required=True, help='directory for report.html and report.md'
  )
  return found


def main(argv: Sequence[str] | None = None) -> None:
  """Reads runs and writes the two files."""
  args = parser().parse_args(argv)
  try:
    runs, problems = rows.read(args.runs)
    sections = rows.sections(runs)
    out = pathlib.Path(os.path.expanduser(args.out))
    out.mkdir(parents=True, exist_ok=True)
    for name, make in ('report.md', markdown), ('report.html', page):
      (out / name).write_text(make(sections, problems))
  except (OSError, ValueError) as error:
    sys.exit(f'Error: {error}')
  for problem in problems:
    console.log(f'Left out: {problem}')
  console.log(f"{lead(sections)}: see '{out / 'report.html'}'.")


if __name__ == '__main__':
  main()
