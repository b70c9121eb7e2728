import jax
import jax.numpy as jnp
from absl.testing import absltest, parameterized
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import ong_jax
from experiments import sharding
from tests.collectives import holding_whole


def _in_place(part):
  """A part of the columns, where they are in the whole."""
  whole = jnp.zeros((20, 28))
  start = jax.lax.axis_index('model') * part.shape[1]
  return jax.lax.dynamic_update_slice_in_dim(whole, part, start, axis=1)


def _passed_around(part):
  """All parts side by side, each passed on from device to device."""
  parts = [part]
  for _ in range(3):
    ring = [(i, (i + 1) % 4) for i in range(4)]
    parts.append(jax.lax.ppermute(parts[-1], 'model', ring))
  return jnp.concatenate(parts, axis=1)


class HoldingWholeTest(parameterized.TestCase):
  """Programs that put a kernel together are found, however they do it."""

  def setUp(self):
    super().setUp()
    self.mesh = sharding.make_mesh(4, batch_size=8)
    weights = {'kernel': jnp.ones((20, 28))}
    self.splits = sharding.shardings(self.mesh, weights)
    self.weights = jax.device_put(weights, self.splits)

  def found(self, function):
    compiled = jax.jit(function).lower(self.weights).compile()
    return holding_whole(compiled, self.weights)

  def test_what_stays_apart_is_left_alone(self):
    self.assertEmpty(self.found(ong_jax.magnitude(sparsity=0.5)))

  def test_a_constraint_and_a_sort_gather(self):
    everywhere = NamedSharding(self.mesh, P())
    constrained = self.found(
      lambda w: jax.lax.with_sharding_constraint(w['kernel'], everywhere) + 1
    )
    for found in (constrained, self.found(ong_jax.lamp(sparsity=0.5))):
      self.assertIn(' all-gather(', '\n'.join(found))

  def test_a_mask_that_is_not_split_is_gathered(self):
    prune = ong_jax.magnitude(sparsity=0.5)
    everywhere = NamedSharding(self.mesh, P())
    program = jax.jit(prune, out_shardings={'kernel': everywhere})
    compiled = program.lower(self.weights).compile()
    found = holding_whole(compiled, self.weights)
    self.assertIn(' all-gather(', '\n'.join(found))

  @parameterized.named_parameters(
    ('by_sums', lambda w: jax.lax.psum(_in_place(w), 'model'), 'all-reduce'),
    ('by_turns', _passed_around, 'collective-permute'),
  )
  def test_other_ways_to_gather(self, gather, name):
    program = jax.shard_map(
      gather,
      mesh=self.mesh,
      in_specs=P(None, 'model'),
      out_specs=P(),
      check_vma=False,
    )
    compiled = jax.jit(program).lower(self.weights['kernel']).compile()
    self.assertIn(name, compiled.as_text())
    self.assertNotIn('all-gather', compiled.as_text())
    self.assertNotEmpty(holding_whole(compiled, self.weights))


if __name__ == '__main__':
  absltest.main()
