"""A run directory: its config, metrics and result, and its checkpoints."""

import contextlib
import dataclasses
import fcntl
import json
import os
import pathlib
import uuid
from collections.abc import Callable
from typing import IO, Any

import jax

from experiments import hosts, report
from experiments.checkpoints import Checkpoints, store_final
from experiments.config import Config


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
    self.path = pathlib.Path(path).expanduser().absolute()
    self._lines: list[str] = []  # That could not be written yet.
    self._checkpoints: Checkpoints | None = None
    self._lock = _lock(self.path)

  def take(self, config: Config) -> None:
    """Begins a run here, or goes on with one.

    Raises:
      ValueError: the run that is here has another config, or its config is
        damaged or gone.
    """
    self._config = json.loads(json.dumps(dataclasses.asdict(config)))
    hosts.from_first(self._check_config)
    self._checkpoints = Checkpoints(self.path / 'checkpoints', report.log)

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
    if hosts.is_first() and not file.exists():
      _write(file, self._config)

  def result(self) -> dict | None:
    """Returns what a finished run has left; None if a part of it is gone."""

    def read():
      file = self.path / 'result.json'
      if not (file.exists() and (self.path / 'final').exists()):
        return None
      try:
        return _read(file)
      except ValueError as error:
        report.log(f'{error} It is made anew from the last checkpoint.')
        return None

    return hosts.from_first(read)

  def finish(self, params: Any, stats: Any, result: dict) -> None:
    """Stores the network, then the result that says that all is there."""
    self._claim()
    self._checkpoints.flush()
    self._write_lines(strict=True)
    trees = jax.device_get((params, stats))
    store_final(self.path / 'final', *trees)
    if hosts.is_first():
      _write(self.path / 'result.json', result)

  def save(self, step: int, state: Any) -> None:
    """Saves a state in the background, after the lines that come before it."""
    try:
      self._claim()
    except OSError as error:
      report.log(f'{error}. Training goes on, and saves when it can.')
      return
    self._write_lines()
    if not self._lines:
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

  def _write_lines(self, *, strict: bool = False) -> None:
    if not self._lines:
      return
    file = self.path / 'metrics.jsonl'
    size = file.stat().st_size if file.exists() else 0
    try:
      self._claim()
      with file.open('a') as stream:
        stream.writelines(self._lines)
        _sync(stream)
      self._lines = []
    except OSError as error:
      with contextlib.suppress(OSError):
        os.truncate(file, size)  # Of a line, all is there or nothing.
      message = f"'{file}' cannot be written ({error})."
      if strict:
        raise OSError(
          f'{message} The same command goes on from the last save.'
        ) from error
      report.log(f'{message} Its lines are kept until it can.')

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
      report.log(
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


def _lock(path: pathlib.Path) -> IO:
  """Locks a directory until the file is closed or the process ends."""
  token = hosts.from_first(lambda: uuid.uuid4().hex)

  def make():
    try:
      path.mkdir(parents=True, exist_ok=True)
      return (path / 'lock').open('a+')
    except OSError as error:
      raise ValueError(
        f"`workdir`: '{path}' cannot be written ({error.strerror}). Pass "
        'another.'
      ) from error

  def lock():
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
      raise ValueError(
        f"Another process runs in '{path}'. Wait for it, or pass another "
        '`workdir`.'
      ) from error
    file.truncate(0)
    file.write(token)
    file.flush()

  def check():
    if (path / 'lock').read_text() != token:
      raise ValueError(
        f"`workdir`: '{path}' is not the directory of the first process. Pass "
        'one on a file system that all processes share.'
      )

  file = hosts.together(make)
  try:
    hosts.from_first(lock)
    hosts.together(check)
  except BaseException:
    file.close()
    raise
  return file


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
