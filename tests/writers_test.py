import functools
import pathlib

import chex
import finished_runs
import jax
import numpy as np
import onnxruntime
from absl.testing import absltest, parameterized
from flax.core import FrozenDict

import ong_jax
from experiments import finished, models, pretrained, timing, writers
from ong_jax.export import compressed

MODEL = models.create('resnet8', 10)
SHAPES = timing.shapes(MODEL)


def network(sparsity):
  rng = np.random.default_rng(0)
  variables = jax.tree.map(
    lambda leaf: rng.uniform(0.1, 1, leaf.shape).astype('f4'), SHAPES
  )
  mask = ong_jax.magnitude(sparsity=sparsity)(variables['params'])
  params = jax.device_get(ong_jax.apply_mask(variables['params'], mask))
  mean, std = np.float32([0.1, 0.2, 0.3]), np.float32([1, 2, 3])
  stats = variables['batch_stats']
  return finished.Network(MODEL, params, stats, mean, std)


@functools.partial(jax.jit, static_argnums=0)
def logits(model, variables, x):
  return model.apply(variables, x, train=False)


class WritersTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.create_tempdir().full_path)

  def write(self, name, suffix, net):
    path = self.folder / f'net{suffix}'
    writers.FORMATS[name].write(str(path), net)
    return path

  def test_compressed(self):
    net = network(0.9)
    found, mask = compressed.load(self.write('safetensors', '', net))
    chex.assert_trees_all_equal(
      found,
      {
        'params': net.params,
        'batch_stats': net.batch_stats,
        'image_mean': net.image_mean,
        'image_std': net.image_std,
      },
    )
    self.assertAlmostEqual(ong_jax.sparsity(mask['params']), 0.9, 5)
    self.assertEqual(jax.tree.leaves(mask['batch_stats']), [])

  @parameterized.parameters('.npz', '.safetensors')
  def test_torch(self, suffix):
    net = network(0.9)
    path = self.write('torch', suffix, net)
    params, stats = pretrained.load_torch(str(path), **SHAPES)
    chex.assert_trees_all_equal(jax.device_get(params), net.params)
    chex.assert_trees_all_equal(jax.device_get(stats), net.batch_stats)

  def test_scipy(self):
    net = network(0.9)
    arrays = np.load(self.write('scipy', '.npz', net))
    stored = sum(x.size for k, x in arrays.items() if k.endswith('.data'))
    self.assertEqual(stored, 7480)  # Of 74,800.
    np.testing.assert_array_equal(arrays['image_std'], net.image_std)
    np.testing.assert_array_equal(
      arrays['batch_stats/bn1/var'], net.batch_stats['bn1']['var']
    )

  def test_onnx_maps_pixels_to_logits(self):
    net = network(0.9)
    path = self.write('onnx', '.onnx', net)
    session = onnxruntime.InferenceSession(path)
    images = np.random.default_rng(1).integers(256, size=(3, 32, 32, 3))
    (found,) = session.run(None, {'input_0': images.astype(np.uint8)})
    x = (images / 255 - net.image_mean) / net.image_std
    variables = {'params': net.params, 'batch_stats': net.batch_stats}
    expected = logits(MODEL, variables, np.float32(x))
    np.testing.assert_allclose(found, expected, atol=1e-4 * expected.max())

  def test_a_narrower_network_says_how_wide_it_is(self):
    net = finished_runs.network('resnet8', {'layer3_0': 60})
    small, _ = finished.shrink(net)
    path = self.write('safetensors', '.safetensors', small)
    found, _ = compressed.load(path)
    widths = {name: int(width) for name, width in found['widths'].items()}
    self.assertEqual(widths['layer3_0'], 4)
    model = MODEL.clone(widths=FrozenDict(widths))
    x = np.ones((2, 32, 32, 3), np.float32)
    variables = {name: found[name] for name in ('params', 'batch_stats')}
    np.testing.assert_array_equal(
      logits(model, variables, x),
      logits(
        small.model,
        {'params': small.params, 'batch_stats': small.batch_stats},
        x,
      ),
    )

  def test_a_network_without_a_branch(self):
    net = finished_runs.network('resnet8', {'layer2_0': 32, 'layer3_0': 60})
    small, _ = finished.shrink(net)
    for name in writers.FORMATS:
      self.write(name, '.npz', small)
    path = self.write('onnx', '.onnx', small)
    images = np.random.default_rng(1).integers(256, size=(3, 32, 32, 3))
    session = onnxruntime.InferenceSession(path)
    (found,) = session.run(None, {'input_0': images.astype(np.uint8)})
    variables = {'params': net.params, 'batch_stats': net.batch_stats}
    x = np.float32(images / 255)
    expected = logits(net.model, variables, x)
    np.testing.assert_allclose(found, expected, 1e-4)
    found, _ = compressed.load(self.write('safetensors', '', small))
    chex.assert_trees_all_equal(found['params'], small.params)

  def test_num_bytes(self):
    size = sum(x.size for x in jax.tree.leaves(SHAPES))
    self.assertEqual(writers.num_bytes(network(0.5)), 4 * size)


if __name__ == '__main__':
  absltest.main()
