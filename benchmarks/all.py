"""Everything that is measured of speed, in one table.

    python -m benchmarks.all [--quick]

Each question is put to a process of its own, one after the other. Writes
results/benchmarks.md; `--quick`, with fewer repeats, takes five minutes on two
cores. Needs requirements-bench.txt. Where there is no GPU, its rows say so.
"""

import json
import pathlib
import subprocess
import sys
import time

import jax

from benchmarks.measure import Row, machine, table

_PATH = pathlib.Path(__file__).parents[1] / 'results' / 'benchmarks.md'

# (what is asked, of `--quick`, of the whole).
_QUESTIONS = {
  'factorization': ('nmf.rows(quick=True)', 'nmf.rows()'),
  'pruning': (
    "pruning.everything('resnet18', 3)",
    "pruning.everything('resnet18', 11)",
  ),
  'step of ResNet-20': (
    "training.rows('resnet20', 11)",
    "training.rows('resnet20', 21)",
  ),
  'step of ResNet-56': (
    "training.rows('resnet56', 3, False, (True,))",
    "training.rows('resnet56', 11)",
  ),
  'step of ResNet-18': (
    "training.rows('resnet18', 3, False, (True,))",
    "training.rows('resnet18', 11)",
  ),
  'start': ("start.rows('resnet20')",) * 2,
  'scaling': ('scaling.rows(quick=True)', 'scaling.rows()'),
}
# What else there is to ask on a GPU: without one, what is not known.
_ON_GPU = (
  Row('ResNet-18 on one H200, bfloat16', 'PyTorch', goal='0.77'),
  Row(
    'ONG masks of a transformer of a billion weights, one H200',
    'two reads of the weights a sweep',
    goal='2, and 1.3x the memory',
  ),
)
_INTRODUCTION = """# Benchmarks

What this library costs, beside its peers in the same run: medians of
interleaved repeats, and their ratio, ours to theirs. Absolute times on a shared
machine mean little.

    {command}

{machine}. {minutes:.1f} minutes on {date}.

"""


def ask(question: str) -> list[Row]:
  """Evaluates an expression of the modules of `benchmarks` elsewhere."""
  module = question.split('.')[0]
  program = (
    f'import json, benchmarks; from benchmarks import {module}\n'
    f'print(json.dumps({question}))'
  )
  done = subprocess.run(
    [sys.executable, '-c', program], stdout=subprocess.PIPE, text=True
  )
  if done.returncode:
    return [Row(question, verdict=f'failed with {done.returncode}')]
  return [Row(*row) for row in json.loads(done.stdout.splitlines()[-1])]


def main(*arguments: str) -> None:
  """Asks, and writes the table."""
  quick = '--quick' in arguments
  begun, rows = time.time(), []
  for name, questions in _QUESTIONS.items():
    print(f'{name} ...', file=sys.stderr, flush=True)
    rows += ask(questions[0 if quick else 1])
  on_cpu = jax.default_backend() == 'cpu'
  rows += _ON_GPU if on_cpu else ask('large.rows()')
  introduction = _INTRODUCTION.format(
    command=' '.join(['python -m benchmarks.all', *arguments]),
    machine=machine(),
    minutes=(time.time() - begun) / 60,
    date=time.strftime('%Y-%m-%d'),
  )
  notes = _PATH.read_text().partition('\n## ') if _PATH.exists() else ('',) * 3
  _PATH.write_text(introduction + table(rows) + '\n' + ''.join(notes[1:]))
  print(table(rows))


if __name__ == '__main__':
  main(*sys.argv[1:])
