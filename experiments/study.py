"""Runs all that a plan holds, or what of it is not done yet.

    python -m experiments.study PLAN --out=DIR --processes=2

A plan is a TOML file; `studies.py` says what is in it. Each run is a process
and has a directory in DIR, so that one that dies costs no other, and the same
command goes on where it was stopped.
"""

import argparse
import json
import os
import pathlib
import signal
import sys
import time
from collections.abc import Sequence

import jax
import rich.progress

from experiments import console, studies
from experiments.config import Config
from experiments.processes import Process, Share, shares


class Study:
  """What is to be run, what runs, and what has come of it."""

  def __init__(self, configs: list[Config], out: pathlib.Path, data_dir):
    """Finds out what is done."""
    self.out, self.data_dir = out, data_dir
    self.todo = [c for c in configs if not self.result(c)]
    self.num_runs, self.num_done = len(configs), len(configs) - len(self.todo)
    self.failed: list[str] = []
    self.seconds: list[float] = []  # Of the runs that have ended well.

  def path(self, config: Config) -> pathlib.Path:
    """The directory of a run."""
    return self.out / studies.name(config)

  def result(self, config: Config) -> dict | None:
    """What a run has left at its end; a file that is damaged is made anew."""
    file = self.path(config) / 'result.json'
    try:
      return json.loads(file.read_text())
    except (OSError, ValueError):
      return None

  def begin(self, share: Share) -> Process:
    """Starts the next run."""
    config = self.todo.pop(0)
    return Process(config, self.path(config), share, self.data_dir)

  def end(self, process: Process) -> None:
    """Says what has come of a run, and what is left."""
    seconds = time.monotonic() - process.started
    result = self.result(process.config)
    if result is None:
      self.failed.append(process.path.name)
      console.log(f'{process.path.name} failed: {process.last_line()}')
      return
    self.num_done += 1
    self.seconds.append(seconds)
    console.log(
      f'{self.num_done} of {self.num_runs}: {process.path.name} comes to '
      f'{result["test_accuracy"]:.2%} in {console.duration(seconds)}.'
    )

  def note(self, running: list[Process]) -> str:
    """Says how long it will take, and what runs."""
    names = ', '.join(process.path.name for process in running)
    if not self.seconds:
      return names
    mean = sum(self.seconds) / len(self.seconds)
    spent = sum(time.monotonic() - process.started for process in running)
    total = (len(self.todo) + len(running)) * mean - spent
    left = max(total / max(len(running), 1), 0)
    return f'about {console.duration(left)} left; {names}'


def run(study: Study, resources: list[Share], stop: list[int]) -> None:
  """Runs what is to be run.

  Args:
    study: what that is.
    resources: for as many runs at a time.
    stop: signals that have come. The runs are asked to save and to end.
  """
  running: list[Process] = []
  columns = (
    rich.progress.BarColumn(),
    rich.progress.MofNCompleteColumn(),
    rich.progress.TextColumn('runs, {task.fields[note]}'),
  )
  with console.bar(*columns) as bar:
    task = bar.add_task('', total=study.num_runs, note='')
    while running or (study.todo and not stop):
      taken = [process.share for process in running]
      for share in resources:
        if share not in taken and study.todo and not stop:
          running.append(study.begin(share))
      bar.update(task, completed=study.num_done, note=study.note(running))
      time.sleep(0.2)
      for process in list(running):
        if stop:
          process.stop(at_once=len(stop) > 1)
        if process.ended():
          running.remove(process)
          if not stop or study.result(process.config):
            study.end(process)


def parser() -> argparse.ArgumentParser:
  """Says what the command line takes."""
  found = argparse.ArgumentParser(
    prog='python -m experiments.study',
    description='Runs all that a plan holds, or what of it is not done yet.',
    allow_abbrev=False,
  )
  found.add_argument('plan', help='a TOML file; README says what is in it')
  found.add_argument(
    '--out', required=True, help='directory of the runs; a directory each'
  )
  found.add_argument(
    '--processes',
    type=int,
    default=1,
    help='runs at a time (default: 1); on a CPU they share its cores',
  )
  found.add_argument(
    '--gpus',
    type=lambda text: text.split(','),
    help='numbers of GPUs, such as 0,1: a run at a time on each',
  )
  found.add_argument('--data_dir', help='as of experiments.cifar')
  return found


def main(argv: Sequence[str] | None = None) -> None:
  """Reads the plan, runs it, and says what failed."""
  args = parser().parse_args(argv)
  # This process computes nothing, and must not take a GPU from its runs.
  jax.config.update('jax_platforms', 'cpu')
  try:
    resources = shares(args.processes, args.gpus)
    configs = studies.read(args.plan)
    out = pathlib.Path(os.path.expanduser(args.out)).absolute()
    out.mkdir(parents=True, exist_ok=True)
  except (OSError, ValueError) as error:
    sys.exit(f'Error: {error}')
  study = Study(configs, out, args.data_dir)
  console.log(f'{study.num_done} of {study.num_runs} runs are done.')
  stop: list[int] = []
  for number in signal.SIGINT, signal.SIGTERM:
    signal.signal(number, lambda number, frame: stop.append(number))
  run(study, resources, stop)
  if stop:
    console.log('Stopped. The same command goes on from there.')
    sys.exit(0 if stop[0] == signal.SIGTERM else 130)
  if study.failed:
    sys.exit(
      f'Error: {len(study.failed)} runs failed. The same command tries them '
      f"again; `output.txt` in '{out / study.failed[0]}' says more."
    )
  console.log(
    f'Done. See it: python -m experiments.report {args.out} --out=DIR'
  )


if __name__ == '__main__':
  main()
