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

from experiments import commands, console, paired, rows
from experiments.rows import Row, Section

HEAD = (
  *('method', 'sparsity asked', 'reached', 'test accuracy, %', 'n'),
  *('speed-up', 'training', 'time of a run'),
)
CAPTION = (
  'Mean and standard deviation over n seeds. Speed-up, in theory: '
  'multiply-accumulates of the dense network over those of nonzero weights. '
  'Training, in theory: those of all steps on hardware that skips zeros, of '
  'what dense training takes. The runs themselves were no faster for it. Times '
  'are those of runs that went through at once.'
)

PAIRED_HEAD = ('method', 'sparsity asked', 'points', '95 % interval', 'pairs')
PAIRED_CAPTION = (
  'By how many points of test accuracy a row is ahead, seed by seed: mean, and '
  "Student's confidence interval of it. An interval that has no 0 in it is no "
  'proof among many.'
)


def cells(section: Section, row: Row) -> list[str]:
  """Writes a row of the table, a text for each of `HEAD`."""
  accuracy = f'{100 * row.mean("test_accuracy"):.2f}'
  if (deviation := row.deviation('test_accuracy')) is not None:
    accuracy += f' ± {100 * deviation:.2f}'
  dense = row.config.method == 'dense'
  speedup = row.mean('speedup')
  spent, executed = row.mean('train_flops'), row.mean('train_flops_dense')
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
    f'{100 * spent / executed:.1f} %' if executed else '–',
    console.duration(statistics.fmean(seconds)) if seconds else '–',
  ]


def title(section: Section) -> str:
  """Names the budget of a section.

  Example:
    >>> title(Section((('model', 'resnet8'), ('dataset', 'cifar10'),
    ...                ('train_images', 0), ('validation_images', 0),
    ...                ('epochs', 3), ('batch_size', 128),
    ...                ('init_from', None)), (), {}))
    'resnet8 on cifar10, 3 epochs'
  """
  budget = dict(section.budget)
  text = '{model} on '.format(**budget)
  if budget['train_images']:
    text += f'{budget["train_images"]:,} images of '
  text += '{dataset}, {epochs:g} epoch'.format(**budget)
  text += '' if budget['epochs'] == 1 else 's'
  if budget['init_from']:
    text += f', from {budget["init_from"]}'
  if budget['validation_images']:
    text += f', judged by {budget["validation_images"]:,} held-out images'
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


def differences(
  section: Section, label: str
) -> tuple[list[paired.Difference], list[list[str]]]:
  """Compares with one row, and writes a row of a table for each."""
  found = paired.against(section, label)
  return found, [
    [
      section.label(x.row),
      f'{100 * x.row.config.sparsity:g} %',
      f'{x.mean:+.2f}',
      '–'
      if x.half is None
      else f'{x.mean - x.half:+.2f} to {x.mean + x.half:+.2f}',
      str(x.pairs),
    ]
    for x in found
  ]


def markdown(
  sections: Sequence[Section],
  problems: Sequence[str],
  labels: Sequence[str] = (),
) -> str:
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
    ]
    for label in labels:
      if found := differences(section, label)[1]:
        table = [PAIRED_HEAD, ['---'] * len(PAIRED_HEAD), *found]
        parts += [
          f'### Against `{label}`',
          '\n'.join(f'| {" | ".join(row)} |' for row in table),
          PAIRED_CAPTION,
        ]
    parts += [
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


def page(
  sections: Sequence[Section],
  problems: Sequence[str],
  labels: Sequence[str] = (),
) -> str:
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
    paired_head=PAIRED_HEAD,
    paired_caption=PAIRED_CAPTION,
    where=where(sections),
    sections=[
      {
        'title': title(section),
        'words': words(section),
        'table': _table(section),
        'figures': figures.of(section),
        'paired': [
          {
            'label': label,
            'cells': written,
            'figure': figures.differences(section, label, found),
          }
          for label in labels
          for found, written in [differences(section, label)]
          if found
        ],
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
  found.add_argument(
    '--against',
    action='append',
    default=[],
    help='label of a row, such as ong, that the others are compared with seed '
    'by seed; repeat it for more',
  )
  return found


def main(argv: Sequence[str] | None = None) -> None:
  """Reads runs and writes the two files."""
  args = parser().parse_args(argv)
  try:
    runs, problems = rows.read(args.runs)
    sections = rows.sections(runs)
    for label in args.against:
      paired.check(sections, label)
    out = pathlib.Path(os.path.expanduser(args.out))
    out.mkdir(parents=True, exist_ok=True)
    for name, make in ('report.md', markdown), ('report.html', page):
      (out / name).write_text(make(sections, problems, args.against))
  except (OSError, ValueError) as error:
    sys.exit(f'Error: {error}')
  for problem in problems:
    console.log(f'Left out: {problem}')
  console.log(f"{lead(sections)}: see '{out / 'report.html'}'.")


if __name__ == '__main__':
  main()
