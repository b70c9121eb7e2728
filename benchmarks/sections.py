"""Sections of results/reliability.md, each written by what measured it."""

import pathlib

_PATH = pathlib.Path(__file__).parents[1] / 'results' / 'reliability.md'


def write(name: str, text: str) -> None:
  """Puts a section between its marks, at the end if there is none yet."""
  begin, end = f'<!-- {name} -->', f'<!-- /{name} -->'
  before = _PATH.read_text() if _PATH.exists() else '# Reliability\n'
  head, mark, rest = before.partition(begin)
  tail = rest.partition(end)[2] if mark else '\n'
  head = head if mark else head.rstrip('\n') + '\n\n'
  _PATH.write_text(f'{head}{begin}\n\n{text.strip()}\n\n{end}{tail}')
