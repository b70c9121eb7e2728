"""A plan file as a list of runs.

A plan is TOML. What stands at its top holds for all runs, and a `[[row]]` adds
to it or overrides it; the names are those of `config.Config`. A list is gone
through, and several lists in all their combinations:

    model = 'resnet8'
    dataset = 'cifar10_mini'
    epochs = 5
    sparsity = [0.9, 0.95]
    seed = [0, 1, 2]

    [[row]]
    method = ['random', 'magnitude']

    [[row]]
    method = 'ong'
    options = {rank = [1, 7]}

    [[row]]
    method = 'dense'
    sparsity = 0
"""

import dataclasses
import itertools
import json
import pathlib
import tomllib
import zlib
from collections.abc import Iterator
from typing import Any

from experiments import commands, run
from experiments.config import Config, check_choice


def read(path: str) -> list[Config]:
  """Reads a plan.

  Args:
    path: of a TOML file.

  Returns:
    The runs, those of the first seed before those of the second, so that a
    study that is cut short has compared all rows. Else in the order of the
    file.

  Raises:
    ValueError: the file cannot be read, a row has what a run would refuse, or
      two runs are the same; the row is named.
  """
  try:
    plan = tomllib.loads(pathlib.Path(path).read_text())
  except (OSError, UnicodeError, tomllib.TOMLDecodeError) as error:
    raise ValueError(f"Plan '{path}' cannot be read: {error}.") from error
  rows = plan.pop('row', [{}])
  if not isinstance(rows, list):
    raise ValueError(f"Plan '{path}': write [[row]], in double brackets.")
  configs, options = [], {}  # As they were read, of a row.
  for i, row in enumerate(rows, 1):
    try:
      for fields in _combinations(_merged(plan, row)):
        config = _config(fields)
        unseeded = repr(dataclasses.replace(config, seed=0))
        if unseeded not in options:  # Checking takes a moment.
          options[unseeded] = run.checked(config).options
        configs.append(dataclasses.replace(config, options=options[unseeded]))
    except (TypeError, ValueError) as error:
      raise ValueError(f"Plan '{path}', row {i}: {error}") from error
  names = [name(config) for config in configs]
  for config, one in zip(configs, names):
    if names.count(one) > 1:
      raise ValueError(
        f"Plan '{path}' has a run twice: {commands.command(config)}."
      )
  seeds = list(dict.fromkeys(config.seed for config in configs))
  return sorted(configs, key=lambda config: seeds.index(config.seed))


def name(config: Config) -> str:
  """Names the directory of a run: the same in every plan that has it.

  Example:
    >>> name(Config(method='snip', sparsity=0.9))
    'snip-0.9-seed0-b23a1921'
  """
  flags = commands.flags(commands.essential(config))
  code = zlib.crc32(json.dumps(flags).encode())
  return f'{config.method}-{config.sparsity:g}-seed{config.seed}-{code:08x}'


def _merged(plan: dict, row: dict) -> dict:
  both = plan.get('options', {}) | row.get('options', {})
  return plan | row | ({'options': both} if both else {})


def _combinations(fields: dict[str, Any]) -> Iterator[dict[str, Any]]:
  """Goes through every list, the last one fastest."""
  if 'options' in fields:
    fields = fields | {'options': list(_combinations(fields['options']))}
  lists = [v if isinstance(v, list) else [v] for v in fields.values()]
  for values in itertools.product(*lists):
    yield dict(zip(fields, values))


def _config(fields: dict[str, Any]) -> Config:
  known = [field.name for field in dataclasses.fields(Config)]
  for field in fields:
    check_choice('key', field, known)
  return Config(**fields)
