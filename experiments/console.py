"""What a run tells the user: lines, a progress bar, a summary."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import rich.console
import rich.progress

from experiments.config import Config
from ong_jax.summary import Layer, Summary

_terminal = rich.console.Console(highlight=False, markup=False, soft_wrap=True)


def log(line: str) -> None:
  """Prints a line, above the progress bar if there is one.

  Of many processes, the first one speaks for all.

  Example:
    >>> log('3 weights kept')
    3 weights kept
  """
  if jax.process_index() == 0:
    # A disk that is full, or a pipe that is closed, must not end the run.
    with contextlib.suppress(OSError):
      _terminal.print(line)


@contextlib.contextmanager
def progress(total: int, done: int) -> Iterator[Callable[[int, str], None]]:
  """Shows a bar on a terminal, and nothing elsewhere.

  Args:
    total: steps of the run.
    done: steps that an earlier process has made.

  Yields:
    A function `(step, note)` that moves the bar.

  Example:
    >>> with progress(total=2, done=0) as update:
    ...   update(1, 'loss 0.3')
  """
  columns = (
    rich.progress.BarColumn(),
    rich.progress.MofNCompleteColumn(),
    rich.progress.TextColumn('steps, {task.fields[note]}, left'),
    rich.progress.TimeRemainingColumn(),
  )
  with bar(*columns) as shown:
    task = shown.add_task('', total=total, completed=done, note='starting')
    yield lambda step, note: shown.update(task, completed=step, note=note)


def bar(*columns: rich.progress.ProgressColumn) -> rich.progress.Progress:
  """Makes a bar, which is shown on a terminal only, and gone at its end.

  Example:
    >>> with bar(rich.progress.BarColumn()) as shown:
    ...   task = shown.add_task('', total=2)
  """
  return rich.progress.Progress(
    *columns,
    console=_terminal,
    transient=True,
    disable=not _terminal.is_terminal or jax.process_index() > 0,
  )


def announce(config: Config, macs: int, num_images: int) -> None:
  """Says how long a run may take, where that is worth a line."""
  if line := estimate(config, macs, num_images):
    log(line)


def estimate(config: Config, macs: int, num_images: int) -> str | None:
  """Says how long a run may take where there is no accelerator.

  A training image costs three forward passes of two operations per
  multiply-accumulate. How many a second this machine makes is measured with a
  matrix product, of whose rate the networks here were seen to reach a third to
  two thirds.

  Args:
    config: of the run.
    macs: multiply-accumulates of an image.
    num_images: in an epoch.

  Returns:
    A line; None on an accelerator, or where nothing is trained.
  """
  epochs = config.epochs + config.dense_epochs
  if jax.default_backend() != 'cpu' or not epochs:
    return None
  size = 1024
  a = np.ones((size, size), np.float32)
  times = []
  for _ in range(4):
    start = time.perf_counter()
    a @ a
    times.append(time.perf_counter() - start)
  rate = 0.5 * 2 * size**3 / min(times)
  seconds = 6 * macs * num_images * epochs / rate + 30
  line = (
    f'No accelerator: {epochs:g} epoch{"" if epochs == 1 else "s"} of '
    f'{config.model} on {num_images:,} '
    f'images will take about {duration(seconds)} here.'
  )
  if seconds > 300:
    line += ' A short run: --model=resnet8 --dataset=cifar10_mini --epochs=5.'
  return line


def duration(seconds: float) -> str:
  """Says a time as a person would.

  Example:
    >>> duration(7000)
    '2 hours'
  """
  for size, unit in ((86400, 'days'), (3600, 'hours'), (60, 'minutes')):
    if seconds >= 1.5 * size:
      return f'{seconds / size:.0f} {unit}'
  return f'{seconds:.0f} seconds'


def describe(result: dict[str, Any]) -> str:
  """Draws what a run has come to: its layers, then its numbers.

  Args:
    result: of `run.run`.
  """
  # Results of before these were counted have none.
  result = {'macs': None, 'dense_macs': None} | result
  summary = Summary(
    layers=tuple(
      Layer(
        layer['path'],
        tuple(layer['shape']),
        layer['kept'],
        1 - layer['kept'] / math.prod(layer['shape']),
        layer['empty_filters'],
        layer.get('macs'),
        layer.get('dense_macs'),
      )
      for layer in result['layers']
    ),
    **{name: result[name] for name in Summary._fields if name != 'layers'},
  )
  rate = result['steps_per_second']
  lines = [
    str(summary),
    '',
    f'{result["method"]} on {result["dataset"]}, {result["model"]}, seed '
    f'{result["seed"]}:',
    f'  test accuracy  {result["test_accuracy"]:.2%}, at the last step',
    f'  sparsity       {result["sparsity"]:.4%} of the prunable weights, '
    f'{result["sparsity_all"]:.4%} of all parameters',
    f'  time           {duration(result["seconds"])}'
    + (f', {rate:.2f} steps/s' if rate else '')
    + f', {result["device"]}',
  ]
  if result['speedup']:
    lines.append(
      f'  multiplications {result["speedup"]:.2f} times fewer, for hardware '
      'that skips zeros'
    )
  if result['not_finite']:
    lines.append(
      f'  TRAINING DIVERGED: not finite are {result["not_finite"][:4]}. Lower '
      '--learning_rate.'
    )
  return '\n'.join(lines)
