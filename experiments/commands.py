"""A run as the command that repeats it."""

import dataclasses
import shlex
from collections.abc import Mapping
from typing import Any

from experiments import options, subsets
from experiments.config import Config
from experiments.methods import METHODS
from experiments.plan import Run

_FOUND = ('image_mean', 'image_std')  # In the data or `init_from`; no flags.


def of_result(result: Mapping[str, Any]) -> Config:
  """Returns the config that is in a result, less what a run adds to it.

  Example:
    >>> of_result({'sparsity_asked': 0.9, 'sparsity': 0.8997}).sparsity
    0.9
  """
  names = {field.name for field in dataclasses.fields(Config)}
  fields = {name: result[name] for name in names & result.keys()}
  # What was reached has the name of what was asked for. Older results have
  # nothing else.
  fields['sparsity'] = result.get('sparsity_asked', result.get('sparsity'))
  return essential(Config(**fields))


def essential(config: Config) -> Config:
  """Drops what would be found anew: the defaults of options, and the like.

  Example:
    >>> essential(Config(method='imp', options={'phases': 3})).options
    {}
  """
  recipe = METHODS[config.method].recipe
  defaults = options.complete(
    recipe, {}, Run(config, subsets.num_train(config) // config.batch_size)
  )
  given = {k: v for k, v in config.options.items() if v != defaults.get(k)}
  found = dict.fromkeys(_FOUND)
  if config.init_from is None and config.original_epochs == config.dense_epochs:
    found['original_epochs'] = None
  return dataclasses.replace(config, options=given, **found)


def flags(config: Config) -> list[str]:
  """Returns the flags of `experiments.cifar` that make a config.

  Example:
    >>> flags(Config(seed=3, options={'rank': 2}))
    ['--method=ong', '--sparsity=0.95', '--option=rank=2', '--seed=3']
  """
  usual, found = Config(), []
  for field in dataclasses.fields(Config):
    value = getattr(config, field.name)
    if field.name == 'options':
      found += [f'--option={name}={_text(x)}' for name, x in value.items()]
    elif field.name in ('method', 'sparsity') or value != getattr(
      usual, field.name
    ):
      found.append(f'--{field.name}={_text(value)}')
  return found


def command(config: Config) -> str:
  """Returns what to type.

  Example:
    >>> command(Config())
    'python -m experiments.cifar --method=ong --sparsity=0.95'
  """
  return shlex.join(['python', '-m', 'experiments.cifar', *flags(config)])


def _text(value: Any) -> str:
  if isinstance(value, bool):
    return str(value).lower()
  if isinstance(value, float) and value.is_integer():
    value = int(value)  # So that 2 and 2.0 are one command.
  return str(value)
