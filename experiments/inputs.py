"""From a split on the device to what the network sees in a step."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from experiments.config import Config


class Images(NamedTuple):
  """One split of a data set, on the device."""

  images: jax.Array  # uint8 [num_images, height, width, channels]
  labels: jax.Array  # int32 [num_images]


def batch_ids(
  key: jax.Array, step: jax.Array, num_images: int, batch_size: int
) -> jax.Array:
  """Says which images a step sees: each once an epoch, in an order of its own.

  What does not fill a batch at the end of an epoch is left out of it.

  Args:
    key: of the run.
    step: since the beginning of the run.
    num_images: in the training split.
    batch_size: at most `num_images`.

  Returns:
    int32 [batch_size].

  Example:
    >>> key = jax.random.key(0)
    >>> epoch = [batch_ids(key, step, 6, 2).tolist() for step in range(3)]
    >>> sorted(sum(epoch, []))
    [0, 1, 2, 3, 4, 5]
  """
  epoch, i = jnp.divmod(step, num_images // batch_size)
  order = jax.random.permutation(jax.random.fold_in(key, epoch), num_images)
  return jax.lax.dynamic_slice(order, (i * batch_size,), (batch_size,))


def augment(key: jax.Array, images: jax.Array) -> jax.Array:
  """Crops at random out of a border of 4 black pixels, and flips half.

  Args:
    key: one for the batch.
    images: [batch, height, width, channels].

  Returns:
    Images of the same shape.

  Example:
    >>> augment(jax.random.key(0), jnp.ones((2, 32, 32, 3), 'uint8')).shape
    (2, 32, 32, 3)
  """
  crop_key, flip_key = jax.random.split(key)
  batch, *shape = images.shape
  padded = jnp.pad(images, ((0, 0), (4, 4), (4, 4), (0, 0)))
  corners = jax.random.randint(crop_key, (batch, 2), 0, 9)
  flips = jax.random.bernoulli(flip_key, shape=(batch,))

  def one(image, corner, flip):
    crop = jax.lax.dynamic_slice(image, (*corner, 0), shape)
    return jnp.where(flip, crop[:, ::-1], crop)

  return jax.vmap(one)(padded, corners, flips)


def normalize(config: Config, images: jax.Array) -> jax.Array:
  """Maps uint8 pixels to (pixel / 255 - mean) / std, in float32.

  Example:
    >>> config = Config(image_mean=(0.0,) * 3, image_std=(1.0,) * 3)
    >>> normalize(config, jnp.full((1, 3), 255, 'uint8'))
    Array([[1., 1., 1.]], dtype=float32)
  """
  mean = jnp.array(config.image_mean, jnp.float32)
  std = jnp.array(config.image_std, jnp.float32)
  return (images.astype(jnp.float32) / 255 - mean) / std
