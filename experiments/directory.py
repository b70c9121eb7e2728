"""A run directory: its config, metrics and result, and its checkpoints."""

import contextlib
import dataclasses
import json
import os
import pathlib
from collections.abc import Callable
from typing import IO, Any

import jax

from experiments import console, hosts
from experiments.checkpoints import Checkpoints, store_final
from experiments.config import Config
from experiments.locking import lock


class RunDirectory:
  """Where a run keeps what must outlive it.

  `config.json`, `metrics.jsonl` (a line an epoch), `checkpoints/` (the newest
  two), and at the end `final/` (params and statistics) and `result.json`. All
  is written so that a process killed at any moment leaves no half of it. Of
  many processes the first one writes, and all of them their part of a
  checkpoint.
  """

  def __init__(self, path: str):
    """Locks the directory against other runs; nothing in it is looked at.

    Raises:
      ValueError: it cannot be written, another run is in it, or it is not the
        same one on all processes.
    """
    self.path = pathlib.Path(os.path.expanduser(path)).absolute()
    self._lines: list[str] = []  # That could not be written yet.
    self._checkpoints: Checkpoints | None = None
    self._lock = lock(self.path)

  def take(self, config: Config) -> None:
    """Begins a run here, or goes on with one.

    Raises:
      ValueError: the run that is here has another config, or its config is
        damaged or gone.
    """
    self._config = json.loads(json.dumps(dataclasses.asdict(config)))
    hosts.from_first(self._check_config)
    hosts.together(self._check_place)
    self._checkpoints = Checkpoints(self.path / 'checkpoints', console.log)

  def _check_place(self) -> None:
    path = self.path / 'checkpoints'
    try:
      str(path).encode()
      path.mkdir(exist_ok=True)
    except (OSError, UnicodeError) as error:
      raise ValueError(
        f'`workdir`: {str(path)!r} cannot be a directory ({error}). Pass '
        'another.'
      ) from error

  def _check_config(self) -> None:
    file, wanted = self.path / 'config.json', self._config
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

  def result(self, check: Callable[[dict], Any] = str) -> dict | None:
    """Returns what a finished run has left; None if a part of it is gone.

    Args:
      check: raises for a result that lacks something.
    """

    def read():
      file = self.path / 'result.json'
      if not (file.exists() and (self.path / 'final').exists()):
        return None
      try:
        found = _read(file)
        check(found)
        return found
      except (ValueError, LookupError, TypeError, AttributeError) as error:
        console.log(
          f"'{file}' is damaged ({error!r:.200}). It is made anew from the "
          'last checkpoint.'
        )
        return None

    return hosts.from_first(read)

  def finish(self, params: Any, stats: Any, result: dict) -> None:
    """Stores the network, then the result that says that all is there."""
    self._checkpoints.flush()
    written = hosts.from_first(self._write_lines)
    store_final(self.path / 'final', *jax.device_get((params, stats)))
    if not written:
      raise OSError(
        f"Lines of metrics could not be stored in '{self.path}'. The same "
        'command finishes the run.'
      )
    hosts.from_first(lambda: _write(self.path / 'result.json', result))

  def save(self, step: int, state: Any) -> None:
    """Saves a state in the background, after the lines that come before it."""
    if hosts.from_first(self._write_lines):
      self._checkpoints.save(step, state)

  def has(self, step: int) -> bool:
    """Waits for what is being saved, and tells whether this step is there."""
    return self._checkpoints.has(step)

  def restore(self, abstract: Callable[[int], Any]) -> Any | None:
    """Returns the newest state that is undamaged; see `Checkpoints`."""
    return self._checkpoints.restore(abstract)

  def log_metrics(self, line: dict) -> None:
    """Appends a line to `metrics.jsonl`, now or when there is room again."""
    if hosts.is_first():
      self._lines.append(json.dumps(line, allow_nan=False) + '\n')
      self._write_lines()

  def _write_lines(self) -> bool:
    """Writes what there is to write, and tells whether that was possible."""
    file = self.path / 'metrics.jsonl'
    size = None
    try:
      self._claim()
      with file.open('a') as stream:  # Made now: one that is gone is missed.
        size = stream.tell()
        stream.writelines(self._lines)
        _sync(stream)
      self._lines = []
    except OSError as error:
      if size is not None:  # Of a line, all is there or nothing.
        with contextlib.suppress(OSError):
          os.truncate(file, size)
      console.log(
        f"Nothing can be written to '{self.path}' ({error.strerror}). Training "
        'goes on, and tries again.'
      )
      return False
    return True

  def forget_metrics_after(self, step: int) -> list[dict]:
    """Drops the lines that a resumed run will write again.

    Those of the final pruning are among them, whatever their step.

    Args:
      step: that the run goes on from; -1 if it begins.

    Returns:
      The lines that are left.
    """
    return hosts.from_first(lambda: self._forget_metrics_after(step))

  def _forget_metrics_after(self, step: int) -> list[dict]:
    file = self.path / 'metrics.jsonl'
    if not file.exists():
      if step >= 0:
        console.log(
          f"'{file}' is gone. What it had of the steps before {step} will be "
          'missing from the result.'
        )
      return []
    lines, unread = [], 0
    for text in file.read_text(errors='replace').splitlines():
      try:
        line = json.loads(text)
        record = line.get('pruning') or line.get('draws') or {}
        if line['step'] <= step and not record.get('final', False):
          lines.append(line)
      except (ValueError, KeyError, TypeError, AttributeError):
        unread += 1
    if unread:
      console.log(
        f"{unread} of the lines in '{file}' cannot be read, and are dropped. "
        'That of a process that was killed is written again.'
      )
    _replace(file, ''.join(json.dumps(line) + '\n' for line in lines))
    return lines

  def close(self) -> None:
    """Waits for what is being saved, and lets others in."""
    try:
      if self._checkpoints:
        self._checkpoints.close()
    finally:
      self._lock.close()


def _read(file: pathlib.Path) -> dict:
  try:
    found = json.loads(file.read_text())
    if not isinstance(found, dict):
      raise ValueError(f'it holds a {type(found).__name__}')
    return found
  except ValueError as error:
    raise ValueError(
      f"'{file}' is damaged ({error}). Pass another `workdir`."
    ) from error


def _write(file: pathlib.Path, value: Any) -> None:
  _replace(file, json.dumps(value, indent=2) + '\n')


def _replace(file: pathlib.Path, text: str) -> None:
  """Writes a file at once, or not at all."""
  new = file.with_suffix(file.suffix + '.new')
  with new.open('w') as stream:
    stream.write(text)
    _sync(stream)
  new.replace(file)


def _sync(stream: IO) -> None:
  """Has what was written reach the disk, should the machine die."""
  stream.flush()
  os.fsync(stream.fileno())
