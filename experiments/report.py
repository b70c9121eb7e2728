"""Makes a page and a table of finished runs.

    python -m experiments.report RUNS --out=DIR

RUNS are directories of runs, or of studies. Two files are written to DIR:
`report.html`, which needs nothing beside itself, and `report.md`.
"""

import argparse
import os
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from experiments import commands, console, paired, rows, tables
from experiments.rows import Section


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
    lead=f'{tables.lead(sections)}.',
    problems=problems,
    caption=tables.CAPTION,
    where=tables.where(sections),
    sections=[
      {
        'title': tables.title(section),
        'words': tables.words(section),
        'head': tables.head(section),
        'table': _table(section),
        'figures': figures.of(section),
        'paired': _paired(section, labels),
      }
      for section in sections
    ],
  )


def _table(section: Section) -> list[dict[str, Any]]:
  table, before = [], None
  for row in section.rows:
    found = tables.cells(section, row)
    table.append(
      {
        'cells': found,
        'first': before is not None and found[1] != before,
        'seeds': tables.seeds(row),
        'command': commands.command(row.config),
      }
    )
    before = found[1]
  return table


def _paired(section: Section, labels: Sequence[str]) -> list[dict[str, Any]]:
  from experiments import figures

  return [
    {
      'label': label,
      'head': tables.PAIRED_HEAD,
      'cells': tables.differences(section, found),
      'figure': figures.differences(section, label, found),
    }
    for label in labels
    if (found := paired.against(section, label))
  ]


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
    for name, make in ('report.md', tables.markdown), ('report.html', page):
      (out / name).write_text(make(sections, problems, args.against))
  except (OSError, ValueError) as error:
    sys.exit(f'Error: {error}')
  for problem in problems:
    console.log(f'Left out: {problem}')
  console.log(f"{tables.lead(sections)}: see '{out / 'report.html'}'.")


if __name__ == '__main__':
  main()
