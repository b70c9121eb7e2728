"""Does a run that is killed at any moment end in the same bits?

    python -m benchmarks.soak [--kills=50] [--seed=0] [--workdir=DIR] [--keep]

Runs the command line on made-up images, once undisturbed for each of four
methods, and then killed by SIGKILL at moments that are drawn from the seed: two
in five while Orbax writes a checkpoint, one in five while the result is
written, the others anywhere between the start of the process and its end. After
each kill the same command goes on; several kills may hit one run. Its network,
`metrics.jsonl` and `result.json` must be those of the undisturbed run, but for
times and the step that it went on from.

Prints a table and writes it to results/reliability.md. Fifty kills take about
fifteen minutes on two cores.
"""

import os
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import jax
from absl import app, flags, logging

from benchmarks import same, sections
from benchmarks.measure import machine

_KILLS = flags.DEFINE_integer('kills', 50, 'How often a process is killed.')
_SEED = flags.DEFINE_integer('seed', 0, 'Of the moments.')
_WORKDIR = flags.DEFINE_string('workdir', None, 'Of all runs; else temporary.')
_KEEP = flags.DEFINE_bool(
  'keep', False, 'Whether the runs stay if all is well.'
)

_USUAL = (
  *('--dataset=synthetic', '--model=resnet8', '--batch_size=64'),
  *('--sparsity=0.9', '--save_every_s=0', '--epochs=2'),
)
_METHODS = {
  'ong-reconstructed': (),
  'rigl': ('--option=interval=4',),
  'imp': ('--dense_epochs=1', '--option=phases=2'),
  'probmask': ('--option=retrain=0.25',),
}
_PLACES = ('before a save', 'between saves', 'in a save', 'at the end')
_TEMPORARY = 'orbax-checkpoint-tmp'
_MOST_KILLS_OF_A_RUN = 4
_LIMIT_S = 600


class Run(NamedTuple):
  """What became of one run that was killed."""

  method: str
  places: list[str]  # Where each kill came.
  steps_again: int  # Between the newest save at the last kill and the resume.
  faults: list[str]  # What differs from the undisturbed run.


def start(method: str, path: pathlib.Path) -> subprocess.Popen:
  """Begins a run in its directory, or goes on with it."""
  environment = os.environ | {
    'JAX_COMPILATION_CACHE_DIR': str(path.parent / 'cache'),
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
  }
  command = [
    *(sys.executable, '-m', 'experiments.cifar', f'--workdir={path}'),
    *(f'--method={method}', *_USUAL, *_METHODS[method]),
  ]
  with path.with_suffix('.log').open('a') as log:
    return subprocess.Popen(
      command, env=environment, stdout=log, stderr=subprocess.STDOUT
    )


def _names(path: pathlib.Path) -> list[str]:
  try:
    return os.listdir(path)
  except FileNotFoundError:
    return []


def _written(path: pathlib.Path) -> dict[str, set[str]]:
  """What is being written or was left half written, and what ends a run."""
  return {
    'a save': {n for n in _names(path / 'checkpoints') if _TEMPORARY in n},
    'the end': {n for n in _names(path) if n.startswith(('final', 'result'))},
  }


def _newest(path: pathlib.Path) -> int:
  steps = [int(n) for n in _names(path / 'checkpoints') if n.isdigit()]
  return max(steps, default=-1)


def _place(path: pathlib.Path, before: dict[str, set[str]], newest: int) -> str:
  """Where a process was, by what was not there when it began."""
  now = _written(path)
  if now['the end'] - before['the end']:
    return 'at the end'
  if now['a save'] - before['a save']:
    return 'in a save'
  return 'between saves' if _newest(path) > newest else 'before a save'


def moment(
  kind: str, draw: random.Random, path: pathlib.Path, seconds: float
) -> Callable[[], bool]:
  """Draws when to kill: a function that tells whether it is time.

  Args:
    kind: 'a save', 'the end' or 'any'.
    draw: of all that is random.
    path: of the run.
    seconds: that it takes undisturbed.
  """
  if kind == 'any':
    due_at = time.monotonic() + draw.uniform(0, seconds)
    return lambda: time.monotonic() > due_at
  delay = draw.choice((0, draw.uniform(0, 0.05)))
  number = draw.randint(1, 4) if kind == 'a save' else 1
  seen, met = _written(path)[kind], []

  def due():
    new = _written(path)[kind] - seen
    if new and len(met) < number:
      met.append(time.monotonic())
      seen.update(new)
    return len(met) == number and time.monotonic() - met[-1] >= delay

  return due


def strike(process: subprocess.Popen, due: Callable[[], bool]) -> bool:
  """Kills a process when it is due; False if it has ended before."""
  begun = time.monotonic()
  while process.poll() is None:
    if due():
      process.kill()
      return process.wait() != 0
    if time.monotonic() - begun > _LIMIT_S:
      process.kill()
      raise TimeoutError(f'{process.args} does not end.')
    time.sleep(0.0005)
  return False


def disturbed(
  method: str,
  path: pathlib.Path,
  whole: pathlib.Path,
  kinds: list[str],
  draw: random.Random,
  seconds: float,
) -> Run:
  """Runs to the end through some kills, whose kinds are taken from the list."""
  places = []
  most = draw.randint(1, _MOST_KILLS_OF_A_RUN)
  while True:
    kind = kinds.pop() if kinds and len(places) < most else 'none'
    never, before, newest = kind == 'none', _written(path), _newest(path)
    process = start(method, path)
    due = (lambda: False) if never else moment(kind, draw, path, seconds)
    if not strike(process, due):
      break
    places.append(_place(path, before, newest))
  if not never:  # It came too late; the next run is to have it.
    kinds.append(kind)
  if process.returncode:
    return Run(method, places, 0, [f'exit code {process.returncode}'])
  again = max(newest - same.result(path)['resumed_at_step'], 0)
  if 'result.json' in before['the end']:
    again = 0  # All was written when it was killed.
  return Run(method, places, again, same.differences(whole, path))


def table(runs: list[Run]) -> str:
  """A row for each method, and their sum."""
  head = ('method', 'runs', 'kills', *_PLACES)
  head += ('steps done again', 'ended otherwise')
  rows = [head, ['---'] * len(head)]
  for method in (*_METHODS, 'all'):
    own = [run for run in runs if method in (run.method, 'all')]
    places = Counter(place for run in own for place in run.places)
    rows.append(
      (
        f'`{method}`' if method in _METHODS else method,
        *(len(own), places.total(), *(places[place] for place in _PLACES)),
        sum(run.steps_again for run in own),
        sum(bool(run.faults) for run in own),
      )
    )
  return '\n'.join(f'| {" | ".join(map(str, row))} |' for row in rows)


def section(runs: list[Run], minutes: float) -> str:
  """What is written down of a soak."""
  return f"""## Killed at random moments

Runs of 16 to 24 steps, killed by SIGKILL and begun again, against undisturbed
ones. Steps done again are those between the newest checkpoint on disk at the
last kill of a run and the one that it went on from; ended otherwise are runs of
which a bit of the network, a metric or the result differs, times aside.

    python -m benchmarks.soak --kills={_KILLS.value} --seed={_SEED.value}

{table(runs)}

{machine()}. {minutes:.0f} minutes on {time.strftime('%Y-%m-%d')}.
"""


def soak(workdir: pathlib.Path) -> list[Run]:
  """Kills as often as asked for, and reports every run as it ends."""
  draw, kills = random.Random(_SEED.value), _KILLS.value
  saves, ends = -(-2 * kills // 5), -(-kills // 5)
  kinds = (['a save'] * saves + ['the end'] * ends + ['any'] * kills)[:kills]
  draw.shuffle(kinds)
  seconds = {}
  for method in _METHODS:
    for path in (workdir / f'{method}-compiled', workdir / method):
      begun = time.monotonic()  # The second time without compiling.
      if start(method, path).wait():
        sys.exit(f'{path} failed: {path.with_suffix(".log").read_text()}')
      seconds[method] = time.monotonic() - begun
    print(f'{method}: {seconds[method]:.1f} s undisturbed', flush=True)
  runs = []
  while kinds:
    method = list(_METHODS)[len(runs) % len(_METHODS)]
    path = workdir / f'{method}-{len(runs)}'
    runs.append(
      disturbed(method, path, workdir / method, kinds, draw, seconds[method])
    )
    print(f'{path.name}: {runs[-1]}', flush=True)
  return runs


def main(argv: list[str]) -> None:
  """Soaks, and writes the table."""
  if len(argv) > 1:
    raise app.UsageError(f'Unknown argument {argv[1]!r}.')
  jax.config.update('jax_platforms', 'cpu')  # It only compares.
  logging.set_verbosity(logging.WARNING)  # Orbax says much.
  begun = time.monotonic()
  workdir = pathlib.Path(_WORKDIR.value or tempfile.mkdtemp()).absolute()
  workdir.mkdir(parents=True, exist_ok=True)
  if any(workdir.iterdir()):
    raise app.UsageError(f"'{workdir}' is not empty. Pass another --workdir.")
  runs = soak(workdir)
  sections.write('soak', section(runs, (time.monotonic() - begun) / 60))
  print(table(runs))
  if any(run.faults for run in runs):
    sys.exit(f"Not all ended in the same bits. They are in '{workdir}'.")
  if not _KEEP.value:
    shutil.rmtree(workdir)


if __name__ == '__main__':
  app.run(main)
