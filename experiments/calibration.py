"""Gradients for scores that look at data before anything is trained."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from experiments import inputs
from experiments.config import Config


def make_gradients(
  config: Config, model: nn.Module, data: inputs.Images
) -> Callable[[Any, int], Iterator[Any]]:
  """Makes `(params, num_batches) -> gradients`, one batch after the other.

  Of the training loss on the first training images as they are, in batches of
  `batch_size`, with BatchNorm in training mode. On one device, so that sums
  round the same however many there are. No two batches are held.

  Args:
    config: of the run.
    model: whose parameters they are of.
    data: for training.

  Returns:
    The function. It raises a `ValueError` if there are too few images.
  """

  @jax.jit
  def gradient(params, images, labels):
    images = inputs.normalize(config, images)
    init = functools.partial(model.init, train=False)
    variables = jax.eval_shape(init, jax.random.key(0), images)
    stats = jax.tree.map(
      lambda x: jnp.zeros(x.shape, x.dtype), variables['batch_stats']
    )
    targets = jax.nn.one_hot(labels, model.num_classes)
    targets = optax.smooth_labels(targets, config.label_smoothing)

    def loss(params):
      logits, _ = model.apply(
        {'params': params, 'batch_stats': stats},
        images,
        train=True,
        mutable=['batch_stats'],
      )
      return optax.softmax_cross_entropy(logits, targets).mean()

    return jax.grad(loss)(params)

  def gradients(params, num_batches):
    size = config.batch_size
    if num_batches * size > len(data.labels):
      raise ValueError(
        f'{num_batches} batches of `batch_size`={size} are more than the '
        f'{len(data.labels)} training images. Lower `batch_size`.'
      )
    for i in range(num_batches):
      batch = jax.device_get(
        jax.tree.map(lambda x, i=i: x[i * size : (i + 1) * size], data)
      )
      yield gradient(params, *batch)

  return gradients
