"""How good a network is on a whole split, and BatchNorm estimated anew.

Batch by batch, each a compiled call, split over the mesh's data axis.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from experiments import inputs, sharding
from experiments.config import Config

_BATCH = 500


def make_evaluate(
  config: Config, model: nn.Module, mesh: Mesh
) -> Callable[[Any, Any, inputs.Images], float]:
  """Makes `(params, stats, images) -> accuracy` over a whole split."""

  @jax.jit
  def num_correct(params, stats, data):
    images = sharding.split_batch(mesh, inputs.normalize(config, data.images))
    logits = model.apply(
      {'params': params, 'batch_stats': stats}, images, train=False
    )
    return jnp.sum(logits.argmax(-1) == data.labels)

  def evaluate(params, stats, data):
    correct = [
      num_correct(params, stats, batch) for batch in _batches(mesh, data)
    ]
    return sum(int(n) for n in correct) / len(data.labels)

  return evaluate


def make_reestimate(
  config: Config, model: nn.Module, mesh: Mesh
) -> Callable[[Any, Any, inputs.Images], Any]:
  """Makes `(params, stats, images) -> stats`: BatchNorm estimated anew.

  Pruning a trained network moves what its layers put out, and the averages
  that they are normalized by in evaluation are no longer true. The new ones
  are the plain mean of the statistics of `bn_images` images, in batches.
  """
  own = model.clone(bn_momentum=0.0)  # Training mode then returns a batch's.

  @jax.jit
  def batch_stats(params, stats, data):
    images = sharding.split_batch(mesh, inputs.normalize(config, data.images))
    _, moved = own.apply(
      {'params': params, 'batch_stats': stats},
      images,
      train=True,
      mutable=['batch_stats'],
    )
    return moved['batch_stats']

  def reestimate(params, stats, data):
    data = jax.tree.map(lambda x: x[: config.bn_images], data)
    size = _batch_size(mesh, data)
    # Whole batches; what is fewer than one is repeated. No image is padding.
    ids = np.arange(max(len(data.labels) // size, 1) * size) % len(data.labels)
    data = jax.tree.map(lambda x: x[ids], data)
    found = [batch_stats(params, stats, b) for b in _batches(mesh, data)]
    return jax.tree.map(lambda *xs: sum(xs) / len(xs), *found)

  return reestimate


def _batch_size(mesh: Mesh, data: inputs.Images) -> int:
  size = min(_BATCH, len(data.labels))
  return -(-size // mesh.shape['data']) * mesh.shape['data']


def _batches(mesh: Mesh, data: inputs.Images) -> list[inputs.Images]:
  """Cuts a split into equal batches that the mesh divides.

  The last one is filled up with black images of label -1, which is never
  right.
  """
  size = _batch_size(mesh, data)
  num_batches = -(-len(data.labels) // size)
  missing = num_batches * size - len(data.labels)
  images = np.pad(data.images, ((0, missing), (0, 0), (0, 0), (0, 0)))
  labels = np.pad(data.labels, (0, missing), constant_values=-1)
  return [
    inputs.Images(images[i : i + size], labels[i : i + size])
    for i in range(0, len(labels), size)
  ]
