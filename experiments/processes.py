"""Runs as processes, each with its share of the machine."""

import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import NamedTuple

from experiments import commands
from experiments.config import Config


class Share(NamedTuple):
  """What one run at a time has for itself."""

  cores: tuple[int, ...] = ()  # All, if none is named.
  gpu: str | None = None


def shares(num_processes: int, gpus: Sequence[str] | None) -> list[Share]:
  """Shares a machine out.

  Args:
    num_processes: runs at a time, where there are no GPUs.
    gpus: their numbers, for a run at a time on each.

  Raises:
    ValueError: there are fewer cores, or `gpus` are no different numbers.

  Example:
    >>> shares(1, ['0', '1'])
    [Share(cores=(), gpu='0'), Share(cores=(), gpu='1')]
  """
  if gpus:
    if not all(gpu.isdigit() for gpu in gpus) or len({*gpus}) < len(gpus):
      raise ValueError(f'`gpus` must be different numbers, got {gpus}.')
    return [Share(gpu=gpu) for gpu in gpus]
  if num_processes == 1:
    return [Share()]
  cores = sorted(_cores())
  if not 1 <= num_processes <= len(cores):
    raise ValueError(
      f'`processes` must lie in [1, {len(cores)}], the number of cores, got '
      f'{num_processes}.'
    )
  return [Share(tuple(cores[i::num_processes])) for i in range(num_processes)]


def _cores() -> Sequence[int]:
  if hasattr(os, 'sched_getaffinity'):
    return list(os.sched_getaffinity(0))
  return range(os.cpu_count() or 1)


class Process:
  """A run as a process of its own, whose output goes to `output.txt`."""

  def __init__(
    self,
    config: Config,
    path: pathlib.Path,
    share: Share,
    data_dir: str | None = None,
  ):
    """Starts it."""
    self.config, self.path, self.share = config, path, share
    self.started = time.monotonic()
    self._stopped = False
    path.mkdir(exist_ok=True)
    command = [sys.executable, '-m', 'experiments.cifar']
    command += [*commands.flags(config), f'--workdir={path}']
    command += [f'--data_dir={data_dir}'] if data_dir else []
    with (path / 'output.txt').open('a') as output:
      self._process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        env=self._environment(),
        start_new_session=True,  # Ctrl-C is for the study, which asks it.
      )
    if share.cores and hasattr(os, 'sched_setaffinity'):  # Not on macOS.
      os.sched_setaffinity(self._process.pid, share.cores)

  def _environment(self) -> dict[str, str]:
    # What one run has compiled, the others find.
    cache = str(self.path.parent / 'compiled')
    found = {'JAX_COMPILATION_CACHE_DIR': cache} | os.environ
    if self.share.gpu is not None:
      found['CUDA_VISIBLE_DEVICES'] = self.share.gpu
    return found

  def ended(self) -> bool:
    """Whether it has."""
    return self._process.poll() is not None

  def stop(self, *, at_once: bool = False) -> None:
    """Asks it, once, to save and to end; or ends it."""
    if at_once:
      self._process.kill()
    elif not self._stopped:
      self._stopped = True
      self._process.send_signal(signal.SIGTERM)

  def last_line(self) -> str:
    """The last thing that it said."""
    lines = (self.path / 'output.txt').read_text(errors='replace').splitlines()
    said = [line for line in lines if line.strip()]
    return said[-1] if said else f'exit code {self._process.returncode}'
