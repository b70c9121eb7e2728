"""The states of a run and its final network on disk, by Orbax."""

import itertools
import json
import os
import pathlib
import re
import shutil
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from experiments import fingerprints, hosts
from ong_jax.selection import name_of

Log = Callable[[str], None]  # Takes a line for the user.


class Checkpoints:
  """The newest two states of a run: each is there whole, or not at all.

  Every process saves what it holds. Beside a state lie fingerprints of its
  arrays, so that damage is found that can be read without an error.
  """

  def __init__(self, path: pathlib.Path, log: Log):
    """Opens a directory, and removes what a killed process has half written."""
    self._path, self._log = path, log
    self._open()

  def _open(self) -> None:
    self._manager = ocp.CheckpointManager(
      self._path,
      options=ocp.CheckpointManagerOptions(max_to_keep=2),
      # Else it guesses from the newest checkpoint, which may be damaged.
      item_handlers=ocp.StandardCheckpointHandler(),
    )

  def save(self, step: int, state: Any) -> None:
    """Saves a state in the background; not if it is there from before."""
    self.flush()
    if step in self._manager.all_steps():
      return
    self._remove_halves()
    item = {'state': state, 'fingerprint': _fingerprint(state)}
    try:
      self._manager.save(step, args=ocp.args.StandardSave(item))
    except Exception as error:  # What is wrong with a disk shows in many types.
      self._failed(error)

  def has(self, step: int) -> bool:
    """Waits for what is being saved, and tells whether this step is there."""
    self.flush()
    return step in self._manager.all_steps()

  def flush(self) -> None:
    """Waits for what is being saved, and says so if that fails."""
    try:
      self._manager.wait_until_finished()
    except Exception as error:
      self._failed(error)

  def _failed(self, error: Exception) -> None:
    """Says that a save failed, and begins anew; the last ones are there."""
    message = f"A save in '{self._path}' failed ({_cause(error)})"
    if jax.process_count() > 1:  # The others wait for this one.
      raise OSError(f'{message}.') from error
    self._remove_halves()
    self._open()  # The old manager would report the error again.
    newest = max(self._manager.all_steps(), default=None)
    self._log(
      f'{message}; '
      + ('there is none' if newest is None else f'the last is of step {newest}')
      + '. Training goes on, and saves when the next save is due.'
    )

  def _remove_halves(self) -> None:
    """Removes what saves that failed have left, which may take much room."""
    if jax.process_count() == 1:  # Of many, none goes on after a failure.
      for half in self._path.glob('*.orbax-checkpoint-tmp'):
        shutil.rmtree(half, ignore_errors=True)

  def restore(self, abstract: Callable[[int], Any]) -> Any | None:
    """Returns the newest state that is as it was saved, or None.

    Damaged ones that are newer are reported and set aside.

    Args:
      abstract: from a step to the shapes, dtypes and shardings of its state.

    Raises:
      ValueError: there are states, but all are damaged. They are left as they
        are: whatever is the matter may be with the disk.
    """
    steps = hosts.from_first(lambda: sorted(self._manager.all_steps()))
    damaged = {}
    for step in reversed(steps):
      try:
        state = self._read(step, abstract(step))
      except ValueError as error:
        damaged[step] = str(error)
        continue
      for other, cause in damaged.items():
        self._log(
          f'Checkpoint {other} cannot be used: {cause}. It is kept as '
          f"'{self._set_aside(other)}'; checkpoint {step} is used."
        )
      return state
    if damaged:
      causes = '; '.join(f'{step}: {cause}' for step, cause in damaged.items())
      raise ValueError(
        f"No checkpoint in '{self._path}' can be used ({causes}). Nothing was "
        'changed there. To begin anew, pass another `workdir`.'
      )
    return None

  def _read(self, step: int, wanted: Any) -> Any:
    """Reads a state, and compares it with its fingerprint."""
    num_leaves = len(jax.tree.leaves(wanted))
    item = {'state': wanted, 'fingerprint': np.zeros(num_leaves, np.uint32)}
    # Not by the manager, which waits for the other processes while it reads:
    # one that fails would leave them there.
    found = hosts.together(
      lambda: _restore(
        self._path / str(step) / 'default', ocp.args.StandardRestore(item)
      )
    )
    _compare(found['state'], _fingerprint(found['state']), found['fingerprint'])
    return found['state']

  def _set_aside(self, step: int) -> str:
    def rename():
      names = (f'damaged-{step}-{i}' for i in itertools.count(1))
      paths = (self._path.parent / name for name in names)
      aside = next(path for path in paths if not path.exists())
      (self._path / str(step)).rename(aside)
      return str(aside)

    aside = hosts.from_first(rename)
    self._manager.reload()
    return aside

  def close(self) -> None:
    """Waits for what is being saved."""
    self.flush()
    self._manager.close()


def store_final(path: pathlib.Path, params: Any, stats: Any) -> None:
  """Stores a network in a directory, over what may be there.

  Args:
    path: the directory.
    params: on the host.
    stats: BatchNorm's, on the host.

  Raises:
    OSError: that was not possible.
  """
  trees = {'params': params, 'batch_stats': stats}
  fingerprint = {'fingerprint': fingerprints.of(trees)}
  try:
    with ocp.StandardCheckpointer() as checkpointer:
      checkpointer.save(path, trees | fingerprint, force=True)
  except Exception as error:
    raise OSError(
      f"The network could not be stored in '{path}' ({_cause(error)}). The "
      'same command finishes the run.'
    ) from error


def load_final(path: str) -> tuple[Any, Any, dict]:
  """Reads the network of a finished run.

  Args:
    path: the run directory, or `final` in it.

  Returns:
    params, batch statistics, and the config of the run.

  Raises:
    ValueError: there is no finished run, or it is damaged.
  """
  directory = pathlib.Path(os.path.expanduser(path)).absolute()
  if directory.name == 'final':
    directory = directory.parent
  if not (directory / 'final').exists():
    raise ValueError(
      f"`init_from`: '{directory}' is neither an .npz or .safetensors "
      'file nor the directory of a finished run, which has a folder `final`. A '
      'run that was stopped is finished by the command that began it.'
    )
  try:
    trees = _restore(directory / 'final', ocp.args.StandardRestore())
    fingerprint = trees.pop('fingerprint')
    _compare(trees, fingerprints.of(trees), fingerprint)
    trees = trees['params'], trees['batch_stats']
    config = json.loads((directory / 'config.json').read_text())
    missing = {'image_mean', 'image_std', 'dense_epochs', 'epochs'} - {*config}
    if missing:
      raise ValueError(f'its config.json lacks {sorted(missing)}')
  except (KeyError, OSError, TypeError, ValueError) as error:
    raise ValueError(
      f"`init_from`: '{directory}' is damaged ({error}). Pass another run."
    ) from error
  return *trees, config


def _restore(path: pathlib.Path, args: ocp.args.StandardRestore) -> Any:
  try:
    return ocp.StandardCheckpointHandler().restore(path, args=args)
  except Exception as error:  # Damage shows in many types.
    raise ValueError(f'it cannot be read ({_cause(error)})') from error


def _fingerprint(state: Any) -> np.ndarray:
  """Of all that the processes hold together: uint32 [leaves]."""
  return hosts.gather(fingerprints.of(state)).sum(0, dtype=np.uint32)


def _compare(tree: Any, found: np.ndarray, expected: np.ndarray) -> None:
  paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(tree)]
  for path, a, b in zip(paths, found, expected):
    if a != b:
      raise ValueError(f"the bits of leaf '{name_of(path)}' have changed")


def _cause(error: Exception) -> str:
  text = str(error)
  if number := re.search(r"os_error_code='(\d+)'", text):  # Of TensorStore.
    return os.strerror(int(number[1]))
  return f'{type(error).__name__}: {next(iter(text.splitlines()), ""):.200}'
