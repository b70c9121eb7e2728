"""A run directory: its config, metrics, result, and checkpoints by Orbax."""

import dataclasses
import fcntl
import itertools
import json
import pathlib
from collections.abc import Callable
from typing import IO, Any

import jax
import orbax.checkpoint as ocp

from experiments.config import Config


class RunDirectory:
  """Where a run keeps what must outlive it.

  `config.json`, `metrics.jsonl` (a line an epoch), `checkpoints/` (the newest
  two), and at the end `final/` (params and statistics) and `result.json`. All
  is written so that a process killed at any moment leaves no half of it.
  """

  def __init__(self, path: str, config: Config):
    """Opens the directory, and refuses one that another run is or was in."""
    self.path = pathlib.Path(path).expanduser().absolute()
    self.path.mkdir(parents=True, exist_ok=True)
    self._lock = _lock(self.path)
    try:
      self._check_config(config)
    except ValueError:
      self._lock.close()
      raise
    self._manager = ocp.CheckpointManager(
      self.path / 'checkpoints',
      options=ocp.CheckpointManagerOptions(max_to_keep=2),
      # Else it guesses from the newest checkpoint, which may be damaged.
      item_handlers=ocp.StandardCheckpointHandler(),
    )

  def _check_config(self, config: Config) -> None:
    file = self.path / 'config.json'
    self._config = wanted = json.loads(json.dumps(dataclasses.asdict(config)))
    if not file.exists():
      left = ('result.json', 'final', 'metrics.jsonl')
      checkpoints = (self.path / 'checkpoints').glob('*')
      if any((self.path / name).exists() for name in left) or any(checkpoints):
        raise ValueError(
          f"'{self.path}' holds a run, but no config.json that says which. "
          'Pass another `workdir`.'
        )
      return
    # A field that is younger than the run had its default value.
    found = json.loads(json.dumps(dataclasses.asdict(Config())))
    found |= _read(file)
    differing = [
      f'{name} ({found.get(name)!r} there, {wanted.get(name)!r} here)'
      for name in sorted(found.keys() | wanted.keys())
      if found.get(name) != wanted.get(name)
    ]
    if differing:
      raise ValueError(
        f"The run in '{self.path}' has another config: "
        f'{", ".join(differing)}. Pass another `workdir`.'
      )

  def _claim(self) -> None:
    """Writes the config down, as soon as there is anything to go on from."""
    file = self.path / 'config.json'
    if not file.exists():
      _write(file, self._config)

  def result(self) -> dict | None:
    """Returns what a finished run has left; None if a part of it is gone."""
    file = self.path / 'result.json'
    if file.exists() and (self.path / 'final').exists():
      return _read(file)
    return None

  def finish(self, params: Any, stats: Any, result: dict) -> None:
    """Stores the network, then the result that says that all is there."""
    self._claim()
    self._manager.wait_until_finished()
    with ocp.StandardCheckpointer() as checkpointer:
      checkpointer.save(
        self.path / 'final',
        {'params': params, 'batch_stats': stats},
        force=True,
      )
    _write(self.path / 'result.json', result)

  def save(self, step: int, state: Any) -> None:
    """Saves a state, in the background; not if it is there from before."""
    self._claim()
    if step not in self._manager.all_steps():
      self._manager.save(step, args=ocp.args.StandardSave(state))

  def restore(
    self, abstract: Callable[[int], Any], log: Callable[[str], None]
  ) -> Any | None:
    """Returns the newest state that can be read, or None.

    A damaged one is reported, and the one before it taken.

    Args:
      abstract: from a step to the shapes, dtypes and shardings of its state.
      log: takes a line for the user.
    """
    steps = sorted(self._manager.all_steps(), reverse=True)
    for step, before in zip(steps, [*steps[1:], None]):
      wanted = abstract(step)
      try:
        return self._manager.restore(
          step, args=ocp.args.StandardRestore(wanted)
        )
      except Exception as error:  # Damage shows in many types.
        aside = self._set_aside(step)
        cause = next(iter(str(error).splitlines()), '')
        log(
          f'Checkpoint {step} cannot be read ({type(error).__name__}: '
          f"{cause:.200}). It is kept as '{aside}'; "
          + (
            'the run starts anew.'
            if before is None
            else f'checkpoint {before} is used.'
          )
        )
    return None

  def _set_aside(self, step: int) -> pathlib.Path:
    names = (f'damaged-{step}-{i}' for i in itertools.count(1))
    aside = next(
      self.path / name for name in names if not (self.path / name).exists()
    )
    (self.path / 'checkpoints' / str(step)).rename(aside)
    self._manager.reload()
    return aside

  def log_metrics(self, line: dict) -> None:
    """Appends a line to `metrics.jsonl`."""
    self._claim()
    with (self.path / 'metrics.jsonl').open('a') as file:
      file.write(json.dumps(line, allow_nan=False) + '\n')

  def forget_metrics_after(self, step: int) -> list[dict]:
    """Drops the lines that a resumed run will write again.

    Those of the final pruning are among them, whatever their step.

    Args:
      step: that the run goes on from; -1 if it begins.

    Returns:
      The lines that are left.
    """
    file = self.path / 'metrics.jsonl'
    if not file.exists():
      return []
    lines = []
    for text in file.read_text().splitlines():
      try:
        line = json.loads(text)
        record = line.get('pruning') or line.get('draws') or {}
        if line['step'] <= step and not record.get('final', False):
          lines.append(line)
      except (ValueError, KeyError, TypeError):
        continue  # The half line of a killed process.
    _replace(file, ''.join(json.dumps(line) + '\n' for line in lines))
    return lines

  def close(self) -> None:
    """Waits for what is being saved, and lets others in."""
    self._manager.close()
    self._lock.close()


def load_final(path: str) -> tuple[Any, Any, dict]:
  """Reads the network of a finished run.

  Args:
    path: the run directory, or `final` in it.

  Returns:
    params, batch statistics, and the config of the run.

  Raises:
    ValueError: there is no finished run.
  """
  directory = pathlib.Path(path).expanduser().absolute()
  if directory.name == 'final':
    directory = directory.parent
  if not (directory / 'final').exists():
    raise ValueError(
      f"`init_from`: '{directory}' is neither an .npz file nor the directory "
      'of a finished run, which has a folder `final`. A run that was stopped '
      'is finished by the command that began it.'
    )
  with ocp.StandardCheckpointer() as checkpointer:
    trees = checkpointer.restore(directory / 'final')
  trees = jax.tree.map(jax.device_get, trees)
  config = _read(directory / 'config.json')
  return trees['params'], trees['batch_stats'], config


def _lock(path: pathlib.Path) -> IO:
  """Locks a directory until the file is closed or the process ends."""
  file = (path / 'lock').open('w')
  if jax.process_index() == 0:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
      file.close()
      raise ValueError(
        f"Another process runs in '{path}'. Wait for it, or pass another "
        '`workdir`.'
      ) from error
  return file


def _read(file: pathlib.Path) -> dict:
  try:
    return json.loads(file.read_text())
  except ValueError as error:
    raise ValueError(
      f"'{file}' is damaged ({error}). Pass another `workdir`."
    ) from error


def _write(file: pathlib.Path, value: Any) -> None:
  _replace(file, json.dumps(value, indent=2) + '\n')


def _replace(file: pathlib.Path, text: str) -> None:
  """Writes a file at once, or not at all."""
  new = file.with_suffix(file.suffix + '.new')
  new.write_text(text)
  new.replace(file)
