"""What is split over which devices."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from ong_jax.selection import is_kernel


def make_mesh(
  model_parallel: int,
  batch_size: int,
  devices: Sequence[jax.Device] | None = None,
) -> Mesh:
  """Arranges devices: batches are split over 'data', kernels over 'model'.

  Args:
    model_parallel: devices along 'model'.
    batch_size: images in a step.
    devices: all of them, if not given.

  Raises:
    ValueError: the devices or the batch cannot be divided so.

  Example:
    >>> make_mesh(model_parallel=1, batch_size=128).axis_names
    ('data', 'model')
  """
  num_devices = len(devices or jax.devices())
  if num_devices % model_parallel:
    raise ValueError(
      f'`model_parallel`={model_parallel} must divide the number of devices, '
      f'{num_devices}.'
    )
  num_data = num_devices // model_parallel
  if batch_size % num_data:
    raise ValueError(
      f'`batch_size`={batch_size} must be a multiple of {num_data}, the '
      'devices that share a batch.'
    )
  return jax.make_mesh(
    (num_data, model_parallel),
    ('data', 'model'),
    # Explicit axes, the default, would want every operation annotated.
    axis_types=(AxisType.Auto, AxisType.Auto),
    devices=devices,
  )


def shardings(mesh: Mesh, tree: Any) -> Any:
  """Splits kernels over 'model' by their last axis; the rest is replicated.

  The rule reads the end of a path and the shape, and nothing else. Masks and
  moments have both from their params, so they are split just like them, and no
  step of training puts a kernel together on one device.

  Args:
    mesh: of `make_mesh`.
    tree: arrays, or anything with shapes: params, a whole train state.

  Returns:
    Tree of shardings.

  Example:
    >>> mesh = make_mesh(model_parallel=1, batch_size=128)
    >>> tuple(shardings(mesh, {'kernel': jnp.ones((2, 4))})['kernel'].spec)
    (None, 'model')
  """
  width = mesh.shape['model']

  def shard(path, leaf):
    if is_kernel(path, leaf) and leaf.shape[-1] % width == 0:
      return NamedSharding(mesh, P(*[None] * (leaf.ndim - 1), 'model'))
    return NamedSharding(mesh, P())

  return jax.tree_util.tree_map_with_path(shard, tree)


def replicate(mesh: Mesh, tree: Any) -> Any:
  """Puts a whole copy on every device.

  Example:
    >>> mesh = make_mesh(model_parallel=1, batch_size=128)
    >>> replicate(mesh, jnp.ones(2)).sharding.is_fully_replicated
    True
  """
  return place(tree, NamedSharding(mesh, P()))


def place(tree: Any, splits: Any) -> Any:
  """Puts arrays that every process has whole on the devices of all.

  Args:
    tree: arrays, the same on all processes.
    splits: tree of shardings like it, or one for all.

  Example:
    >>> mesh = make_mesh(model_parallel=1, batch_size=128)
    >>> params = {'kernel': jnp.ones((2, 4))}
    >>> place(params, shardings(mesh, params))['kernel'].is_fully_addressable
    True
  """
  if jax.process_count() == 1:
    return jax.device_put(tree, splits)

  def put(x, split):
    x = np.array(x)
    return jax.make_array_from_callback(x.shape, split, lambda i: x[i])

  if isinstance(splits, NamedSharding):
    splits = jax.tree.map(lambda _: splits, tree)
  return jax.tree.map(put, tree, splits)


def whole(mesh: Mesh, tree: Any) -> Any:
  """Gathers arrays on one device, of each process its first.

  So what is computed of them rounds the same however many devices there are.

  Args:
    mesh: of `make_mesh`.
    tree: arrays, wherever they are.

  Example:
    >>> mesh = make_mesh(model_parallel=1, batch_size=128)
    >>> len(whole(mesh, replicate(mesh, jnp.ones(2))).devices())
    1
  """
  if jax.process_count() > 1:
    leaves, treedef = jax.tree.flatten(tree)
    apart = [
      i
      for i, x in enumerate(leaves)
      if isinstance(x, jax.Array) and not x.is_fully_addressable
    ]
    gather = jax.jit(lambda x: x, out_shardings=NamedSharding(mesh, P()))
    for i, x in zip(apart, gather([leaves[i] for i in apart])):
      leaves[i] = x.addressable_data(0)
    tree = treedef.unflatten(leaves)
  return jax.device_put(tree, jax.local_devices()[0])


def split_batch(mesh: Mesh, batch: Any) -> Any:
  """Splits the first axis over 'data', inside a jitted function.

  Example:
    >>> mesh = make_mesh(model_parallel=1, batch_size=128)
    >>> split_batch(mesh, jnp.ones((128, 1))).shape
    (128, 1)
  """
  return jax.lax.with_sharding_constraint(batch, NamedSharding(mesh, P('data')))
