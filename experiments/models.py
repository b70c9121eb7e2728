"""Residual networks for 32x32 images, in PyTorch's arithmetic.

Two families share one module. ResNet-8 to ResNet-110 have three stages of 16,
32 and 64 channels, and shortcuts without parameters; ResNet-18 and ResNet-34
have four stages of 64 to 512 channels, and projections where the shape changes.
Both start with a 3x3 convolution of stride 1 and have no max pooling.

References:
  He et al., Deep Residual Learning for Image Recognition, 2015,
  arXiv:1512.03385. The first family is its section 4.2, the second its table 1
  with the stem of the first.
"""

import functools
import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.core import FrozenDict

from experiments import config, convolution, groups


def _initializer(
  draw: Callable[[jax.Array, tuple[int], int], jax.Array],
) -> nn.initializers.Initializer:
  """Makes an initializer of a function `(key, shape, fan_in) -> array`.

  It draws one long vector: the same numbers as in an array of four axes, and a
  program that XLA compiles for a CPU in a quarter of the time.
  """

  def initialize(key, shape, dtype=jnp.float32):
    drawn = draw(key, (math.prod(shape),), math.prod(shape[:-1]))
    return drawn.reshape(shape).astype(dtype)

  return initialize


def _he(key, shape, fan_in):  # Not truncated, unlike JAX's `he_normal`.
  return jax.random.normal(key, shape) * jnp.sqrt(2 / fan_in)


def _lecun(key, shape, fan_in):  # Flax's own.
  scale = jnp.sqrt(1 / fan_in) / 0.87962566103423978  # Of one cut off at 2.
  return jax.random.truncated_normal(key, -2, 2, shape) * scale


def _torch(key, shape, fan_in):  # The default of PyTorch's layers.
  bound = 1 / math.sqrt(fan_in)
  return jax.random.uniform(key, shape, minval=-bound, maxval=bound)


def _signed(key, shape, fan_in):
  # Signs of one size, for supermasks, where no weight is to matter for its own
  # (Ramanujan et al., What's hidden in a randomly weighted neural network?,
  # 2020, arXiv:1911.13299).
  return jax.random.rademacher(key, shape, jnp.float32) * math.sqrt(2 / fan_in)


INITIALIZERS = {
  'torch': _initializer(_torch),
  'lecun': _initializer(_lecun),
  'he': _initializer(_he),
  'signed': _initializer(_signed),
}


class Block(nn.Module):
  """Adds two 3x3 convolutions to a shortcut.

  Attributes:
    features: channels of the output.
    hidden: channels between the two convolutions. Of a branch without any,
      what its last normalization makes of zeros is left.
    stride: of the first convolution and of the shortcut.
    projection: whether a shortcut that changes shape is a 1x1 convolution. If
      not, it drops pixels and pads the channels with zeros, evenly on both
      sides (He's option A), and has no parameters.
    conv, norm: constructors of the layers, alike for the whole network.
  """

  features: int
  hidden: int
  stride: int
  projection: bool
  conv: Callable[..., nn.Module]
  norm: Callable[..., nn.Module]

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [batch, height, width, channels] to the same with `features`."""
    conv = functools.partial(self.conv, kernel_size=(3, 3), padding=1)
    if self.hidden:
      y = conv(self.hidden, strides=self.stride, name='conv1')(x)
      y = nn.relu(self.norm(name='bn1')(y))
      y = conv(self.features, name='conv2')(y)
    else:
      y = jnp.zeros((1, 1, 1, self.features), x.dtype)
    y = self.norm(name='bn2')(y)
    return nn.relu(y + self._shortcut(x))

  def _shortcut(self, x: jax.Array) -> jax.Array:
    missing = self.features - x.shape[-1]
    if self.stride == 1 and not missing:
      return x
    if self.projection:
      conv = self.conv(
        self.features, (1, 1), self.stride, padding=0, name='shortcut_conv'
      )
      return self.norm(name='shortcut_bn')(conv(x))
    x = x[:, :: self.stride, :: self.stride]
    return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (missing // 2, missing // 2)))


class ResNet(nn.Module):
  """A residual network whose weights can be exchanged with PyTorch's.

  Padding is explicit, because JAX's 'SAME' pads a convolution of stride 2 on
  one side only. BatchNorm's running variance is of the batch as it is, where
  PyTorch multiplies it by n / (n - 1) first; a loaded network is not affected.

  Attributes:
    num_blocks: blocks per stage. From the second stage on, the first block of
      a stage halves the resolution.
    width: channels of the first stage; every further stage has twice as many.
    projection: see `Block`.
    num_classes: length of the logits.
    dtype: of the computation. Parameters, statistics and logits are float32.
    initializer: a key of `INITIALIZERS`. Biases start at 0, but the
      classifier's under 'torch' is drawn as its kernel is.
    bn_momentum: weight of the old running averages. A clone with 0.0 returns,
      in training mode, the statistics of the batch itself.
    convolve: of all convolutions, with the arguments of JAX's own. The default
      is fast on a CPU; where kernels are split over devices its gradients
      gather them, so take `jax.lax.conv_general_dilated` there.
    widths: channels of those groups that are narrower than `groups.sizes`
      says, in a `FrozenDict`, for it must be hashable.
  """

  num_blocks: tuple[int, ...]
  width: int
  projection: bool
  num_classes: int
  dtype: jnp.dtype = jnp.dtype('float32')
  initializer: str = 'he'
  bn_momentum: float = 0.9
  convolve: Callable[..., jax.Array] = convolution.conv
  widths: FrozenDict[str, int] = FrozenDict()

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Maps images [batch, height, width, 3] to logits [batch, num_classes]."""
    widths = self._widths()
    kernel_init = INITIALIZERS[self.initializer]
    conv = functools.partial(
      nn.Conv,
      use_bias=False,
      dtype=self.dtype,
      kernel_init=kernel_init,
      conv_general_dilated=self.convolve,
    )
    norm = functools.partial(
      nn.BatchNorm,
      use_running_average=not train,
      momentum=self.bn_momentum,
      epsilon=1e-5,
      dtype=self.dtype,
    )
    stem = widths.get('stage1', self.width)
    x = conv(stem, (3, 3), padding=1, name='conv1')(x)
    x = nn.relu(norm(name='bn1')(x))
    for i, num_blocks in enumerate(self.num_blocks):
      for j in range(num_blocks):
        stride = 2 if i > 0 and j == 0 else 1
        features = widths.get(f'stage{i + 1}', self.width * 2**i)
        name = f'layer{i + 1}_{j}'
        x = Block(
          features, widths[name], stride, self.projection, conv, norm, name=name
        )(x)
    x = x.mean((1, 2))
    x = nn.Dense(
      self.num_classes,
      dtype=self.dtype,
      kernel_init=kernel_init,
      bias_init=self._bias_init(fan_in=x.shape[-1]),
      name='linear',
    )(x)
    return x.astype(jnp.float32)

  def _widths(self) -> dict[str, int]:
    sizes = groups.sizes(self)
    for name, width in self.widths.items():
      least = 0 if name in groups.branches(self) else 1
      if not least <= width <= sizes.get(name, -1):
        raise ValueError(
          f"`widths` has {width} channels for '{name}', but the groups of this "
          f'network have at most {sizes}.'
        )
    return sizes | dict(self.widths)

  def _bias_init(self, fan_in: int) -> nn.initializers.Initializer:
    if self.initializer != 'torch':
      return nn.initializers.zeros
    bound = 1 / math.sqrt(fan_in)
    return functools.partial(jax.random.uniform, minval=-bound, maxval=bound)


MODELS = {
  f'resnet{depth}': functools.partial(
    ResNet, num_blocks=((depth - 2) // 6,) * 3, width=16, projection=False
  )
  for depth in (8, 20, 32, 44, 56, 110)
} | {
  'resnet18': functools.partial(
    ResNet, num_blocks=(2, 2, 2, 2), width=64, projection=True
  ),
  'resnet34': functools.partial(
    ResNet, num_blocks=(3, 4, 6, 3), width=64, projection=True
  ),
}


def create(
  name: str,
  num_classes: int,
  *,
  dtype: jax.typing.DTypeLike = jnp.float32,
  initializer: str = 'he',
) -> nn.Module:
  """Returns the network of this name.

  Args:
    name: a key of `MODELS`.
    num_classes: length of the logits, at least 1.
    dtype: of the computation: float32 or bfloat16.
    initializer: a key of `INITIALIZERS`.

  Example:
    >>> model = create('resnet20', num_classes=10)
    >>> images = jnp.zeros((1, 32, 32, 3))
    >>> variables = model.init(jax.random.key(0), images, train=False)
    >>> model.apply(variables, images, train=False).shape
    (1, 10)
  """
  config.check_choice('name', name, MODELS)
  config.check_choice('initializer', initializer, INITIALIZERS)
  if num_classes < 1:
    raise ValueError(f'`num_classes` must be at least 1, got {num_classes}.')
  dtype = jnp.dtype(dtype)
  if dtype not in (jnp.float32, jnp.bfloat16):
    raise ValueError(f'`dtype` must be float32 or bfloat16, got {dtype}.')
  return MODELS[name](
    num_classes=num_classes, dtype=dtype, initializer=initializer
  )
