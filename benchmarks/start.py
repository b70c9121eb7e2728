"""How long from the command to the first training step?

    python -m benchmarks.start [resnet20 | resnet56 | ...]

Runs the command in a terminal of its own until its progress bar shows the loss
of the first step, and ends it: once with an empty compilation cache, then with
the one that the first run filled. `JAX_COMPILATION_CACHE_DIR` is how anybody
turns that cache on.
"""

import os
import pty
import re
import select
import subprocess
import sys
import tempfile
import time

from benchmarks.measure import Row, duration, machine, table, verdict

_GOALS_S = {'empty': 10.0, 'filled': 5.0}
_LIMIT_S = 600


def seconds_to_first_step(model: str, method: str, cache: str) -> float:
  """Runs `experiments.cifar` until the loss of its first step is shown."""
  command = [
    *(sys.executable, '-m', 'experiments.cifar', '--dataset=cifar10_mini'),
    *(f'--model={model}', f'--method={method}', '--epochs=1'),
  ]
  ours, its = pty.openpty()
  environment = os.environ | {
    'JAX_COMPILATION_CACHE_DIR': cache,
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
    'TERM': 'xterm',
    'COLUMNS': '120',
  }
  start = time.perf_counter()
  process = subprocess.Popen(
    command, stdin=its, stdout=its, stderr=its, env=environment
  )
  os.close(its)
  shown = b''
  try:
    while not re.search(rb'loss \d', shown):
      if not select.select([ours], [], [], _LIMIT_S)[0]:
        raise TimeoutError(f'Nothing was shown for {_LIMIT_S} s.')
      try:
        shown += os.read(ours, 4096)
      except OSError:  # It has ended, which no run does before its first step.
        raise RuntimeError(shown.decode(errors='replace')) from None
    return time.perf_counter() - start
  finally:
    process.kill()
    process.wait()
    os.close(ours)


def rows(
  model: str = 'resnet20', method: str = 'ong-reconstructed'
) -> list[Row]:
  """With an empty compilation cache, and with a filled one."""
  found = []
  with tempfile.TemporaryDirectory() as cache:
    for state, goal in _GOALS_S.items():
      value = seconds_to_first_step(model, method, cache)
      found.append(
        Row(
          f'command to first step, {model}, `--method={method}`, '
          f'{state} compilation cache',
          ours=duration(value),
          goal=duration(goal),
          verdict=verdict(value, goal, 'the-first-step'),
        )
      )
  return found


def main(model: str = 'resnet20') -> None:
  """Prints the table."""
  print(f'{machine()}\n')
  print(table(rows(model)))


if __name__ == '__main__':
  main(*sys.argv[1:])
