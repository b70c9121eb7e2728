"""Channels that live and die together, over all leaves that they touch.

A group is a set of channels with a name. A tree of names has the structure of
the params, or of what else goes along, as BatchNorm's statistics. Each leaf is
a `jax.sharding.PartitionSpec` with an entry per axis: the name of the group
that the axis runs over, or None. An entry of a leaf is kept if and only if all
its channels are: the columns of a kernel, the scale and bias behind it and the
inputs of the next kernel follow from this one rule.

What is kept is a dict from the name of a group to bool [channels].
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from ong_jax.selection import name_of
from ong_jax.types import Mask, Params


def sizes(names: Any, tree: Params) -> dict[str, int]:
  """Returns the number of channels of each group.

  Args:
    names: tree of `PartitionSpec`.
    tree: arrays with its structure; only shapes are read.

  Raises:
    ValueError: a leaf has not as many axes as names, or a group has not the
      same number of channels everywhere; the leaf is named.

  Example:
    >>> P = jax.sharding.PartitionSpec
    >>> names = {'kernel': P('in', 'out'), 'bias': P('out')}
    >>> sizes(names, {'kernel': jnp.ones((3, 4)), 'bias': jnp.ones(4)})
    {'out': 4, 'in': 3}
  """
  found = {}
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  specs = jax.tree.structure(tree).flatten_up_to(names)
  for (path, leaf), spec in zip(leaves, specs):
    if spec is None or len(spec) != np.ndim(leaf):
      raise ValueError(
        f"Leaf '{name_of(path)}' of shape {np.shape(leaf)} must have as many "
        f'names as axes, None for an axis without a group; got {spec}.'
      )
    for size, group in zip(np.shape(leaf), spec):
      if group is None:
        continue
      if found.setdefault(group, size) != size:
        raise ValueError(
          f"Leaf '{name_of(path)}' has {size} channels of group '{group}', "
          f'but a leaf before it has {found[group]}.'
        )
  return found


def expand(names: Any, kept: dict[str, jax.Array], params: Params) -> Mask:
  """Makes the mask of all that belongs to channels that are kept.

  Args:
    names: tree of `PartitionSpec`.
    kept: bool [channels] for each group; may be traced.
    params: arrays with the structure of `names`; only shapes are read.

  Returns:
    Tree of bool arrays like `params`, `None` for leaves without a group.

  Raises:
    ValueError: names and shapes do not fit together (`sizes`), or `kept` is
      not of these groups and lengths.

  Example:
    >>> names = {'kernel': jax.sharding.PartitionSpec(None, 'out')}
    >>> kept = {'out': jnp.array([True, False])}
    >>> expand(names, kept, {'kernel': jnp.ones((1, 2))})
    {'kernel': Array([[ True, False]], dtype=bool)}
  """
  check_kept(kept, sizes(names, params))

  def mask(leaf, spec):
    if not any(spec):
      return None
    entries = jnp.ones(leaf.shape, bool)
    for axis, group in enumerate(spec):
      if group is not None:
        shape = [-1 if i == axis else 1 for i in range(leaf.ndim)]
        entries &= kept[group].reshape(shape)
    return entries

  return jax.tree.map(mask, params, names)


def collapse(names: Any, mask: Mask) -> dict[str, jax.Array]:
  """Finds the channels of which a mask keeps anything: undoes `expand`.

  Args:
    names: tree of `PartitionSpec`.
    mask: tree of bool arrays, or `None`, with its structure; may be traced.

  Returns:
    bool [channels] for each group: the `any` over all leaves and other axes.

  Raises:
    ValueError: names and shapes do not fit together (`sizes`).

  Example:
    >>> names = {'kernel': jax.sharding.PartitionSpec(None, 'out')}
    >>> collapse(names, {'kernel': jnp.array([[True, False], [False, False]])})
    {'out': Array([ True, False], dtype=bool)}
  """
  specs = jax.tree.map(lambda spec, m: None if m is None else spec, names, mask)
  kept = {
    group: jnp.zeros(size, bool) for group, size in sizes(specs, mask).items()
  }
  for spec, m in zip(jax.tree.leaves(specs), jax.tree.leaves(mask)):
    for axis, group in enumerate(spec):
      if group is not None:
        kept[group] |= m.any(tuple(i for i in range(m.ndim) if i != axis))
  return kept


def widths(kept: dict[str, jax.Array]) -> dict[str, int]:
  """Counts the channels of each group that are kept, on the host.

  Example:
    >>> widths({'out': jnp.array([True, False, True])})
    {'out': 2}
  """
  return {group: int(np.count_nonzero(k)) for group, k in kept.items()}


def shrink(tree: Params, names: Any, kept: dict[str, jax.Array]) -> Params:
  """Takes the pruned channels out of all arrays, on the host.

  A network of these `widths` computes with them what the masked one does. Of a
  group that has lost all channels, arrays of size 0 remain.

  Args:
    tree: params, statistics, or both: arrays of any type.
    names: tree of `PartitionSpec` of its structure.
    kept: bool [channels] for each group.

  Returns:
    Tree of smaller NumPy arrays.

  Raises:
    ValueError: names and shapes do not fit together (`sizes`), or `kept` is
      not of these groups and lengths.

  Example:
    >>> names = {'kernel': jax.sharding.PartitionSpec(None, 'out')}
    >>> kept = {'out': jnp.array([True, False])}
    >>> shrink({'kernel': jnp.ones((1, 2))}, names, kept)
    {'kernel': array([[1.]], dtype=float32)}
  """
  check_kept(kept, sizes(names, tree))
  kept = jax.device_get(kept)
  return jax.tree.map(
    lambda leaf, spec: take(leaf, spec, kept), jax.device_get(tree), names
  )


def take(
  leaf: np.ndarray, spec: PartitionSpec, kept: dict[str, np.ndarray]
) -> np.ndarray:
  """Takes the pruned channels out of one array, on the host.

  Example:
    >>> kept = {'out': np.array([True, False])}
    >>> take(np.ones((3, 2)), PartitionSpec(None, 'out'), kept).shape
    (3, 1)
  """
  for axis, group in enumerate(spec):
    if group is not None:
      leaf = np.compress(kept[group], leaf, axis)
  return leaf


def check_kept(kept: dict[str, jax.Array], groups: dict[str, int]) -> None:
  """Raises a `ValueError` unless there is a bool for each channel of a group.

  Example:
    >>> check_kept({'out': np.array([True, False])}, {'out': 2})
  """
  lengths = {group: len(k) for group, k in kept.items()}
  if lengths != groups:
    raise ValueError(
      '`kept` must have a bool per channel of each group. '
      f'The groups have {groups} channels, `kept` has {lengths}.'
    )
