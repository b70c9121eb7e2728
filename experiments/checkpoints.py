"""A run directory: its config, metrics, result, and checkpoints by Orbax."""

import dataclasses
import json
import pathlib
from collections.abc import Callable
from typing import Any

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
    """Opens the directory, and refuses one that another config has made."""
    self.path = pathlib.Path(path).expanduser().absolute()
    self._check_config(config)
    self._manager = ocp.CheckpointManager(
      self.path / 'checkpoints',
      options=ocp.CheckpointManagerOptions(max_to_keep=2),
    )

  def _check_config(self, config: Config) -> None:
    file = self.path / 'config.json'
    wanted = json.loads(json.dumps(dataclasses.asdict(config)))
    if not file.exists():
      self.path.mkdir(parents=True, exist_ok=True)
      _write(file, wanted)
      return
    found = json.loads(file.read_text())
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

  def result(self) -> dict | None:
    """Returns what a finished run has left."""
    file = self.path / 'result.json'
    return json.loads(file.read_text()) if file.exists() else None

  def finish(self, params: Any, stats: Any, result: dict) -> None:
    """Stores the network, then the result that says that all is there."""
    self._manager.wait_until_finished()
    with ocp.StandardCheckpointer() as checkpointer:
      checkpointer.save(
        self.path / 'final',
        {'params': params, 'batch_stats': stats},
        force=True,
      )
    _write(self.path / 'result.json', result)

  def save(self, step: int, state: Any) -> None:
    """Saves a state, in the background."""
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
    for step in sorted(self._manager.all_steps(), reverse=True):
      try:
        return self._manager.restore(
          step, args=ocp.args.StandardRestore(abstract(step))
        )
      except Exception as error:  # Damage shows in many types.
        aside = self.path / f'damaged-{step}'
        (self.path / 'checkpoints' / str(step)).rename(aside)
        self._manager.reload()
        cause = next(iter(str(error).splitlines()), '')
        log(
          f'Checkpoint {step} cannot be read ({type(error).__name__}: '
          f"{cause:.200}). It is kept as '{aside}'; the one before it is used."
        )
    return None

  def log_metrics(self, line: dict) -> None:
    """Appends a line to `metrics.jsonl`."""
    with (self.path / 'metrics.jsonl').open('a') as file:
      file.write(json.dumps(line) + '\n')

  def forget_metrics_after(self, step: int) -> None:
    """Drops the lines that a resumed run will write again."""
    file = self.path / 'metrics.jsonl'
    if not file.exists():
      return
    lines = []
    for line in file.read_text().splitlines():
      try:
        if json.loads(line)['step'] <= step:
          lines.append(line + '\n')
      except ValueError:
        continue  # The half line of a killed process.
    _replace(file, ''.join(lines))

  def close(self) -> None:
    """Waits for what is being saved."""
    self._manager.close()


def load_final(path: str) -> tuple[Any, Any, dict]:
  """Reads the network of a finished run.

  Args:
    path: the run directory.

  Returns:
    params, batch statistics, and the config of the run.

  Raises:
    ValueError: there is no finished run.
  """
  directory = pathlib.Path(path).expanduser().absolute()
  if not (directory / 'result.json').exists():
    raise ValueError(
      f"`init_from`: '{directory}' is neither an .npz file nor the directory "
      'of a finished run (it has no result.json).'
    )
  with ocp.StandardCheckpointer() as checkpointer:
    trees = checkpointer.restore(directory / 'final')
  trees = jax.tree.map(jax.device_get, trees)
  config = json.loads((directory / 'config.json').read_text())
  return trees['params'], trees['batch_stats'], config


def _write(file: pathlib.Path, value: Any) -> None:
  _replace(file, json.dumps(value, indent=2) + '\n')


def _replace(file: pathlib.Path, text: str) -> None:
  """Writes a file at once, or not at all."""
  new = file.with_suffix(file.suffix + '.new')
  new.write_text(text)
  new.replace(file)
