"""Stopping a run so that nothing is lost."""

import contextlib
import signal
import threading
from collections.abc import Iterator

from experiments import report


class Interrupted(Exception):
  """The process was asked to stop, and has saved what it had."""


@contextlib.contextmanager
def caught() -> Iterator[list[int]]:
  """Collects SIGINT and SIGTERM instead of dying of them; twice kills."""
  numbers = []

  def catch(number, frame):
    del frame
    if numbers:
      raise KeyboardInterrupt
    numbers.append(number)
    report.log('Stopping after this step; once more stops at once.')

  if threading.current_thread() is not threading.main_thread():
    yield numbers  # Python delivers signals to the main thread alone.
    return
  both = signal.SIGINT, signal.SIGTERM
  before = [signal.signal(number, catch) for number in both]
  try:
    yield numbers
  finally:
    for number, handler in zip(both, before):
      signal.signal(number, handler)
