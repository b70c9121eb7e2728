import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from experiments import data, evaluation, inputs, models, sharding
from experiments.config import Config

_CONFIG = Config(image_mean=(0.5,) * 3, image_std=(0.25,) * 3)


class EvaluationTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.model = models.create('resnet8', 10)
    images = jnp.zeros((1, 32, 32, 3))
    variables = self.model.init(jax.random.key(0), images, train=False)
    self.params, self.stats = variables['params'], variables['batch_stats']
    dataset = data.load('synthetic')
    self.images, self.labels = dataset.train_images, dataset.train_labels

  @parameterized.parameters(512, 509, 5)
  def test_accuracy_counts_every_image_once(self, num_images):
    split = inputs.Images(self.images[:num_images], self.labels[:num_images])
    mesh = sharding.make_mesh(1, 8)
    evaluate = evaluation.make_evaluate(_CONFIG, self.model, mesh)
    logits = self.model.apply(
      {'params': self.params, 'batch_stats': self.stats},
      inputs.normalize(_CONFIG, split.images),
      train=False,
    )
    hits = int((np.argmax(logits, -1) == split.labels).sum())
    found = evaluate(self.params, self.stats, split)
    self.assertEqual(found, hits / num_images)
    self.assertGreater(hits, 0)

  def test_statistics_are_the_mean_of_the_batches(self):
    split = inputs.Images(self.images[:512], self.labels[:512])
    mesh = sharding.make_mesh(1, 8, jax.devices()[:1])
    reestimate = evaluation.make_reestimate(_CONFIG, self.model, mesh)
    found = reestimate(self.params, self.stats, split)
    # 512 images are one whole batch of 500; the first layer's statistics are
    # those of its convolution's output.
    out = jax.lax.conv_general_dilated(
      inputs.normalize(_CONFIG, split.images[:500]),
      self.params['conv1']['kernel'],
      (1, 1),
      [(1, 1), (1, 1)],
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )
    chex.assert_trees_all_close(
      found['bn1'],
      {'mean': out.mean((0, 1, 2)), 'var': out.var((0, 1, 2))},
      rtol=1e-4,
      atol=1e-5,
    )

  def test_no_image_is_padding(self):
    # Of twelve images that are all alike, eight devices make batches of 16.
    one_image = np.repeat(self.images[:1], 12, axis=0)
    split = inputs.Images(one_image, self.labels[:12])
    found = [
      evaluation.make_reestimate(
        _CONFIG, self.model, sharding.make_mesh(1, 8, jax.devices()[:n])
      )(self.params, self.stats, split)['bn1']
      for n in (1, 8)
    ]
    chex.assert_trees_all_close(*found, rtol=1e-4, atol=1e-5)

  def test_old_statistics_do_not_matter(self):
    split = inputs.Images(self.images[:40], self.labels[:40])
    mesh = sharding.make_mesh(1, 8, jax.devices()[:1])
    reestimate = evaluation.make_reestimate(_CONFIG, self.model, mesh)
    other = jax.tree.map(lambda x: x + 3, self.stats)
    chex.assert_trees_all_equal(
      reestimate(self.params, self.stats, split),
      reestimate(self.params, other, split),
    )


if __name__ == '__main__':
  absltest.main()
