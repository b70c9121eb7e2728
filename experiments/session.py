"""What a process does beside computing: it saves, shows, stops and counts."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from experiments import hosts, signals, train
from experiments.directory import RunDirectory
from experiments.tensorboard import Board


class Timing(NamedTuple):
  """Of one call of the compiled loop."""

  steps: int
  seconds: float
  compiles: bool  # Whether it was the first of its program.


class Session(NamedTuple):
  """What this process has beside the numbers that it computes."""

  directory: RunDirectory | None
  save_every_s: float
  show: Callable[[int, str], None]  # (step, note): moves the progress bar.
  stop: Sequence[int]  # Signals that were caught.
  prunings: list[dict[str, Any]]  # Records of the run so far.
  timings: list[Timing]  # Of every call so far.
  accuracies: dict[int, float]  # Of what would have been deployed at a step.
  loops: dict[Any, Callable]  # Compiled, by method and rate of the segment.
  board: Board | None = None  # Shows the lines, too.


def save(session: Session, state: train.TrainState) -> None:
  """Saves a state, if there is a directory."""
  if session.directory:
    # A copy: the next step is given the state's own memory, and on a CPU the
    # save would read it while it changes.
    state = jax.tree.map(jnp.copy, state)
    session.directory.save(int(state.step), state)


def write(session: Session, line: dict[str, Any]) -> None:
  """Appends a line to `metrics.jsonl`, if there is a directory."""
  if session.directory:
    session.directory.log_metrics(line)
  if session.board:
    session.board.write(line)


def is_due(session: Session, seconds: float) -> bool:
  """Tells all processes alike whether to save now.

  Args:
    session: of this process; a signal to any of them makes a save due.
    seconds: since the last save. The first process's clock counts.
  """
  found = hosts.gather([seconds >= session.save_every_s, bool(session.stop)])
  return bool(found[0, 0] or found[:, 1].any())


def stop_if_asked(session: Session, step: int) -> None:
  """Ends the run after a save, if a signal came to any process."""
  number = int(hosts.gather(session.stop[0] if session.stop else 0).max())
  if not number:
    return
  saved = session.directory is not None and session.directory.has(step)
  if saved:
    end = 'The same command goes on from there.'
  elif session.directory:
    end = 'It could not be saved; the same command goes on from the last save.'
  else:
    end = 'Nothing was saved, as there is no --workdir.'
  raise signals.Interrupted(
    f'Stopped at step {step}. {end}', signals.exit_code(number, saved=saved)
  )


def steps_per_second(timings: list[Timing]) -> float | None:
  """Counts without the calls that compile, unless there are no others.

  Example:
    >>> steps_per_second([Timing(4, 10.0, True), Timing(4, 2.0, False)])
    2.0
  """
  timings = [t for t in timings if not t.compiles] or timings
  seconds = sum(t.seconds for t in timings)
  return sum(t.steps for t in timings) / seconds if seconds else None
