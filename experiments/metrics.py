"""What is measured of a network, and of what pruning did to it.

On the host, in float64: the weights as they are, whatever a mask says of them.
"""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np

import ong_jax
from experiments import calibration
from ong_jax.selection import is_kernel, name_of, select


class Drop(NamedTuple):
  """What pruning took from the prunable weights."""

  nonzero_before: int
  nonzero_after: int
  norm_before: float
  norm_after: float
  changed: bool = True  # Whether any weight is another one.

  @property
  def fraction_pruned(self) -> float:
    """Of the weights that were left."""
    pruned = self.nonzero_before - self.nonzero_after
    return max(pruned, 0) / max(self.nonzero_before, 1)

  @property
  def norm_drop(self) -> float:
    """The norm of what was pruned: sqrt(|before^2 - after^2|)."""
    return math.sqrt(abs(self.norm_before**2 - self.norm_after**2))

  @property
  def relative_norm_drop(self) -> float:
    """As a share of the norm before."""
    return self.norm_drop / self.norm_before if self.norm_before else 0.0


def drop(before: Any, after: Any) -> Drop:
  """Compares the kernels of two networks.

  Example:
    >>> before = {'kernel': np.array([[3.0, 4.0]])}
    >>> after = {'kernel': np.array([[0.0, 4.0]])}
    >>> drop(before, after).relative_norm_drop
    0.6
  """
  before, after = (
    jax.tree.leaves(select(jax.device_get(x))) for x in (before, after)
  )
  return Drop(
    sum(int(np.count_nonzero(x)) for x in before),
    sum(int(np.count_nonzero(x)) for x in after),
    _norm(before),
    _norm(after),
    any(not np.array_equal(a, b, True) for a, b in zip(before, after)),
  )


def stability(accuracy_before: float, accuracy_after: float) -> float | None:
  """Pruning stability: the share of the accuracy that pruning leaves.

  1 - (before - after) / before; None if nothing was there.

  References:
    Bartoldson et al., The generalization-stability tradeoff in neural network
    pruning, 2020, arXiv:1906.03728.

  Example:
    >>> stability(0.8, 0.6)
    0.75
  """
  if not accuracy_before:
    return None
  return 1 - (accuracy_before - accuracy_after) / accuracy_before


def speedup(params: Any, macs: Mapping[str, int]) -> float | None:
  """Multiply-accumulates of the dense network over those with nonzero weights.

  What hardware could gain that skips every zero; masked training does not.
  None if no weight is left.

  Args:
    params: of the network.
    macs: of `operations.macs`.

  Example:
    >>> speedup({'kernel': np.array([[3.0, 0.0]])}, {'kernel': 10})
    2.0
  """
  left = 0.0
  for path, leaf in jax.tree_util.tree_leaves_with_path(params):
    if dense := macs.get(name_of(path)):
      left += dense * int(np.count_nonzero(leaf)) / leaf.size
  return sum(macs.values()) / left if left else None


def describe(params: Any, mask: Any, macs: Mapping[str, int]) -> dict[str, Any]:
  """Says in a few numbers how sparse a network is: for a line of metrics.

  Args:
    params: of the network.
    mask: tells which leaves are prunable; shapes suffice.
    macs: of `operations.macs`.

  Returns:
    `sparsity`, `speedup`, `distance_to_origin` (the norm of all parameters),
    and `layer_sparsity` by path.

  Example:
    >>> params = {'kernel': np.array([[3.0, 0.0]])}
    >>> describe(params, {'kernel': np.array([[True, False]])}, {'kernel': 10})
    {'sparsity': 0.5, 'speedup': 2.0, 'distance_to_origin': 3.0, \
'layer_sparsity': {'kernel': 0.5}}
  """
  summary = ong_jax.summarize(_nonzero(params, mask))
  norm = _norm(jax.tree.leaves(params))
  return {
    'sparsity': summary.sparsity,
    'speedup': speedup(params, macs),
    'distance_to_origin': norm if math.isfinite(norm) else None,
    'layer_sparsity': {x.path: x.sparsity for x in summary.layers},
  }


def connectivity(
  params: Any, mask: Any, connected: Callable[[Any], Any] | None
) -> dict[str, Any]:
  """Says what of a sparse network is on a path from its input to its output.

  Args:
    params: of the network.
    mask: tells which leaves are prunable; shapes suffice.
    connected: of `make_connected`; None, and nothing is said.

  Returns:
    `dead_filters`, output units of kernels without a weight;
    `disconnected_units`, those and the ones none of whose weights is on a path;
    `effective_sparsity`, if weights that are on none count as removed. See
    `ong_jax.connectivity`.

  Example:
    >>> params = {'kernel': np.array([[3.0, 0.0, 1.0, 2.0]])}
    >>> def connected(params):
    ...   return {'kernel': np.array([[True, False, False, True]])}
    >>> connectivity(params, {'kernel': params['kernel'] != 0}, connected)
    {'dead_filters': 1, 'disconnected_units': 2, 'effective_sparsity': 0.5}
  """
  if connected is None:
    return {}
  on_path = ong_jax.summarize(_nonzero(connected(params), mask))
  return {
    'dead_filters': ong_jax.summarize(_nonzero(params, mask)).empty_filters,
    'disconnected_units': on_path.empty_filters,
    'effective_sparsity': on_path.sparsity,
  }


def make_connected(model: nn.Module) -> Callable[[Any], Any]:
  """Makes `params -> mask` of all kernels, one program for the whole run.

  It runs once an epoch: compiled without optimizations, which would take longer
  than all its calls.
  """
  outputs = functools.partial(calibration.linear_outputs, model)
  return jax.jit(
    lambda params: ong_jax.connectivity.connected(outputs, params),
    compiler_options={'xla_backend_optimization_level': 0},
  )


def measure(params: Any, mask: Any, macs: Mapping[str, int]) -> dict[str, Any]:
  """Counts the weights that are not 0, whatever the mask says of them.

  Args:
    params: of the final network.
    mask: tells which leaves are prunable.
    macs: of `operations.macs`.

  Returns:
    `kept`, `prunable`, `sparsity`; `sparsity_all`, over all parameters,
    normalization and biases included; `mask_kept`, which is more than `kept`
    where a weight happens to be 0 that the mask keeps; `speedup`,
    `distance_to_origin`; `macs`, the multiply-accumulates that are left, and
    `dense_macs`, all that there were; `layers`; and `not_finite`, the paths of
    what training that diverged has left.

  Example:
    >>> params = {'kernel': np.array([[1.0, 0.0]]), 'bias': np.zeros(2)}
    >>> mask = {'kernel': np.array([[True, False]]), 'bias': None}
    >>> measure(params, mask, {'kernel': 10})['sparsity']
    0.5
  """
  summary = ong_jax.summarize(_nonzero(params, mask), macs)
  num_params = sum(x.size for x in jax.tree.leaves(params))
  few = describe(params, mask, macs)
  return {
    'kept': summary.kept,
    'mask_kept': sum(int(np.sum(m)) for m in jax.tree.leaves(_covered(mask))),
    'prunable': summary.prunable,
    'sparsity': summary.sparsity,
    'sparsity_all': (summary.prunable - summary.kept) / num_params,
    'speedup': few['speedup'],
    'distance_to_origin': few['distance_to_origin'],
    'macs': summary.macs,
    'dense_macs': summary.dense_macs,
    'layers': [
      {
        'path': x.path,
        'shape': x.shape,
        'kept': x.kept,
        'sparsity': x.sparsity,
        'empty_filters': x.empty_filters,
        'macs': x.macs,
        'dense_macs': x.dense_macs,
      }
      for x in summary.layers
    ],
    'not_finite': [
      name_of(path)
      for path, x in jax.tree_util.tree_leaves_with_path(params)
      if not np.isfinite(x).all()
    ],
    'empty_layers': summary.empty_layers,
    'empty_filters': summary.empty_filters,
  }


def _covered(mask: Any) -> Any:
  """The mask of kernels: that of channels has BatchNorm's parameters, too."""
  return jax.tree_util.tree_map_with_path(
    lambda path, m: m if is_kernel(path, m) else None, mask
  )


def _nonzero(params: Any, mask: Any) -> Any:
  return jax.tree.map(
    lambda x, m: None if m is None else np.asarray(x) != 0,
    params,
    _covered(mask),
    is_leaf=lambda x: x is None,
  )


def _norm(leaves: list) -> float:
  squares = (np.square(np.asarray(x, np.float64)).sum() for x in leaves)
  return math.sqrt(sum(squares))
