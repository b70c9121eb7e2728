"""Packages that only those need who take a network away."""

import importlib
from types import ModuleType


def require(module: str) -> ModuleType:
  """Imports a module of a package that may not be installed.

  Args:
    module: its full name.

  Returns:
    The module.

  Raises:
    ImportError: it is not there; says what to install.

  Example:
    >>> require('scipy.sparse').__name__
    'scipy.sparse'
  """
  try:
    return importlib.import_module(module)
  except ImportError as error:
    package = module.partition('.')[0]
    raise ImportError(
      f"This needs the package '{package}', which cannot be imported "
      f"({error}). `pip install 'ong_jax[export]'` brings it; in a checkout, "
      "`pip install -e '.[export]'`."
    ) from error
