"""Stopping a run so that nothing is lost."""

import contextlib
import signal
import threading
from collections.abc import Iterator

from experiments import console


class Interrupted(Exception):
  """The process was asked to stop, and has done what it could."""

  def __init__(self, message: str, code: int):
    """Takes what to tell the user, and the code that the process exits with."""
    super().__init__(message)
    self.code = code


def exit_code(number: int, *, saved: bool) -> int:
  """Returns 0 for SIGTERM, by which machines are taken back, if all is saved.

  Else what a shell reports of a process that the signal has ended.

  Example:
    >>> exit_code(signal.SIGTERM, saved=True), exit_code(15, saved=False)
    (0, 143)
  """
  return 0 if saved and number == signal.SIGTERM else 128 + number


@contextlib.contextmanager
def caught() -> Iterator[list[int]]:
  """Collects SIGINT and SIGTERM instead of dying of them; twice kills."""
  numbers = []

  def catch(number, frame):
    del frame
    if numbers:
      raise KeyboardInterrupt
    numbers.append(number)
    console.log('Stopping after this step; once more stops at once.')

  if threading.current_thread() is not threading.main_thread():
    yield numbers  # Python delivers signals to the main thread alone.
    return
  both = signal.SIGINT, signal.SIGTERM
  before = [signal.signal(number, catch) for number in both]
  try:
    yield numbers
  finally:
    for number, handler in zip(both, before):
      # None stands for one that is not Python's.
      signal.signal(number, signal.SIG_DFL if handler is None else handler)
