import jax
import jax.numpy as jnp
import optax
from absl.testing import absltest
from jax.sharding import PartitionSpec as P

import ong_jax
from experiments import sharding


class ShardingTest(absltest.TestCase):
  def test_tests_see_eight_devices(self):
    self.assertEqual(jax.device_count(), 8)

  def test_masks_and_moments_are_split_like_their_params(self):
    mesh = sharding.make_mesh(model_parallel=2, batch_size=64)
    params = {'fc': {'kernel': jnp.ones((4, 6)), 'bias': jnp.ones(6)}}
    mask = ong_jax.magnitude(sparsity=0.5)(params)
    tx = ong_jax.masked_transform(optax.adam(0.1), mask)
    specs = jax.tree.map(
      lambda s: s.spec, sharding.shardings(mesh, tx.init(params))
    )
    expected = P(None, 'model')
    self.assertEqual(specs.mask['fc']['kernel'], expected)
    self.assertEqual(specs.inner_state[0].mu['fc']['kernel'], expected)
    self.assertEqual(specs.inner_state[0].nu['fc']['kernel'], expected)
    self.assertEqual(specs.inner_state[0].mu['fc']['bias'], P())

  def test_replicates_a_kernel_that_cannot_be_divided(self):
    mesh = sharding.make_mesh(model_parallel=4, batch_size=64)
    found = sharding.shardings(mesh, {'kernel': jnp.ones((4, 6))})
    self.assertEqual(found['kernel'].spec, P())

  def test_refuses_a_batch_that_the_mesh_does_not_divide(self):
    with self.assertRaisesRegex(
      ValueError, '`batch_size`=100 must be a multiple of 8'
    ):
      sharding.make_mesh(model_parallel=1, batch_size=100)

  def test_refuses_more_model_parallelism_than_devices(self):
    with self.assertRaisesRegex(
      ValueError, '`model_parallel`=3 must divide the number of devices, 8'
    ):
      sharding.make_mesh(model_parallel=3, batch_size=64)


if __name__ == '__main__':
  absltest.main()
