"""What lies on which devices, where an array says so."""

from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec

from ong_jax.types import Params


def whole(leaf: jax.Array) -> jax.Array:
  """Puts all of an array on each of the devices that share it.

  For what sums over a kernel: sums round differently when they are split, and
  a mask must not depend on the number of devices. Under `jax.jit`, where an
  array does not say how it is split, it is returned as it is.

  Example:
    >>> whole(jnp.ones(2)).shape
    (2,)
  """
  if isinstance(leaf, jax.core.Tracer) or not isinstance(leaf, jax.Array):
    return leaf
  if not isinstance(leaf.sharding, NamedSharding):
    return leaf
  return jax.device_put(
    leaf, NamedSharding(leaf.sharding.mesh, PartitionSpec())
  )


def split_like(params: Params, tree: Any) -> Any:
  """Splits what was made of params over devices as these are.

  For masks: after `whole` all of one is on each device, and a draw does not
  know where its weights are. Under `jax.jit`, where `out_shardings` says it, it
  is returned as it is.

  Args:
    params: tree of arrays.
    tree: its arrays, of the same shapes; `None` where there is none.

  Example:
    >>> params = {'kernel': jnp.ones(2), 'bias': jnp.ones(1)}
    >>> split_like(params, {'kernel': jnp.array([True, False]), 'bias': None})
    {'bias': None, 'kernel': Array([ True, False], dtype=bool)}
  """

  def split(param, x):
    if x is None or isinstance(x, jax.core.Tracer):
      return x
    if not isinstance(getattr(param, 'sharding', None), NamedSharding):
      return x
    return jax.device_put(x, param.sharding)

  return jax.tree.map(split, params, tree)
