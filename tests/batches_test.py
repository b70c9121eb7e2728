import jax.numpy as jnp
from absl.testing import absltest, parameterized

from ong_jax import batches


class BatchesTest(parameterized.TestCase):
  def test_half_precision_is_averaged_in_single(self):
    trees = ({'w': jnp.array(1.0, jnp.float16)} for _ in range(4_000))
    found = batches.mean_over_batches(trees)['w']
    self.assertEqual(found.dtype, jnp.float32)
    self.assertEqual(found, 1)  # A sum of halves stops at 2,048.

  def test_there_must_be_one(self):
    with self.assertRaisesRegex(ValueError, 'at least one batch'):
      batches.mean_over_batches([])

  @parameterized.parameters(
    (iter(()), r'Pass `list\(batches\)`'),
    (3, r'got int. Pass `list\(batches\)`'),
    ({'x': jnp.ones(2)}, r'got dict, .* Pass `\[batch\]`'),
    ((jnp.ones(2), jnp.ones(2)), r'got tuple, .* Pass `\[batch\]`'),
    (jnp.ones(2), r'looks like a single one. Pass `\[batch\]`'),
  )
  def test_refuses_what_is_no_list(self, given, message):
    with self.assertRaisesRegex(TypeError, message):
      batches.check_batches(given)


if __name__ == '__main__':
  absltest.main()
