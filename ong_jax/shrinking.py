"""An optimizer's state goes on when pruned channels are taken out."""

from typing import Any

import jax
import numpy as np
import optax

from ong_jax import channels, states
from ong_jax.selection import name_of
from ong_jax.types import Params


def shrink_state(
  opt_state: optax.OptState,
  params: Params,
  names: Any,
  kept: dict[str, jax.Array],
) -> optax.OptState:
  """Takes the pruned channels out of all that mirrors the params, on the host.

  Moments, copies of weights and the mask of a sparse transformation become
  those of the smaller params, which `channels.shrink` makes; training goes on
  with the same transformation as if nothing had happened. A leaf of the state
  mirrors the one of the params whose path ends its own path.

  Args:
    opt_state: state of any optax chain.
    params: before they were shrunk; only paths and shapes are read.
    names: tree of `PartitionSpec` of their structure; see `channels`.
    kept: bool [channels] for each group.

  Returns:
    A state like `opt_state`, with smaller NumPy arrays where it mirrors what
    has become smaller.

  Raises:
    ValueError: a leaf of the state belongs to params that become smaller, but
      is not of their shape, as Adafactor's sums over rows; or names, shapes and
      `kept` do not fit together (`channels.shrink`).

  Example:
    >>> params = {'kernel': jax.numpy.ones((1, 2))}
    >>> names = {'kernel': jax.sharding.PartitionSpec(None, 'out')}
    >>> kept = {'out': np.array([True, False])}
    >>> state = optax.trace(0.9).init(params)
    >>> shrink_state(state, params, names, kept).trace
    {'kernel': array([[0.]], dtype=float32)}
  """
  channels.check_kept(kept, channels.sizes(names, params))
  kept = jax.device_get(kept)
  specs = jax.tree.structure(params).flatten_up_to(names)
  leaves = {
    path: (np.shape(leaf), spec)
    for (path, leaf), spec in zip(
      jax.tree_util.tree_leaves_with_path(params), specs
    )
  }

  def take(path, x):
    found = states.mirrored(path, leaves)
    if found is None:
      return x
    shape, spec = found
    groups = {group for group in spec if group is not None}
    if all(kept[group].all() for group in groups):
      return x
    if np.shape(x) != shape:
      if np.size(x) <= 1:  # A number for the whole leaf, or a placeholder.
        return x
      raise ValueError(
        f"Leaf '{name_of(path)}' of `opt_state` has shape {np.shape(x)}, but "
        f'its parameter has shape {shape}, so that no channels can be taken '
        'out. Begin anew with `init` of the smaller params.'
      )
    return channels.take(jax.device_get(x), spec, kept)

  return jax.tree_util.tree_map_with_path(take, opt_state)
