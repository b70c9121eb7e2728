import json
import pathlib

import chex
import jax
from absl.testing import absltest, parameterized

from experiments import checkpoints, data, models, networks, pretrained, timing
from experiments.config import Config

_CONFIG = Config(model='resnet8', dataset='synthetic')


class InitialTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.dataset = data.load('synthetic')
    self.model = models.create('resnet8', self.dataset.num_classes)
    self.path = self.create_tempdir().full_path

  def initial(self, **fields):
    config = Config(**vars(_CONFIG) | fields)
    return networks.initial(config, self.model, self.dataset)

  @parameterized.parameters('.npz', '.safetensors')
  def test_weights_of_pytorch(self, suffix):
    variables = timing.fill(timing.shapes(self.model))
    path = f'{self.path}/net{suffix}'
    pretrained.store_torch(path, **variables)
    params, stats, config = self.initial(init_from=path)
    given = (0.1, 0.2, 0.3), (1.0, 2.0, 3.0)
    pretrained.store_torch(path, **variables, normalization=given)
    *_, said = self.initial(init_from=path)
    self.assertEqual((said.image_mean, said.image_std), given)
    chex.assert_trees_all_equal(params, variables['params'])
    chex.assert_trees_all_equal(stats, variables['batch_stats'])
    self.assertEqual(tuple(config.image_mean), pretrained.MEAN)
    self.assertEqual(config.original_epochs, 200)

  def test_what_is_drawn_follows_from_the_seed(self):
    (one, _, config), (same, *_), (other, *_) = (
      self.initial(seed=seed, dense_epochs=3) for seed in (1, 1, 2)
    )
    chex.assert_trees_all_equal(one, same)
    self.assertFalse((one['conv1']['kernel'] == other['conv1']['kernel']).any())
    self.assertEqual(config.image_mean, self.dataset.mean)
    self.assertEqual(config.original_epochs, 3)

  def test_another_network_is_named(self):
    small = models.create('resnet8', 7)
    variables = timing.fill(timing.shapes(small))
    checkpoints.store_final(
      pathlib.Path(self.path, 'final'),
      **jax.device_get(
        {'params': variables['params'], 'stats': variables['batch_stats']}
      ),
    )
    config = Config(**vars(_CONFIG) | {'image_mean': (1, 1, 1)})
    with open(f'{self.path}/config.json', 'w') as file:
      json.dump(vars(config) | {'image_std': (1, 1, 1)}, file)
    with self.assertRaisesRegex(
      ValueError,
      r"leaf 'params/linear/bias' has shape \(7,\) there, \(10,\)",
    ):
      self.initial(init_from=self.path)


if __name__ == '__main__':
  absltest.main()
