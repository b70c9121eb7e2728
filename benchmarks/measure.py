"""What all benchmarks share: interleaved times, rows of a table, the machine.

Absolute times on a shared machine mean little. So a thing and its peer are
called in turn, and what counts is the ratio of their medians.
"""

import importlib.metadata
import os
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

NOT_MEASURED = 'not measured'
_PAUSE_S = 0.1


class Times(NamedTuple):
  """Of one call, in seconds."""

  first: float  # With what is compiled.
  median: float  # Of the repeats.


class Row(NamedTuple):
  """One line of a table. All but `what` may be empty."""

  what: str
  peer: str = ''  # With its time.
  ours: str = NOT_MEASURED
  ratio: str = ''
  goal: str = ''
  verdict: str = ''  # 'met', 'missed', or what there is to say.


def seconds(call: Callable[[], Any]) -> float:
  """Calls once, waits for the result, and says how long that took."""
  start = time.perf_counter()
  jax.block_until_ready(call())
  return time.perf_counter() - start


def interleaved(
  calls: dict[str, Callable[[], Any]], repeats: int = 7
) -> dict[str, Times]:
  """Times calls in turn, there and back, after each was called once.

  With a pause before each, in which threads of the one before come to rest: in
  libraries that compute with OpenMP they spin for a while.
  """
  firsts = {name: seconds(call) for name, call in calls.items()}
  times = {name: [] for name in calls}
  names = list(calls)
  for _ in range(repeats):
    for name in names:
      time.sleep(_PAUSE_S)
      times[name].append(seconds(calls[name]))
    names.reverse()  # Else each would always follow the same other.
  return {
    name: Times(firsts[name], statistics.median(times[name])) for name in calls
  }


def duration(value: float) -> str:
  """Seconds, or milliseconds below a tenth of one."""
  return f'{value * 1e3:.1f} ms' if value < 0.1 else f'{value:.2f} s'


def verdict(value: float, goal: float, section: str) -> str:
  """Whether a value is as low as its goal; if not, a section says why."""
  return 'met' if value <= goal else f'missed, [why](#{section})'


def table(rows: list[Row]) -> str:
  """Rows as a Markdown table."""
  head = ('what', 'peer', 'ong_jax', 'ratio', 'goal', '')
  lines = [head, ['---'] * len(head), *rows]
  return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def machine() -> str:
  """The device and the versions of what is compared, in a line."""
  packages = ('jax', 'flax', 'optax', 'numpy', 'scikit-learn', 'torch')
  versions = []
  for package in packages:
    try:
      versions.append(f'{package} {importlib.metadata.version(package)}')
    except importlib.metadata.PackageNotFoundError:
      versions.append(f'no {package}')
  return (
    f'{len(os.sched_getaffinity(0))} cores of {_processor()}, '
    f'{jax.devices()[0].device_kind} x {jax.device_count()}, '
    f'Python {platform.python_version()}, {", ".join(versions)}'
  )


def _processor() -> str:
  try:
    with open('/proc/cpuinfo') as file:
      lines = [line.split(':')[1] for line in file if 'model name' in line]
  except OSError:
    lines = []
  return lines[0].strip() if lines else platform.processor() or 'unknown'
