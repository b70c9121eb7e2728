"""The lines of `metrics.jsonl` as scalars for TensorBoard."""

import contextlib
import os
import pathlib
import struct
import time
from collections.abc import Sequence
from typing import Any

from experiments import console, hosts

_FILE = 'events.out.tfevents'  # TensorBoard looks for the last word.


def check() -> None:
  """Raises a `ValueError` where events cannot be written.

  Example:
    >>> check()
  """
  try:
    import tensorboardX  # noqa: F401
  except ImportError as error:
    raise ValueError(
      f'`tensorboard` needs the package tensorboardX ({error}). Install it '
      "with `pip install 'tensorboardX>=2.6.5,<3'`, the extra `tensorboard`, "
      'or leave the flag out.'
    ) from error


def scalars(line: dict[str, Any], prefix: str = '') -> dict[str, float]:
  """Flattens a line: all its numbers but the step, under their paths.

  Example:
    >>> scalars({'step': 4, 'loss': 0.5, 'layer_sparsity': {'fc/kernel': 0.9}})
    {'loss': 0.5, 'layer_sparsity/fc/kernel': 0.9}
  """
  found = {}
  for name, value in line.items():
    if isinstance(value, dict):
      found |= scalars(value, f'{prefix}{name}/')
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
      found[prefix + name] = value
  if not prefix:
    found.pop('step', None)
  return found


class Board:
  """An event file that follows `metrics.jsonl`, of the first process.

  It is written at once, and by no thread: what cannot be written now waits for
  the next line, and ends no run. What follows from a line is all there, or
  nothing of it.
  """

  def __init__(self, path: pathlib.Path):
    """Remembers where; nothing is written.

    Raises:
      ValueError: tensorboardX is missing.
    """
    check()
    self._file = path / _FILE
    self._waiting = b''

  def begin(self, lines: Sequence[dict[str, Any]]) -> None:
    """Writes a new file, of the lines that a resumed run has kept.

    Their times are lost; steps are what to plot over.
    """
    if not hosts.is_first():
      return
    with contextlib.suppress(OSError):
      self._file.unlink()
    self._waiting = _event(file_version='brain.Event:2')
    self._waiting += b''.join(map(_record, lines))
    self._write()

  def write(self, line: dict[str, Any]) -> None:
    """Appends a line, now or when there is room again."""
    if hosts.is_first():
      self._waiting += _record(line)
      self._write()

  def _write(self) -> None:
    size = None
    try:
      self._file.parent.mkdir(parents=True, exist_ok=True)
      with self._file.open('ab') as stream:
        size = stream.tell()
        stream.write(self._waiting)
      self._waiting = b''
    except OSError as error:
      if size is not None:  # Behind half an event none could be read.
        with contextlib.suppress(OSError):
          os.truncate(self._file, size)
      console.log(
        f'Nothing can be written to {str(self._file)!r} ({error.strerror}). '
        'Training goes on, and tries again.'
      )


def _record(line: dict[str, Any]) -> bytes:
  from tensorboardX.proto import summary_pb2

  values = [
    summary_pb2.Summary.Value(tag=tag, simple_value=value)
    for tag, value in scalars(line).items()
  ]
  return _event(step=line['step'], summary=summary_pb2.Summary(value=values))


def _event(**fields: Any) -> bytes:
  """Frames an event: its length and its bytes, each with a checksum."""
  from tensorboardX.proto import event_pb2

  data = event_pb2.Event(wall_time=time.time(), **fields).SerializeToString()
  length = struct.pack('<Q', len(data))
  return length + _checksum(length) + data + _checksum(data)


def _checksum(data: bytes) -> bytes:
  from tensorboardX.crc32c import crc32c

  value = crc32c(data)
  rotated = (value >> 15 | value << 17) + 0xA282EAD8
  return struct.pack('<I', rotated & 0xFFFFFFFF)
