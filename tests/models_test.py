import functools
import re

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized
from flax import traverse_util

from experiments import models, operations

TINY = models.ResNet(num_blocks=(1, 1), width=4, projection=True, num_classes=5)


@functools.partial(jax.jit, static_argnums=0)
def init(model):
  images = jnp.zeros((1, 8, 8, 3))
  return model.init(jax.random.key(0), images, train=False)


def param_shapes(model):
  return jax.eval_shape(lambda: init(model))['params']


@functools.partial(jax.jit, static_argnums=(0, 3))
def apply(model, variables, x, train):
  """Returns logits, what each layer returned, and the new statistics."""
  logits, new = model.apply(
    variables, x, train, mutable=True, capture_intermediates=True
  )
  return logits, new['intermediates'], new['batch_stats']


def images(seed):
  return 3 + jax.random.normal(jax.random.key(seed), (2, 8, 8, 3))


def flat(tree):
  return traverse_util.flatten_dict(tree, sep='/')


def convolve(x, kernel, stride=1):
  """PyTorch's conv2d without bias, padded by half the kernel."""
  pad = len(kernel) // 2
  x = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
  size = (x.shape[1] - len(kernel)) // stride + 1
  y = np.zeros((len(x), size, size, kernel.shape[-1]))
  for row, col in np.ndindex(size, size):
    top, left = row * stride, col * stride
    patch = x[:, top : top + len(kernel), left : left + len(kernel)]
    y[:, row, col] = np.einsum('bhwi,hwio->bo', patch, kernel)
  return y


def normalize(x, params, stats):
  """PyTorch's batch_norm in evaluation."""
  x = (x - stats['mean']) / np.sqrt(stats['var'] + 1e-5)
  return x * params['scale'] + params['bias']


class SizeTest(parameterized.TestCase):
  @parameterized.named_parameters(
    ('8', 'resnet8', 10, 74_800, 8, 75_290, 12_239_488),
    ('20', 'resnet20', 10, 268_336, 20, 269_722, 40_551_040),
    ('32', 'resnet32', 10, 461_872, 32, 464_154, 68_862_592),
    ('44', 'resnet44', 10, 655_408, 44, 658_586, 97_174_144),
    ('56', 'resnet56', 10, 848_944, 56, 853_018, 125_485_696),
    ('56_100', 'resnet56', 100, 854_704, 56, 858_868, 125_491_456),
    ('110', 'resnet110', 10, 1_719_856, 110, 1_727_962, 252_887_680),
    ('18', 'resnet18', 10, 11_164_352, 21, 11_173_962, 555_422_720),
    ('18_100', 'resnet18', 100, 11_210_432, 21, 11_220_132, 555_468_800),
    ('34', 'resnet34', 10, 21_265_088, 37, 21_282_122, 1_159_402_496),
    ('34_100', 'resnet34', 100, 21_311_168, 37, 21_328_292, 1_159_448_576),
  )
  def test_totals(
    self, name, num_classes, num_weights, num_layers, num_params, num_macs
  ):
    model = models.create(name, num_classes)
    params = flat(param_shapes(model))
    kernels = {k: v.size for k, v in params.items() if k.endswith('kernel')}
    self.assertEqual(sum(kernels.values()), num_weights)
    self.assertLen(kernels, num_layers)
    self.assertEqual(sum(v.size for v in params.values()), num_params)
    macs = operations.macs(model)
    self.assertEqual(macs.keys(), kernels.keys())
    self.assertEqual(sum(macs.values()), num_macs)


class ForwardTest(parameterized.TestCase):
  def test_option_a_drops_pixels_and_pads_channels(self):
    block = models.Block(
      features=4,
      hidden=4,
      stride=2,
      projection=False,
      conv=functools.partial(nn.Conv, use_bias=False),
      norm=functools.partial(nn.BatchNorm, use_running_average=True),
    )
    x = jnp.arange(1.0, 19.0).reshape(1, 3, 3, 2)
    variables = jax.jit(block.init)(jax.random.key(0), x)
    self.assertNotIn('shortcut_conv', variables['params'])
    variables['params'] = jax.tree.map(jnp.zeros_like, variables['params'])
    expected = [
      [[0, 1, 2, 0], [0, 5, 6, 0]],
      [[0, 13, 14, 0], [0, 17, 18, 0]],
    ]
    np.testing.assert_array_equal(block.apply(variables, x), [expected])

  def test_whole_net_agrees_with_numpy(self):
    rng = np.random.default_rng(0)
    variables = jax.tree.map(  # No scale 1, mean 0 or variance 1 is left.
      lambda v: v + rng.uniform(-0.5, 0.5, v.shape).astype('f4'), init(TINY)
    )

    def layer(x, root, conv='conv1', bn='bn1', stride=1):
      params, stats = root
      y = convolve(x, params[conv]['kernel'], stride)
      return normalize(y, params[bn], stats[bn])

    x = np.asarray(images(seed=1))
    net = jax.device_get((variables['params'], variables['batch_stats']))
    y = np.maximum(layer(x, net), 0)
    for name, stride in (('layer1_0', 1), ('layer2_0', 2)):
      block = (net[0][name], net[1][name])
      z = np.maximum(layer(y, block, stride=stride), 0)
      z = layer(z, block, 'conv2', 'bn2')
      if stride == 2:
        y = layer(y, block, 'shortcut_conv', 'shortcut_bn', stride)
      y = np.maximum(y + z, 0)
    linear = net[0]['linear']
    expected = y.mean((1, 2)) @ linear['kernel'] + linear['bias']
    logits, _, _ = apply(TINY, variables, x, False)
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)

  def test_module_names(self):
    params = param_shapes(models.create('resnet8', 10))
    self.assertCountEqual(
      params, ['conv1', 'bn1', 'layer1_0', 'layer2_0', 'layer3_0', 'linear']
    )
    for block in ('layer1_0', 'layer2_0', 'layer3_0'):
      self.assertCountEqual(params[block], ['conv1', 'bn1', 'conv2', 'bn2'])

  def test_shortcuts_are_projections_only_where_the_shape_changes(self):
    params = param_shapes(models.create('resnet18', 10))
    blocks = [name for name in params if 'shortcut_conv' in params[name]]
    self.assertCountEqual(blocks, ['layer2_0', 'layer3_0', 'layer4_0'])

  @parameterized.parameters('float32', 'bfloat16')
  def test_dtype_is_of_the_computation_only(self, dtype):
    model = TINY.clone(dtype=jnp.dtype(dtype))
    variables = jax.eval_shape(lambda: init(model))
    logits, layers, stats = jax.eval_shape(
      lambda v: apply(model, v, images(seed=1), True), variables
    )
    chex.assert_type(jax.tree.leaves([variables, stats, logits]), jnp.float32)
    del layers['__call__']  # The logits.
    chex.assert_type(jax.tree.leaves(layers), jnp.dtype(dtype))


class BatchNormTest(parameterized.TestCase):
  def test_momentum_0_returns_the_statistics_of_the_batch(self):
    variables, x = init(TINY), images(seed=1)
    _, _, stats = apply(TINY.clone(bn_momentum=0.0), variables, x, True)
    y = convolve(x, np.asarray(variables['params']['conv1']['kernel']))
    expected = {'mean': y.mean((0, 1, 2)), 'var': y.var((0, 1, 2))}
    chex.assert_trees_all_close(stats['bn1'], expected, rtol=1e-4)

  def test_momentum_is_the_weight_of_the_old_statistics(self):
    variables, x = init(TINY), images(seed=1)
    _, _, batch = apply(TINY.clone(bn_momentum=0.0), variables, x, True)
    _, _, stats = apply(TINY, variables, x, True)
    expected = jax.tree.map(
      lambda old, new: 0.9 * old + 0.1 * new, variables['batch_stats'], batch
    )
    chex.assert_trees_all_close(stats, expected, rtol=1e-5)

  def test_evaluation_does_not_see_the_rest_of_the_batch(self):
    variables = init(TINY)
    x = images(seed=1)
    other = x.at[1].set(images(seed=2)[1])
    logits, _, stats = apply(TINY, variables, x, False)
    chex.assert_trees_all_equal(stats, variables['batch_stats'])
    np.testing.assert_array_equal(
      logits[0], apply(TINY, variables, other, False)[0][0]
    )


class InitTest(parameterized.TestCase):
  @parameterized.named_parameters(
    # Largest value in units of the deviation: uniform sqrt(3); truncated at 2
    # before the deviation is restored, 2 / 0.87963; normal no bound.
    ('torch', 'torch', 1 / 3, (1.70, 1.7321)),
    ('lecun', 'lecun', 1, (2.20, 2.2737)),
    ('he', 'he', 2, (3.50, 6.0)),
    ('signed', 'signed', 2, (0.999999, 1.000001)),
  )
  def test_kernels(self, initializer, scale, largest):
    stem = models.ResNet((), 512, False, 100, initializer=initializer)
    params = init(stem)['params']
    for layer, fan_in in (('conv1', 27), ('linear', 512)):
      kernel = params[layer]['kernel'] / np.sqrt(scale / fan_in)
      tolerance = 3 / np.sqrt(kernel.size)
      self.assertAlmostEqual(kernel.mean(), 0, delta=tolerance)
      self.assertAlmostEqual(kernel.std(), 1, delta=tolerance)
      self.assertBetween(abs(kernel).max(), *largest)

  def test_signed_kernels_have_one_size_and_both_signs(self):
    # A 3x3 kernel of 2 channels: fan-in 18.
    kernel = models.INITIALIZERS['signed'](jax.random.key(0), (3, 3, 2, 500))
    self.assertEqual(set(np.unique(abs(kernel))), {np.float32(1 / 3)})
    # Of 9,000 signs, 5 deviations of 47 from half.
    self.assertBetween(int((kernel > 0).sum()), 4_263, 4_737)

  def test_biases(self):
    stem = models.ResNet((), 16, False, 1000)
    bias = init(stem)['params']['linear']['bias']
    np.testing.assert_array_equal(bias, np.zeros(1000))
    bias = init(stem.clone(initializer='torch'))['params']['linear']['bias']
    self.assertBetween(bias.max(), 0.245, 0.25)
    self.assertBetween(bias.min(), -0.25, -0.245)


class CreateTest(parameterized.TestCase):
  @parameterized.named_parameters(
    (
      'name',
      {'name': 'resnet57', 'num_classes': 10},
      '`name` must be one of resnet8, resnet20, resnet32, resnet44, resnet56, '
      "resnet110, resnet18, resnet34, got 'resnet57'. The nearest is "
      "'resnet56'.",
    ),
    (
      'initializer',
      {'name': 'resnet20', 'num_classes': 10, 'initializer': 'pytorch'},
      "`initializer` must be one of torch, lecun, he, signed, got 'pytorch'. "
      "The nearest is 'torch'.",
    ),
    (
      'num_classes',
      {'name': 'resnet20', 'num_classes': 0},
      '`num_classes` must be at least 1, got 0.',
    ),
    (
      'dtype',
      {'name': 'resnet20', 'num_classes': 10, 'dtype': 'float16'},
      '`dtype` must be float32 or bfloat16, got float16.',
    ),
  )
  def test_bad_argument(self, arguments, message):
    with self.assertRaisesRegex(ValueError, f'^{re.escape(message)}$'):
      models.create(**arguments)
