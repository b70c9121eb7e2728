"""What callers pass that is no array: keys, functions, numbers."""

import numbers
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

HIGHEST = 2**31 - 1  # Steps, sweeps and counts are int32.


def check_key(key: jax.Array) -> None:
  """Raises a `TypeError` unless this is one key.

  Example:
    >>> check_key(jax.random.key(0))
  """
  found = getattr(key, 'dtype', None)
  if isinstance(key, jax.Array | np.ndarray):
    typed = jnp.issubdtype(found, jax.dtypes.prng_key) and key.ndim == 0
    if typed or (found == np.uint32 and key.ndim == 1):
      return
    what = f'an array {found}{list(key.shape)}'
  else:
    what = repr(key)
  raise TypeError(
    f'`key` must be one key, such as `jax.random.key(0)`; got {what:.200}.'
  )


def check_function(name: str, value: Any, example: str) -> None:
  """Raises a `TypeError` unless the value can be called.

  Example:
    >>> check_function('score', abs, 'scores.magnitude')
  """
  if not callable(value):
    raise TypeError(
      f'`{name}` must be a function, such as {example}; got {value!r:.200}.'
    )


def check_number(name: str, value: Any) -> None:
  """Raises a `TypeError` unless the value is a number, traced or not.

  Example:
    >>> check_number('decay', 0.1)
  """
  if isinstance(value, jax.Array) and value.ndim == 0:
    return
  if not isinstance(value, numbers.Real):
    raise TypeError(f'`{name}` must be a number; got {value!r:.200}.')


def check_list(name: str, values: Any) -> None:
  """Raises a `TypeError` unless the values can be gone through.

  Example:
    >>> check_list('fractions', [0.3])
  """
  if isinstance(values, str) or not isinstance(values, Iterable):
    raise TypeError(f'`{name}` must be a list; got {values!r:.200}.')


def check_names(given: Iterable[str], known: Iterable[str]) -> None:
  """Raises a `TypeError` for an option that does not exist.

  Example:
    >>> check_names(['tol'], ['solver', 'tol'])
  """
  if unknown := sorted(set(given) - set(known)):
    raise TypeError(
      f'`{unknown[0]}` is no option here; there are {", ".join(known)}.'
    )
