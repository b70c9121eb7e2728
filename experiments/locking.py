"""One run at a time in a directory, and one directory for all processes."""

import errno
import fcntl
import pathlib
import uuid
from typing import IO

from experiments import hosts


def lock(path: pathlib.Path) -> IO:
  """Locks a directory until the file is closed or the process ends.

  Of many processes the first one holds the lock, and writes into it a word that
  the others look for.

  Args:
    path: of the directory, which is made if need be.

  Returns:
    The file to close.

  Raises:
    ValueError: it cannot be written, another run is in it, or it is not the
      same one on all processes.
  """
  token = hosts.from_first(lambda: uuid.uuid4().hex)

  def make():
    try:
      path.mkdir(parents=True, exist_ok=True)
      return (path / 'lock').open('a+')
    except OSError as error:
      raise _unusable(path, error) from error

  def hold():
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
      file.truncate(0)
      file.write(token)
      file.flush()
    except OSError as error:
      if error.errno in (errno.EAGAIN, errno.EACCES):
        raise ValueError(
          f"Another process runs in '{path}'. Wait for it, or pass another "
          '`workdir`.'
        ) from error
      raise _unusable(path, error) from error

  def check():
    if (path / 'lock').read_text() != token:
      raise ValueError(
        f"`workdir`: '{path}' is not the directory of the first process. Pass "
        'one on a file system that all processes share.'
      )

  file = hosts.together(make)
  try:
    hosts.from_first(hold)
    hosts.together(check)
  except BaseException:
    file.close()
    raise
  return file


def _unusable(path: pathlib.Path, error: OSError) -> ValueError:
  return ValueError(
    f"`workdir`: '{path}' cannot be written or locked ({error.strerror}). Pass "
    'another.'
  )
