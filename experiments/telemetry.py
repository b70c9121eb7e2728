"""What weights a run has used, and what that would have cost."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ong_jax.selection import is_kernel, name_of, select
from ong_jax.types import Mask


class Telemetry(NamedTuple):
  """Part of the state of a run, so that one that resumes counts on.

  Of all kernels, whatever is prunable: segments may differ in that.
  """

  ever: Mask  # What was not 0 in the network of any step.
  last: Mask  # What was not 0 at the last line of metrics.
  # [kernels, 2] uint32: the weights that were not 0, summed over passes, as
  # 2^32 a + b. No float is exact there.
  nonzero: jax.Array
  passes: jax.Array  # [] uint32, of a batch through the network and back.


def active(params: Any) -> Mask:
  """Tells which weights are not 0.

  Example:
    >>> active({'kernel': jnp.array([[2.0, 0.0]]), 'bias': jnp.ones(2)})
    {'bias': None, 'kernel': Array([[ True, False]], dtype=bool)}
  """
  return jax.tree.map(lambda w: w != 0, select(params))


def begin(params: Any) -> Telemetry:
  """Makes that of a run that begins with this network."""
  last = active(params)
  return Telemetry(
    ever=jax.tree.map(jnp.zeros_like, last),
    last=last,
    nonzero=jnp.zeros((len(jax.tree.leaves(last)), 2), jnp.uint32),
    passes=jnp.uint32(0),
  )


def update(telemetry: Telemetry, networks: Sequence[Mask]) -> Telemetry:
  """Counts a step, elementwise and with a sum for each kernel.

  Args:
    telemetry: before it.
    networks: of `active`, one for each pass of the batch.

  Example:
    >>> network = {'kernel': jnp.array([[2.0, 0.0]])}
    >>> found = update(begin(network), [active(network)])
    >>> found.nonzero.tolist(), int(found.passes)
    ([[0, 1]], 1)
  """
  ever, nonzero = telemetry.ever, telemetry.nonzero
  for network in networks:
    ever = jax.tree.map(jnp.logical_or, ever, network)
    leaves = jax.tree.leaves(network)
    counts = jnp.stack([jnp.sum(m, dtype=jnp.uint32) for m in leaves])
    low = nonzero[:, 1] + counts
    carry = (low < counts).astype(jnp.uint32)  # It has wrapped around.
    nonzero = jnp.stack([nonzero[:, 0] + carry, low], axis=1)
  return telemetry._replace(
    ever=ever,
    nonzero=nonzero,
    passes=telemetry.passes + jnp.uint32(len(networks)),
  )


def look(
  telemetry: Telemetry, params: Any, mask: Any
) -> tuple[Telemetry, dict[str, float]]:
  """Compares a network with that of the last line of metrics.

  Args:
    telemetry: of the run.
    params: of the network as it would be deployed.
    mask: tells which leaves are prunable; shapes suffice.

  Returns:
    The telemetry that the next line compares with, split as it was; and, as
    shares of the prunable weights, `churn`, those that are 0 in one of the two
    networks and not in the other, and `ever_active`, those that were not 0 in
    any step so far, or at a line.

  References:
    Liu et al., Do we actually need dense over-parameterization? In-time
    over-parameterization in sparse training, 2021, arXiv:2102.02887.

  Example:
    >>> before = begin({'kernel': jnp.array([[2.0, 0.0, 0.0, 0.0]])})
    >>> params = {'kernel': jnp.array([[2.0, 1.0, 0.0, 0.0]])}
    >>> look(before, params, {'kernel': params['kernel'] != 0})[1]
    {'churn': 0.25, 'ever_active': 0.5}
  """
  ever, last, changed, seen = _look(telemetry.ever, telemetry.last, params)
  ever, last = jax.tree.map(
    lambda new, old: jax.device_put(new, old.sharding),
    (ever, last),
    (telemetry.ever, telemetry.last),
  )
  names = {
    name_of(path)
    for path, m in jax.tree_util.tree_leaves_with_path(mask)
    if is_kernel(path, m)
  }
  kept = [
    i
    for i, (path, _) in enumerate(jax.tree_util.tree_leaves_with_path(last))
    if name_of(path) in names
  ]
  size = sum(jax.tree.leaves(last)[i].size for i in kept)
  changed, seen = np.asarray(changed), np.asarray(seen)
  return telemetry._replace(ever=ever, last=last), {
    'churn': int(changed[kept].sum(dtype=np.int64)) / max(size, 1),
    'ever_active': int(seen[kept].sum(dtype=np.int64)) / max(size, 1),
  }


@jax.jit
def _look(ever, last, params):
  now = active(params)
  ever = jax.tree.map(jnp.logical_or, ever, now)
  changed = jax.tree.map(jnp.not_equal, last, now)
  counts = [
    jnp.stack([jnp.sum(m) for m in jax.tree.leaves(tree)])
    for tree in (changed, ever)
  ]
  return ever, now, *counts


def flops(
  telemetry: Telemetry, macs: Mapping[str, int], batch_size: int
) -> dict[str, int]:
  """Counts the operations of all training so far.

  Three passes (one forward, one to the inputs, one to the weights) of two
  operations per multiply-accumulate. What a method does beside its steps is
  left out, and so is that some need dense gradients, as RigL does at times.

  Args:
    telemetry: of the run.
    macs: of `operations.macs`.
    batch_size: images in a pass.

  Returns:
    `train_flops`: what hardware would need that skips every zero, by the
    density of each layer in each step. `train_flops_dense`: what training
    under masks executes here, where zeros are multiplied, too.

  Example:
    >>> network = {'kernel': jnp.array([[2.0, 0.0]])}
    >>> flops(update(begin(network), [active(network)]), {'kernel': 10}, 1)
    {'train_flops': 30, 'train_flops_dense': 60}
  """
  counts = np.asarray(telemetry.nonzero).astype(object)
  sparse = 0
  paths = jax.tree_util.tree_leaves_with_path(telemetry.last)
  for (path, leaf), (high, low) in zip(paths, counts):
    uses = macs.get(name_of(path), 0) // leaf.size  # Of each weight.
    sparse += uses * (int(high) * 2**32 + int(low))
  dense = sum(macs.values()) * int(telemetry.passes)
  return {
    'train_flops': 6 * batch_size * sparse,
    'train_flops_dense': 6 * batch_size * dense,
  }
