"""Runs the notebooks beside this file, and stores what they show.

    python -m notebooks.execute [NAME ...]

All of them, or those named, such as 1_first_steps. Only small texts, tables and
pictures are kept: scripts and timings are not, nor what tells one machine from
another.
"""

import os
import pathlib
import sys
from collections.abc import Mapping

import nbclient
import nbformat

from experiments.config import check_choice

HERE = pathlib.Path(__file__).parent
_TYPES = ('image/png', 'text/html', 'text/plain')
_MOST_HTML = 20_000  # Characters; treescope's scripts are longer.


def execute(
  path: pathlib.Path,
  *,
  replace: Mapping[str, str] | None = None,
  timeout_s: int = 600,
  env: Mapping[str, str] | None = None,
) -> nbformat.NotebookNode:
  """Runs a notebook from its own directory.

  Args:
    path: of the notebook.
    replace: lines of its cells, and what stands there instead.
    timeout_s: of a cell.
    env: of the kernel, beside that of this process.

  Returns:
    The notebook with what its cells have shown.

  Raises:
    ValueError: a line of `replace` is nowhere.
    nbclient.exceptions.CellExecutionError: a cell failed.
  """
  notebook = nbformat.read(path, as_version=4)
  for line, other in (replace or {}).items():
    for cell in notebook.cells:
      lines = cell.source.split('\n')
      if line in lines:
        cell.source = '\n'.join(other if x == line else x for x in lines)
        break
    else:
      raise ValueError(f"`replace` has '{line}', which no cell of {path} has.")
  client = nbclient.NotebookClient(
    notebook,
    timeout=timeout_s,
    kernel_name='python3',
    coalesce_streams=True,
    resources={'metadata': {'path': str(path.parent)}},
  )
  return client.execute(env={**os.environ, **(env or {})})


def clean(notebook: nbformat.NotebookNode) -> None:
  """Takes away what is large, or of one machine and one moment."""
  notebook.metadata = {
    'kernelspec': notebook.metadata['kernelspec'],
    'language_info': {'name': 'python'},
  }
  for cell in notebook.cells:
    cell.metadata = {}
    if cell.cell_type == 'code':
      cell.outputs = [x for x in map(_clean_output, cell.outputs) if x]


def _clean_output(output: nbformat.NotebookNode) -> nbformat.NotebookNode:
  if output.get('name') == 'stderr':
    return None
  if 'data' in output:
    # The richest alone: beside it, the text is an address in memory.
    kind = next((x for x in _TYPES if x in output.data), None)
    if kind is None or len(output.data.get('text/html', '')) > _MOST_HTML:
      return None
    output.data, output.metadata = {kind: output.data[kind]}, {}
  return output


def main() -> None:
  """Runs those that are named, or all in their order."""
  paths = {path.stem: path for path in sorted(HERE.glob('*.ipynb'))}
  for name in sys.argv[1:]:
    check_choice('NAME', name, paths)
  for path in [paths[name] for name in sys.argv[1:] or paths]:
    notebook = execute(path)
    clean(notebook)
    nbformat.write(notebook, path)
    print(f'{path.name}: {path.stat().st_size / 1e3:.0f} kB')


if __name__ == '__main__':
  main()
