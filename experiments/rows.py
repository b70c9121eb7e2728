"""Runs that differ only in their seed, as a row of a table."""

import dataclasses
import json
import math
import pathlib
import statistics
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from experiments import commands
from experiments.config import Config

Budget = tuple[tuple[str, Any], ...]  # Names and values.


class Run(NamedTuple):
  """What one run has left."""

  config: Config
  result: Mapping[str, Any]
  lines: list[dict[str, Any]]  # Of `metrics.jsonl`, if it is there.


class Row(NamedTuple):
  """Runs of all seeds of a config."""

  config: Config  # Of the first of them.
  runs: tuple[Run, ...]

  def values(self, name: str) -> list[float]:
    """Of an entry of the results, where they have it."""
    found = (run.result.get(name) for run in self.runs)
    return [value for value in found if value is not None]

  def mean(self, name: str) -> float | None:
    """Over the seeds."""
    values = self.values(name)
    return statistics.fmean(values) if values else None

  def deviation(self, name: str) -> float | None:
    """The standard deviation of a seed, from at least two."""
    values = self.values(name)
    return statistics.stdev(values) if len(values) > 1 else None

  @property
  def sparsity(self) -> float:
    """That was reached: 0 for a dense network, whatever was asked."""
    return self.mean('sparsity')


class Section(NamedTuple):
  """Rows that compare at equal budget."""

  budget: Budget
  rows: tuple[Row, ...]  # By sparsity, the best first.
  common: dict[str, Any]  # What else they have in common, and is not usual.

  def label(self, row: Row) -> str:
    """Names a row by its method and by what sets it apart here.

    What a recipe was given as an option is in it; the sparsity is not.
    """
    given = [f'{k}={v}' for k, v in row.config.options.items()]
    given += [
      f'{name}={getattr(row.config, name)}'
      for name in _differing(row.config, Config())
      if name not in self.common and name not in _NOT_IN_LABELS
    ]
    text = f' ({", ".join(given)})' if given else ''
    return row.config.method + text


_NOT_IN_LABELS = (
  *('method', 'options', 'sparsity', 'seed', 'dataset', 'model'),
  *('batch_size', 'epochs', 'init_from', 'evaluate_every'),
  *('train_images', 'validation_images'),
)


def read(paths: Iterable[str]) -> tuple[list[Run], list[str]]:
  """Reads all results at or under some paths.

  Args:
    paths: directories, or `result.json` files.

  Returns:
    The runs, by path, and a line for each that could not be taken.

  Raises:
    ValueError: a path is not there, or there is no result under any of them.

  Example:
    >>> read(['nowhere'])
    Traceback (most recent call last):
      ...
    ValueError: 'nowhere' is not there. Name directories of runs.
  """
  runs, problems, seen = [], [], set()
  for path in map(pathlib.Path, paths):
    if not path.exists():
      raise ValueError(f"'{path}' is not there. Name directories of runs.")
    for directory in _directories(path):
      file = directory / 'result.json' if path.is_dir() else path
      if not file.exists():
        problems.append(f"'{directory}' is not finished.")
        continue
      try:
        run = _read_run(file)
      except (KeyError, OSError, TypeError, ValueError) as error:
        problems.append(f"'{file}' is damaged ({error!r:.200}).")
        continue
      command = commands.command(_identity(run.config))
      if command in seen:
        problems.append(f"'{file}' repeats a run, which counts once.")
        continue
      seen.add(command)
      runs.append(run)
  if not runs:
    raise ValueError(
      f'There is no finished run in {", ".join(map(str, paths))}.'
      + ''.join(f' {problem}' for problem in problems)
    )
  return runs, problems


def _directories(path: pathlib.Path) -> list[pathlib.Path]:
  if path.is_file():
    return [path.parent]
  found = {
    file.parent
    for name in ('result.json', 'config.json')
    for file in path.rglob(name)
  }
  return sorted(found)


def _read_run(file: pathlib.Path) -> Run:
  result = json.loads(file.read_text())
  for name in ('test_accuracy', 'sparsity', 'kept'):
    if not math.isfinite(result[name]):
      raise ValueError(f'`{name}` is {result[name]}')
  lines, metrics = [], file.with_name('metrics.jsonl')
  if metrics.exists():
    for text in metrics.read_text(errors='replace').splitlines():
      try:
        lines.append(json.loads(text))
      except ValueError:
        continue  # The torn last line of a process that was killed.
  return Run(commands.of_result(result), result, lines)


def sections(runs: Iterable[Run]) -> list[Section]:
  """Gathers seeds into rows, and rows into what compares at equal budget.

  That is the same network, data and batches, as many epochs in all, and the
  same weights to begin with.
  """
  rows: dict[str, list[Run]] = {}
  for run in runs:
    unseeded = _identity(dataclasses.replace(run.config, seed=0))
    rows.setdefault(' '.join(commands.flags(unseeded)), []).append(run)
  budgets: dict[Budget, list[Row]] = {}
  for same in rows.values():
    same = sorted(same, key=lambda run: run.config.seed)
    row = Row(same[0].config, tuple(same))
    budgets.setdefault(budget(row.config), []).append(row)
  return [
    Section(
      key, tuple(sorted(found, key=_place)), _common([r.config for r in found])
    )
    for key, found in sorted(budgets.items(), key=str)
  ]


def _identity(config: Config) -> Config:
  """Drops what changes no number of a result."""
  return dataclasses.replace(config, evaluate_every=Config.evaluate_every)


def budget(config: Config) -> Budget:
  """What rows must have in common to compare.

  Example:
    >>> dict(budget(Config(epochs=3, dense_epochs=1)))['epochs']
    4
  """
  return (
    ('model', config.model),
    ('dataset', config.dataset),
    ('train_images', config.train_images),
    ('validation_images', config.validation_images),
    ('epochs', config.epochs + config.dense_epochs),
    ('batch_size', config.batch_size),
    ('init_from', config.init_from),
  )


def _place(row: Row) -> tuple[float, float]:
  asked = 0.0 if row.config.method == 'dense' else row.config.sparsity
  return asked, -row.mean('test_accuracy')


def _differing(config: Config, other: Config) -> list[str]:
  return [
    field.name
    for field in dataclasses.fields(Config)
    if getattr(config, field.name) != getattr(other, field.name)
  ]


def _common(configs: list[Config]) -> dict[str, Any]:
  """What is not usual, and the same in all."""
  first = configs[0]
  return {
    name: getattr(first, name)
    for name in _differing(first, Config())
    if name not in _NOT_IN_LABELS
    and all(getattr(c, name) == getattr(first, name) for c in configs)
  }
