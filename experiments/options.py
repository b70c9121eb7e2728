"""A method's own options: what its recipe takes as keywords.

A default that is a function is scaled to the run.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from experiments.config import check_choice
from experiments.plan import Run


def split(pairs: Sequence[str]) -> dict[str, str]:
  """Splits what the command line was given.

  Example:
    >>> split(['interval=100'])
    {'interval': '100'}
  """
  options = {}
  for pair in pairs:
    name, equals, value = pair.partition('=')
    if not equals or not name:
      raise ValueError(f'`option` must be name=value, got {pair!r}.')
    if name in options:
      raise ValueError(f'`option` {name!r} is given twice.')
    options[name] = value
  return options


def describe(recipe: Callable) -> list[str]:
  """Lists the options of a recipe with their defaults.

  Example:
    >>> def recipe(run, *, interval: int = len, refresh: int = 16): ...
    >>> describe(recipe)
    ['interval=scaled', 'refresh=16']
  """
  return [
    f'{name}={"scaled" if callable(x.default) else x.default}'
    for name, x in _keywords(recipe).items()
  ]


def check(
  method: str, recipe: Callable, options: Mapping[str, Any]
) -> dict[str, Any]:
  """Checks options against the keywords of a recipe, and reads their values.

  Args:
    method: its name, for the error.
    recipe: takes the run, and its options as annotated keywords.
    options: values of these types, or their text.

  Raises:
    ValueError: there is no such option, or the value is not of its type.

  Example:
    >>> def recipe(run, *, interval: int = 16): ...
    >>> check('dpf', recipe, {'interval': '8'})
    {'interval': 8}
  """
  known = _keywords(recipe)
  if options and not known:
    raise ValueError(f'`{method}` has no options, got {sorted(options)}.')
  for name in options:
    check_choice('option', name, known)
  # In the order of the recipe: a run is the same, however its plan puts it.
  return {
    name: _read(f'{method}: {name}', options[name], keyword.annotation)
    for name, keyword in known.items()
    if name in options
  }


def complete(
  recipe: Callable, options: Mapping[str, Any], run: Run
) -> dict[str, Any]:
  """Adds the defaults of the options that are not given.

  Example:
    >>> def recipe(run, *, interval: int = lambda run: run.steps_per_epoch): ...
    >>> from experiments.config import Config
    >>> complete(recipe, {}, Run(Config(), steps_per_epoch=390))
    {'interval': 390}
  """
  defaults = {name: x.default for name, x in _keywords(recipe).items()}
  return {
    name: value(run) if callable(value) else value
    for name, value in {**defaults, **options}.items()
  }


def _keywords(recipe: Callable) -> dict[str, inspect.Parameter]:
  return {
    name: x
    for name, x in inspect.signature(recipe).parameters.items()
    if x.kind is inspect.Parameter.KEYWORD_ONLY
  }


def _read(name: str, value: Any, kind: type) -> Any:
  """Converts text to what the annotation says."""
  try:
    if kind is bool and isinstance(value, str):
      return {'true': True, 'false': False}[value.lower()]
    if isinstance(value, str):
      return kind(value)
  except (KeyError, ValueError):
    pass
  else:
    if kind is float and type(value) is int:
      return float(value)
    if type(value) is kind:
      return value
  what = {bool: 'true or false', int: 'an integer', float: 'a number'}
  raise ValueError(
    f'`option` {name} must be {what.get(kind, "a name")}, got {value!r}.'
  )
