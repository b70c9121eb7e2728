import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest

from experiments import inputs
from experiments.config import Config


class BatchIdsTest(absltest.TestCase):
  def ids(self, step, seed=0):
    key = jax.random.key(seed)
    return inputs.batch_ids(key, step, num_images=23, batch_size=4).tolist()

  def test_an_epoch_sees_no_image_twice(self):
    for epoch in range(3):
      seen = sum((self.ids(5 * epoch + i) for i in range(5)), [])
      self.assertLen(set(seen), 20)

  def test_epochs_differ(self):
    self.assertNotEqual(self.ids(0), self.ids(5))

  def test_seeds_differ(self):
    self.assertNotEqual(self.ids(0), self.ids(0, seed=1))

  def test_a_traced_step_is_the_same(self):
    traced = jax.jit(
      lambda step: inputs.batch_ids(jax.random.key(0), step, 23, 4)
    )
    self.assertEqual(traced(7).tolist(), self.ids(7))


class AugmentTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    rng = np.random.default_rng(0)
    self.images = rng.integers(1, 256, (64, 32, 32, 3), np.uint8)
    self.out = np.asarray(inputs.augment(jax.random.key(0), self.images))

  def test_every_image_is_a_crop_perhaps_flipped(self):
    padded = np.pad(self.images, ((0, 0), (4, 4), (4, 4), (0, 0)))
    corners, flips = set(), 0
    for source, out in zip(padded, self.out):
      found = [
        (y, x, flip)
        for y in range(9)
        for x in range(9)
        for flip in (False, True)
        if (
          source[y : y + 32, x : x + 32][:, :: -1 if flip else 1] == out
        ).all()
      ]
      self.assertLen(found, 1)
      corners.add(found[0][:2])
      flips += found[0][2]
    self.assertGreater(len(corners), 30)
    self.assertBetween(flips, 16, 48)  # 64 fair coins: five sigmas at most.

  def test_keeps_the_type(self):
    self.assertEqual(self.out.dtype, np.uint8)

  def test_follows_the_key(self):
    again = np.asarray(inputs.augment(jax.random.key(0), self.images))
    other = np.asarray(inputs.augment(jax.random.key(1), self.images))
    np.testing.assert_array_equal(again, self.out)
    self.assertTrue((other != self.out).any())


class NormalizeTest(absltest.TestCase):
  def test_by_hand(self):
    config = Config(image_mean=(0.5, 0.0, 1.0), image_std=(0.5, 2.0, 0.25))
    pixels = jnp.array([[255, 0, 51]], jnp.uint8)
    found = inputs.normalize(config, pixels)
    np.testing.assert_allclose(found, [[1.0, 0.0, -3.2]], rtol=1e-6)
    self.assertEqual(found.dtype, jnp.float32)


if __name__ == '__main__':
  absltest.main()
