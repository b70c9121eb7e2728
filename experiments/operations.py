"""How often a network multiplies and adds."""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util


def macs(
  model: nn.Module, image_shape: tuple[int, int, int] = (32, 32, 3)
) -> dict[str, int]:
  """Counts the multiply-accumulates that each kernel takes part in.

  Every weight of a kernel is used once per position of the layer's output, so
  a layer costs size(kernel) * height * width, zero padding included. What has
  no kernel counts 0. Shapes are traced; nothing is computed.

  Args:
    model: any linen network whose kernels are called `kernel`.
    image_shape: height, width and channels of the one image.

  Returns:
    The count per kernel, under the kernel's path among the parameters.

  Example:
    >>> from experiments import models
    >>> macs(models.create('resnet18', num_classes=10))['linear/kernel']
    5120
  """
  used = _uses(model, image_shape)
  return {path: size * times for path, (size, times) in used.items()}


def positions(
  model: nn.Module, image_shape: tuple[int, int, int] = (32, 32, 3)
) -> dict[str, int]:
  """Counts how often each weight of a kernel is used for one image.

  Example:
    >>> from experiments import models
    >>> model = models.create('resnet8', num_classes=10)
    >>> positions(model)['layer3_0/conv1/kernel']
    64
  """
  used = _uses(model, image_shape)
  return {path: times for path, (_, times) in used.items()}


def _uses(
  model: nn.Module, image_shape: tuple[int, int, int]
) -> dict[str, tuple[int, int]]:
  """The size of each kernel, and the positions of its layer's outputs."""
  trace = functools.partial(
    model.init, train=False, mutable=True, capture_intermediates=True
  )
  images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
  variables = jax.eval_shape(trace, jax.random.key(0), images)
  outputs = traverse_util.flatten_dict(variables['intermediates'], sep='/')
  found = {}
  for path, leaf in traverse_util.flatten_dict(
    variables['params'], sep='/'
  ).items():
    layer, _, kind = path.rpartition('/')
    if kind == 'kernel':
      found[path] = (
        leaf.size,
        sum(math.prod(y.shape[1:-1]) for y in outputs[f'{layer}/__call__']),
      )
  return found
