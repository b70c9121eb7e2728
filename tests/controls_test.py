import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from ong_jax import controls


class ShuffleTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    rows = jnp.arange(400).reshape(20, 20)
    self.mask = {
      'a': {'kernel': rows < 100, 'bias': None},
      'b': {'kernel': rows < 40},
    }

  def test_as_many_are_kept_of_each_leaf_and_they_are_others(self):
    found = controls.shuffle(jax.random.key(0), self.mask)
    self.assertIsNone(found['a']['bias'])
    for name in 'a', 'b':
      before, after = self.mask[name]['kernel'], found[name]['kernel']
      self.assertEqual(int(after.sum()), int(before.sum()))
      self.assertEqual(after.dtype, jnp.bool_)
      share = (after & before).sum() / before.sum()
      self.assertLess(abs(float(share - before.mean())), 0.15)

  def test_follows_from_the_key_and_the_name_of_the_leaf(self):
    one, same, other = (
      controls.shuffle(jax.random.key(i), self.mask) for i in (0, 0, 1)
    )
    chex.assert_trees_all_equal(one, same)
    self.assertFalse(np.array_equal(one['a']['kernel'], other['a']['kernel']))
    alone = controls.shuffle(jax.random.key(0), {'b': self.mask['b']})
    np.testing.assert_array_equal(alone['b']['kernel'], one['b']['kernel'])

  def test_each_leaf_has_a_draw_of_its_own(self):
    found = controls.shuffle(jax.random.key(0), self.mask)
    # By one permutation, what was kept of both would be so again.
    one, other = found['a']['kernel'], found['b']['kernel']
    self.assertTrue((other & ~one).any())

  def test_is_split_as_it_was_and_the_same_on_eight_devices(self):
    mesh = jax.make_mesh((8,), ('model',), axis_types=(AxisType.Auto,))
    sharding = NamedSharding(mesh, P(None, 'model'))
    mask = {'kernel': jnp.arange(64 * 48).reshape(64, 48) < 500}
    found = controls.shuffle(jax.random.key(0), jax.device_put(mask, sharding))
    self.assertEqual(found['kernel'].sharding, sharding)
    chex.assert_trees_all_equal(
      found, controls.shuffle(jax.random.key(0), mask)
    )

  def test_weights_are_no_mask(self):
    with self.assertRaisesRegex(TypeError, "'kernel' must be bool"):
      controls.shuffle(jax.random.key(0), {'kernel': jnp.ones((2, 2))})
    with self.assertRaisesRegex(TypeError, 'key'):
      controls.shuffle(0, self.mask)


if __name__ == '__main__':
  absltest.main()
