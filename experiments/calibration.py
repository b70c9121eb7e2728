"""Training images that are looked at before anything is trained."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from experiments import inputs
from experiments.config import Config


class Batches:
  """The first images of a split, batch by batch; none of them is held.

  Normalized, as they are, on one device, so that sums round the same however
  many there are.
  """

  def __init__(self, config: Config, data: inputs.Images, num_batches: int):
    """Refuses more batches than there are."""
    size = config.batch_size
    if num_batches * size > len(data.labels):
      raise ValueError(
        f'{num_batches} batches of `batch_size`={size} are more than the '
        f'{len(data.labels)} training images. Lower `batch_size`.'
      )
    self._config, self._data, self._num = config, data, num_batches

  def __iter__(self) -> Iterator[inputs.Images]:
    """Begins again."""
    size = self._config.batch_size
    for i in range(self._num):
      images, labels = jax.device_get(
        jax.tree.map(lambda x, i=i: x[i * size : (i + 1) * size], self._data)
      )
      yield inputs.Images(inputs.normalize(self._config, images), labels)


class Calibration(NamedTuple):
  """A network on data, as functions of its parameters."""

  batches: Callable[[int], Batches]  # Of so many.
  loss: Callable[..., jax.Array]  # (params, batch, temperature=1) -> [].
  logits: Callable[[Any, Any], jax.Array]  # (params, batch) -> [b, classes]
  flow: Callable[[Any], jax.Array]  # params -> [], see `ong_jax.synflow`.


def make(config: Config, model: nn.Module, data: inputs.Images) -> Calibration:
  """Makes what scores that look at data are given.

  BatchNorm is in training mode, so that nothing depends on its averages; in the
  flow, which has no data, it does nothing.

  Args:
    config: of the run.
    model: that is pruned.
    data: for training.
  """

  def logits(params, batch):
    stats = _statistics(model, batch.images, jnp.zeros)
    outputs, _ = model.apply(
      {'params': params, 'batch_stats': stats},
      batch.images,
      train=True,
      mutable=['batch_stats'],
    )
    return outputs

  def loss(params, batch, temperature=1.0):
    targets = jax.nn.one_hot(batch.labels, model.num_classes)
    targets = optax.smooth_labels(targets, config.label_smoothing)
    outputs = logits(params, batch) / temperature
    return optax.softmax_cross_entropy(outputs, targets).mean()

  def flow(params):
    # In double precision: in single it overflows after some forty layers.
    shape = data.images.shape[1:]
    return linear_outputs(model, params, 'float64', shape).sum()

  def batches(num_batches):
    return Batches(config, data, num_batches)

  return Calibration(batches, loss, logits, flow)


def linear_outputs(
  model: nn.Module,
  params: Any,
  dtype: str = 'float32',
  image_shape: tuple[int, ...] = (32, 32, 3),
) -> jax.Array:
  """Returns what a network makes of an image of ones if BatchNorm does nothing.

  For `ong_jax.synflow` and `ong_jax.connectivity`.

  Args:
    model: any network of these experiments.
    params: positive.
    dtype: of the computation.
    image_shape: height, width and channels.
  """
  model = model.clone(dtype=jnp.dtype(dtype))
  images = jnp.ones((1, *image_shape))
  stats = _statistics(model, images, jnp.ones)
  variables = {'params': params, 'batch_stats': stats}
  return model.apply(variables, images, train=False)


def _statistics(model: nn.Module, images: Any, fill: Callable) -> Any:
  """BatchNorm's averages, of which nothing but the variance may matter."""
  variables = jax.eval_shape(
    lambda x: model.init(jax.random.key(0), x, train=False), images
  )
  return jax.tree_util.tree_map_with_path(
    lambda path, x: (fill if path[-1].key == 'var' else jnp.zeros)(x.shape),
    variables['batch_stats'],
  )
