"""Many processes that run one program: who writes, and how they agree.

All of them make the same calls in the same order. With one process, what is
here does nothing.
"""

import json
import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils

_ERROR_BYTES = 2000  # Of an error that is sent to the others.


def join(
  coordinator: str | None,
  num_processes: int | None,
  process_id: int | None,
  *,
  detect: bool,
) -> None:
  """Makes this process one of many, before anything else asks JAX for devices.

  Args:
    coordinator: host:port, on which the first process listens to the others.
    num_processes: how many there are.
    process_id: which of them this is, from 0.
    detect: whether what is not given is read from the environment of a cluster,
      which JAX does: SLURM, Open MPI, Google Kubernetes Engine, Cloud TPU.

  Raises:
    ValueError: a part is missing or out of range, or there is no cluster.

  Example:
    >>> join(None, None, None, detect=False)  # This process alone.
    >>> join('10.0.0.1:1234', 2, None, detect=False)
    Traceback (most recent call last):
      ...
    ValueError: `coordinator`, `num_processes` and `process_id` must be given \
together; `process_id` is missing.
  """
  given = {
    'coordinator': coordinator,
    'num_processes': num_processes,
    'process_id': process_id,
  }
  missing = [f'`{name}`' for name, value in given.items() if value is None]
  if len(missing) == 3 and not detect:
    return
  if missing and not detect:
    raise ValueError(
      '`coordinator`, `num_processes` and `process_id` must be given together; '
      f'{" and ".join(missing)} {"is" if len(missing) == 1 else "are"} missing.'
    )
  if num_processes is not None and num_processes < 1:
    raise ValueError(
      f'`num_processes` must be at least 1, got {num_processes}.'
    )
  if process_id is not None and not 0 <= process_id < (num_processes or 2**31):
    raise ValueError(
      f'`process_id` must lie in [0, {num_processes}), got {process_id}.'
    )
  if coordinator is not None:
    host, _, port = coordinator.rpartition(':')
    if not host or not port.isdigit():
      raise ValueError(f'`coordinator` must be host:port, got {coordinator!r}.')
  # It would catch SIGTERM, which is ours: see signals.
  jax.config.update('jax_enable_preemption_service', False)
  try:
    jax.distributed.initialize(coordinator, num_processes, process_id)
  except (ValueError, RuntimeError) as error:
    raise ValueError(
      f'This process could not join the others ({error}). Say where they are '
      'by `coordinator`, `num_processes` and `process_id`.'
    ) from error


def leave(error: Exception) -> NoReturn:
  """Ends a process that cannot go on, without waiting for the others.

  They end by themselves, when it has been silent for as long as JAX waits.

  Args:
    error: why.
  """
  text = str(error)
  if not isinstance(error, ValueError):  # Of a call that others take part in.
    text = (
      f'{text.splitlines()[0]:.300} -- Another process may have died. Start '
      'all of them again: the same command goes on from the last save.'
    )
  print(f'Error in process {jax.process_index()}: {text}', file=sys.stderr)
  sys.stderr.flush()
  os._exit(1)


def is_first() -> bool:
  """Tells the process that writes and speaks for all."""
  return jax.process_index() == 0


def gather(values: Any) -> np.ndarray:
  """Returns the numbers of all processes: [processes, *shape].

  Example:
    >>> gather([1, 2])
    array([[1, 2]])
  """
  values = np.asarray(values)
  if jax.process_count() == 1:
    return values[None]
  return np.asarray(multihost_utils.process_allgather(values))


def from_first(make: Callable[[], Any]) -> Any:
  """Returns on every process what the first one makes.

  Args:
    make: is called on the first process alone; JSON's types.

  Raises:
    ValueError: on all of them, if `make` raised one, or an OSError.

  Example:
    >>> from_first(lambda: {'steps': [1, 2]})
    {'steps': [1, 2]}
  """
  if jax.process_count() == 1:
    return make()
  found = {}
  if is_first():
    try:
      found = {'value': make()}
    except (ValueError, OSError) as error:
      found = {'error': str(error)}
  found = json.loads(_broadcast(json.dumps(found)))
  if 'error' in found:
    raise ValueError(found['error'])
  return found['value']


def together(act: Callable[[], Any]) -> Any:
  """Acts on every process; where one fails, all do.

  Else those that did not would wait for it for ever.

  Args:
    act: must not call anything in this file.

  Raises:
    ValueError: another process has failed.
    Exception: what `act` has raised on this one.

  Example:
    >>> together(lambda: 3)
    3
  """
  if jax.process_count() == 1:
    return act()
  result, failure, text = None, None, ''
  try:
    result = act()
  except Exception as error:
    failure, text = error, str(error) or type(error).__name__
  message = np.zeros(_ERROR_BYTES, np.uint8)
  data = np.frombuffer(text.encode(errors='replace')[:_ERROR_BYTES], np.uint8)
  message[: len(data)] = data
  everyones = gather(message)
  if failure:
    raise failure
  for i, found in enumerate(everyones):
    text = found.astype(np.uint8).tobytes().rstrip(b'\0')
    if text:
      raise ValueError(f'Process {i}: {text.decode(errors="ignore")}')
  return result


def check_same(name: str, values: np.ndarray) -> None:
  """Refuses to go on where processes differ in what they must have in common.

  Args:
    name: of what the values stand for.
    values: that must be equal.

  Raises:
    ValueError: they are not.
  """
  for i, other in enumerate(gather(values)):
    if not np.array_equal(other, values):
      raise ValueError(
        f'Process {i} has another {name} than process {jax.process_index()}. '
        'Give all of them the same flags, the same versions of all packages, '
        'and the same kind of device.'
      )


def _broadcast(text: str) -> str:
  """Sends the first process's text to all."""
  data = np.frombuffer(text.encode(), np.uint8)
  size = int(multihost_utils.broadcast_one_to_all(np.int32(len(data))))
  # Few lengths, each of which is a program.
  message = np.zeros(max(1024, 1 << (size - 1).bit_length()), np.uint8)
  if is_first():
    message[:size] = data
  message = np.asarray(multihost_utils.broadcast_one_to_all(message))
  return message[:size].astype(np.uint8).tobytes().decode()
