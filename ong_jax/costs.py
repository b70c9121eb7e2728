"""What a network costs as its groups of channels become narrower.

Each layer has a table of its cost over the blocks that are left of its inputs
and of its outputs, in any integer unit: microseconds, weights, operations. The
cost of a network is the sum of its layers' entries and of what never changes.
Channels come and go in blocks, as hardware is no faster for a single one less.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ong_jax import channels
from ong_jax.selection import is_kernel, name_of
from ong_jax.types import Params


class LayerCost(NamedTuple):
  """A layer's cost, which never falls as the layer grows (`rising`)."""

  inputs: str | None  # The group of its input channels.
  outputs: str | None  # The group of its output channels; one can be None.
  # int [input blocks + 1, output blocks + 1], from no block left to all; an
  # axis without a group is of length 1.
  table: np.ndarray


class Costs(NamedTuple):
  """A network's cost: `rest` and an entry of each layer's table."""

  blocks: dict[str, int]  # Channels per block of each group.
  layers: list[LayerCost]
  rest: int  # Of all that no group changes; layers of no group are in here.
  # Blocks that always stay: 1, if it is not said. 0 where a network can do
  # without, as beside a shortcut.
  least: dict[str, int] = {}


def rising(table: np.ndarray) -> np.ndarray:
  """Makes a measured table monotone, by the running maximum on both axes.

  A wider layer that was measured to be faster gets the cost of the narrower
  one. That can only overstate a cost.

  Raises:
    ValueError: an entry is negative.

  Example:
    >>> rising(np.array([[0, 3, 2], [1, 1, 4]])).tolist()
    [[0, 3, 3], [1, 3, 4]]
  """
  if np.min(table) < 0:
    raise ValueError(f'A cost must not be negative, got {np.min(table)}.')
  return np.maximum.accumulate(np.maximum.accumulate(table, 0), 1)


def num_blocks(costs: Costs) -> dict[str, int]:
  """Returns the number of blocks of each group at full width.

  Raises:
    ValueError: a layer is of no group, a group's tables differ in length, or
      the groups of `layers` and of `blocks` do.

  Example:
    >>> layer = LayerCost(None, 'a', np.array([[0, 5, 9]]))
    >>> num_blocks(Costs({'a': 2}, [layer], rest=1))
    {'a': 2}
  """
  found = {}
  for layer in costs.layers:
    if layer.inputs is None and layer.outputs is None:
      raise ValueError('A layer has no group; its cost belongs to `rest`.')
    for group, length in zip(layer[:2], layer.table.shape):
      if group is None:
        continue
      if found.setdefault(group, length - 1) != length - 1:
        raise ValueError(
          f"A layer has {length - 1} blocks of group '{group}', but one before "
          f'it has {found[group]}.'
        )
  if found.keys() != costs.blocks.keys():
    raise ValueError(
      f'`blocks` must have the groups of the layers, {sorted(found)}; got '
      f'{sorted(costs.blocks)}.'
    )
  return found


def total(costs: Costs, left: dict[str, jax.Array | int]) -> jax.Array:
  """Returns what a network costs of which so many blocks are left.

  Args:
    costs: of the network; the whole one must cost less than 2**31.
    left: number of blocks of each group; ints or traced.

  Returns:
    int32 [].

  Example:
    >>> layer = LayerCost(None, 'a', np.array([[0, 5, 9]]))
    >>> total(Costs({'a': 2}, [layer], rest=1), {'a': 1})
    Array(6, dtype=int32)
  """
  result = jnp.int32(costs.rest)
  for layer in costs.layers:
    row, column = (0 if g is None else left[g] for g in layer[:2])
    result += jnp.asarray(layer.table, jnp.int32)[row, column]
  return result


def least_blocks(costs: Costs) -> dict[str, int]:
  """Returns the number of blocks of each group that always stay.

  Raises:
    ValueError: `least` names what is no group, or is out of range.

  Example:
    >>> layer = LayerCost(None, 'a', np.array([[0, 5, 9]]))
    >>> least_blocks(Costs({'a': 2}, [layer], rest=1))
    {'a': 1}
  """
  dense = num_blocks(costs)
  for group, least in costs.least.items():
    if not 0 <= least <= dense.get(group, -1):
      raise ValueError(
        f"`least` has {least} blocks of '{group}'; the network has {dense}."
      )
  return dict.fromkeys(dense, 1) | costs.least


def check_capacity(costs: Costs, capacity: int) -> None:
  """Raises a `ValueError` unless what always stays can be paid for.

  Example:
    >>> layer = LayerCost(None, 'a', np.array([[0, 5, 9]]))
    >>> check_capacity(Costs({'a': 2}, [layer], rest=1), 6)
  """
  dense = num_blocks(costs)
  least, most = (
    costs.rest
    + sum(
      int(layer.table[tuple(0 if g is None else left[g] for g in layer[:2])])
      for layer in costs.layers
    )
    for left in (least_blocks(costs), dense)
  )
  if most >= 2**31:
    raise ValueError(
      f'The whole network costs {most}; it must be less than {2**31}. Take a '
      'larger unit.'
    )
  if capacity < least:
    raise ValueError(
      f'`capacity` must be at least {least}, the cost of what always stays, '
      f'one block of each group if nothing else is said (the whole network '
      f'costs {most}); got {capacity}.'
    )


def weights_cost(names: Any, params: Params, blocks: dict[str, int]) -> Costs:
  """Costs a network by the weights of its kernels.

  Args:
    names: tree of `PartitionSpec`, as in `channels`.
    params: arrays of its structure; only shapes are read.
    blocks: channels per block of each group, which divide its channels.

  Returns:
    The costs. Biases and normalisation are not counted.

  Raises:
    ValueError: names do not fit, a block does not divide its group, or another
      axis of a kernel than the last two has a group.

  Example:
    >>> names = {'kernel': jax.sharding.PartitionSpec(None, 'out')}
    >>> weights_cost(names, {'kernel': jnp.ones((3, 4))}, {'out': 2}).layers
    [LayerCost(inputs=None, outputs='out', table=array([[ 0,  6, 12]]))]
  """
  return macs_cost(names, params, blocks, positions={})


def macs_cost(
  names: Any, params: Params, blocks: dict[str, int], positions: dict[str, int]
) -> Costs:
  """Costs a network by its multiply-accumulates for one image.

  Args:
    names, params, blocks: as for `weights_cost`.
    positions: how often each weight of a kernel is used, which is the number
      of positions of the layer's output, by the path of the kernel such as
      'conv1/kernel'. Once, if it is not there.

  Example:
    >>> names = {'kernel': jax.sharding.PartitionSpec('in', None)}
    >>> params = {'kernel': jnp.ones((2, 3))}
    >>> macs_cost(names, params, {'in': 1}, {'kernel': 7}).layers[0].table.T
    array([[ 0, 21, 42]])
  """
  check_blocks(blocks, channels.sizes(names, params))
  layers, rest = [], 0
  specs = jax.tree.structure(params).flatten_up_to(names)
  for (path, leaf), spec in zip(
    jax.tree_util.tree_leaves_with_path(params), specs
  ):
    if not is_kernel(path, leaf):
      continue
    if any(spec[:-2]):
      raise ValueError(
        f"Leaf '{name_of(path)}' has groups {spec}; only the last two axes of "
        'a kernel, inputs and outputs, can have one.'
      )
    uses = positions.get(name_of(path), 1) * int(np.prod(leaf.shape[:-2]))
    if not any(spec):
      rest += uses * leaf.shape[-2] * leaf.shape[-1]
      continue
    rows, columns = (
      np.array([size]) if g is None else np.arange(0, size + 1, blocks[g])
      for size, g in zip(leaf.shape[-2:], spec[-2:])
    )
    layers.append(LayerCost(*spec[-2:], uses * np.outer(rows, columns)))
  return Costs(dict(blocks), layers, rest)


def check_blocks(blocks: dict[str, int], sizes: dict[str, int]) -> None:
  """Raises a `ValueError` unless every group is made of whole blocks.

  Example:
    >>> check_blocks({'a': 2}, {'a': 8})
  """
  if blocks.keys() != sizes.keys():
    raise ValueError(
      f'`blocks` must have the groups {sorted(sizes)}, got {sorted(blocks)}.'
    )
  for group, size in sizes.items():
    if blocks[group] < 1 or size % blocks[group]:
      raise ValueError(
        f"`blocks` of '{group}' must divide its {size} channels, got "
        f'{blocks[group]}.'
      )
