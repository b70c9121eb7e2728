"""How sparsity rises in training: tables of counts, made on the host.

A table has a row for every sparsity that training passes through. Its counts
are Python's integers before they are arrays, and its last row is the exact
target; the step only looks a row up.
"""

import math
import numbers

import jax
import jax.numpy as jnp

from ong_jax import masks
from ong_jax.checks import HIGHEST, check_number
from ong_jax.types import Allocation, Counts, Weights


def cubic(sparsity: float, num_updates: int) -> list[float]:
  """Rises fast, then ever more slowly: s - s (1 - t / n)^3 after t updates.

  Args:
    sparsity: s, after the last update; in [0, 1).
    num_updates: n, at least 1.

  Returns:
    n + 1 sparsities; the first is 0, the last exactly `sparsity`.

  References:
    Zhu and Gupta, To prune, or not to prune: exploring the efficacy of pruning
    for model compression, 2017, arXiv:1710.01878.

  Example:
    >>> cubic(0.5, num_updates=2)
    [0.0, 0.4375, 0.5]
  """
  masks.check_sparsity(sparsity)
  check_steps(num_updates=num_updates)
  shares = [1 - (1 - t / num_updates) ** 3 for t in range(num_updates)]
  return [sparsity * share for share in shares] + [sparsity]


def geometric(sparsity: float, num_updates: int) -> list[float]:
  """Removes the same share of what is left each time: 1 - (1 - s)^(t / n).

  Args:
    sparsity: s, after the last update; in [0, 1).
    num_updates: n, at least 1.

  Returns:
    n + 1 sparsities; the first is 0, the last exactly `sparsity`.

  Example:
    >>> geometric(0.75, num_updates=2)
    [0.0, 0.5, 0.75]
  """
  masks.check_sparsity(sparsity)
  check_steps(num_updates=num_updates)
  powers = [t / num_updates for t in range(num_updates)]
  return [1 - (1 - sparsity) ** power for power in powers] + [sparsity]


def exponential_decay(first: float, last: float, num: int) -> list[float]:
  """Falls by the same factor from one to the next.

  Args:
    first: in (0, 1).
    last: in (0, first].
    num: of the list.

  Example:
    >>> exponential_decay(0.25, 0.0625, num=3)
    [0.25, 0.125, 0.0625]
  """
  check_steps(num=num)
  _check_first(first)
  if not 0 < last <= first:
    raise ValueError(f'`last` must lie in (0, {first}]; got {last}.')
  powers = [t / max(num - 1, 1) for t in range(num)]
  return [first ** (1 - power) * last**power for power in powers]


def cosine_decay(first: float, num: int) -> list[float]:
  """Falls as half a cosine, to 0 after the last.

  References:
    Evci et al., Rigging the lottery: making all tickets winners, 2020,
    arXiv:1911.11134.

  Example:
    >>> [round(x, 6) for x in cosine_decay(0.3, num=4)]
    [0.3, 0.256066, 0.15, 0.043934]
  """
  check_steps(num=num)
  _check_first(first)
  return [first / 2 * (1 + math.cos(math.pi * t / num)) for t in range(num)]


def power_decay(first: float, num: int, power: float = 3.0) -> list[float]:
  """Falls as a power of what remains, to 0 after the last.

  Example:
    >>> power_decay(0.5, num=2, power=1.0)
    [0.5, 0.25]
  """
  check_steps(num=num)
  _check_first(first)
  if not 0 < power < math.inf:
    raise ValueError(f'`power` must lie in (0, inf); got {power}.')
  return [first * (1 - t / num) ** power for t in range(num)]


def _check_first(first: float) -> None:
  check_number('first', first)
  if not 0 < first < 1:
    raise ValueError(f'`first` must lie in (0, 1); got {first}.')


def tabulate(
  weights: Weights, sparsities: list[float], allocate: Allocation
) -> Counts:
  """Makes a table of the counts for each sparsity.

  Args:
    weights: tree of arrays, of which only the shapes are read.
    sparsities: one for each row.
    allocate: how each budget is split among the leaves.

  Returns:
    What `allocate` returns, with an int32 array [rows] for every int.

  Raises:
    ValueError: a sparsity leaves fewer weights than there are leaves.

  Example:
    >>> from ong_jax import allocation
    >>> weights = {'kernel': jnp.ones((2, 5))}
    >>> tabulate(weights, [0.0, 0.5], allocation.uniform)
    {'kernel': Array([10,  5], dtype=int32)}
  """
  rows = [allocate(weights, sparsity) for sparsity in sparsities]
  return jax.tree.map(lambda *counts: jnp.array(counts, jnp.int32), *rows)


def counts_at(table: Counts, row: jax.Array) -> Counts:
  """Looks up a row, or the last one where there are no more.

  Args:
    table: of `tabulate`.
    row: [] integer, at least 0; may be traced.

  Example:
    >>> int(counts_at(jnp.array([10, 5]), 7))
    5
  """
  return jax.tree.map(
    lambda counts: counts[jnp.minimum(row, len(counts) - 1)], table
  )


def check_steps(**numbers_of_steps: int) -> None:
  """Raises a `ValueError` unless each is an integer of at least 1.

  Example:
    >>> check_steps(interval=0)
    Traceback (most recent call last):
      ...
    ValueError: `interval` must be an integer of at least 1; got 0.
  """
  for name, value in numbers_of_steps.items():
    if isinstance(value, numbers.Integral) and value > HIGHEST:
      raise ValueError(f'`{name}` must be below 2**31; got {value}.')
    if not isinstance(value, numbers.Integral) or value < 1:
      raise ValueError(
        f'`{name}` must be an integer of at least 1; got {value!r}.'
      )
