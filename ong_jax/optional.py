"""Packages that only some functions need, and `import ong_jax` does not."""

import importlib
from types import ModuleType


def load(name: str, extra: str) -> ModuleType:
  """Imports a module of an optional package, or says how to get it.

  Args:
    name: of the module.
    extra: of ong_jax that installs its package.

  Raises:
    ImportError: it is not there.

  Example:
    >>> load('math', 'plot').sqrt(4)
    2.0
  """
  try:
    return importlib.import_module(name)
  except ImportError as error:
    package = name.partition('.')[0]
    raise ImportError(
      f'This needs {package}, which cannot be imported ({error}). `pip install '
      f"'.[{extra}]'` in a checkout of ong_jax installs it."
    ) from error
