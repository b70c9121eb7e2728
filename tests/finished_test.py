import functools
import json
import pathlib

import chex
import finished_runs
import jax
import numpy as np
from absl.testing import absltest, parameterized

from experiments import finished, models, timing


@functools.partial(jax.jit, static_argnums=0)
def logits(model, variables, x):
  return model.apply(variables, x, train=False)


def outputs(net):
  x = np.random.default_rng(1).normal(size=(2, 32, 32, 3)).astype('f4')
  variables = {'params': net.params, 'batch_stats': net.batch_stats}
  return logits(net.model, variables, x)


class FinishedTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.path = pathlib.Path(self.create_tempdir().full_path)

  def test_load(self):
    net = finished_runs.network('resnet8')
    finished_runs.store(self.path, net, 'resnet8', dtype='bfloat16')
    found = finished.load(str(self.path))
    chex.assert_trees_all_equal(found.params, net.params)
    chex.assert_trees_all_equal(found.batch_stats, net.batch_stats)
    self.assertEqual(found.model, models.create('resnet8', 10))
    np.testing.assert_array_equal(found.image_mean, np.float32([0.5, 0.4, 0.3]))
    np.testing.assert_array_equal(found.image_std, np.float32([0.2, 0.3, 0.4]))

  def test_no_finished_run(self):
    with self.assertRaisesRegex(ValueError, 'RUN must be .* no folder `final`'):
      finished.load(str(self.path))

  def test_a_run_that_does_not_say_of_what(self):
    net = finished_runs.network('resnet8')
    finished_runs.store(self.path, net, 'resnet8')
    config = json.loads((self.path / 'config.json').read_text())
    del config['model']
    (self.path / 'config.json').write_text(json.dumps(config))
    with self.assertRaisesRegex(ValueError, 'does not say which'):
      finished.load(str(self.path))

  def test_mask(self):
    net = finished_runs.network('resnet8')
    net.params['conv1']['kernel'][0, 1, 2, 3] = 0
    net.params['conv1']['kernel'][0, 0, 0, 0] = -0.0
    net.params['bn1']['bias'][:] = 0
    mask = finished.mask_of(net)
    self.assertIsNone(mask['bn1']['bias'])
    pruned = np.argwhere(~mask['conv1']['kernel'])
    np.testing.assert_array_equal(pruned, [[0, 0, 0, 0], [0, 1, 2, 3]])
    self.assertTrue(mask['linear']['kernel'].all())

  @parameterized.named_parameters(
    ('padded', 'resnet8', {'layer1_0': 3, 'layer3_0': 60}),
    ('a_branch', 'resnet8', {'layer2_0': 32}),
    ('projected', 'resnet18', {'stage2': 120, 'layer4_1': 500, 'layer3_0': 1}),
  )
  def test_a_smaller_network_computes_the_same(self, name, gone):
    net = finished_runs.network(name, gone)
    small, found = finished.shrink(net)
    self.assertEqual(found, gone)
    variables = {'params': small.params, 'batch_stats': small.batch_stats}
    chex.assert_trees_all_equal_shapes_and_dtypes(
      variables, timing.shapes(small.model)
    )
    expected = outputs(net)
    scale = abs(expected).max()
    np.testing.assert_allclose(
      outputs(small) / scale, expected / scale, atol=1e-5
    )

  def test_without_dead_channels_all_stays(self):
    net = finished_runs.network('resnet8')
    block = net.params['layer1_0']
    kernel = np.array(block['conv1']['kernel'])
    kernel[..., 3] = 0  # The bias behind it lives on.
    block['conv1']['kernel'] = kernel
    small, gone = finished.shrink(net)
    self.assertEqual(gone, {})
    self.assertIs(small, net)

  def test_a_stream_that_is_gone(self):
    net = finished_runs.network('resnet18', {'stage4': 512})
    with self.assertRaisesRegex(ValueError, "residual stream 'stage4' .*--nos"):
      finished.shrink(net)


if __name__ == '__main__':
  absltest.main()
