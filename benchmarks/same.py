"""What two finished runs do not share to the bit."""

import json
import pathlib

import jax
import numpy as np

from experiments import checkpoints

# Of `result.json` and `metrics.jsonl`, what is of the process and not the run.
_OF_THE_PROCESS = ('seconds', 'steps_per_second', 'resumed_at_step')


def result(path: pathlib.Path) -> dict:
  """Reads `result.json`."""
  return json.loads((path / 'result.json').read_text())


def differences(*paths: pathlib.Path) -> list[str]:
  """Names the files that differ: of two runs, but for times."""
  found = []
  finals = [checkpoints.load_final(str(path))[:2] for path in paths]
  (a, structure), (b, other) = map(jax.tree.flatten, finals)
  if structure != other or not all(
    x.dtype == y.dtype and np.array_equal(x, y, equal_nan=True)
    for x, y in zip(a, b)
  ):
    found.append('final/')
  for name in ('result.json', 'metrics.jsonl'):
    first, second = (_records(path / name) for path in paths)
    if first != second:
      found.append(name)
  return found


def _records(file: pathlib.Path) -> list[dict]:
  text = file.read_text()
  lines = text.splitlines() if file.suffix == '.jsonl' else [text]
  return [
    {k: v for k, v in json.loads(line).items() if k not in _OF_THE_PROCESS}
    for line in lines
  ]
