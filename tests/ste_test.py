import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl.testing import parameterized
from toy_problem import (
  DECAY,
  INNER,
  MOMENTUM,
  PARAMS,
  RATE,
  TARGET,
  flat,
  flat_steps,
  largest,
  train,
)

from ong_jax import SparseMethod, allocation, masks, method
from ong_jax.methods import dnw

METHOD = dnw(sparsity=0.75)  # Keeps 9 of 36.


def reference(num_steps):
  w, target, found = flat(PARAMS), flat(TARGET), []
  velocity = np.zeros(42)
  for _ in range(num_steps):
    effective = w * largest(np.abs(w), 9)
    velocity = MOMENTUM * velocity + effective - target + DECAY * w
    w = w - RATE * velocity
    found.append((w, velocity, largest(np.abs(w), 9)[6:]))
  return [np.stack(x) for x in zip(*found)]


class DnwTest(parameterized.TestCase):
  def test_follows_numpy(self):
    params, states = train(METHOD, PARAMS, 9)
    w, velocity, mask = reference(9)
    np.testing.assert_array_equal(flat_steps(states.mask), mask)
    np.testing.assert_allclose(flat_steps(params), w, rtol=1e-4, atol=1e-5)
    found = flat_steps(states.inner_state[1][0].trace)
    np.testing.assert_allclose(found, velocity, rtol=1e-4, atol=1e-5)
    self.assertTrue(np.any(mask[1:] & ~mask[:-1]))

  def test_at_sparsity_0_it_is_dense_training(self):
    params, states = train(dnw(sparsity=0), PARAMS, 9)
    dense = SparseMethod(effective=method.dense)
    expected, inner_states = train(dense, PARAMS, 9)
    chex.assert_trees_all_equal(params, expected)
    chex.assert_trees_all_equal(states.inner_state, inner_states)

  def test_the_first_step_is_sparse(self):
    state = METHOD.transform(INNER).init(PARAMS)
    mask = largest(np.abs(flat(PARAMS)), 9)
    effective = flat(METHOD.effective(PARAMS, state))
    np.testing.assert_array_equal(effective, flat(PARAMS) * mask)

  @parameterized.named_parameters(
    ('pooled', allocation.pooled, 9, 0), ('by_leaf', allocation.uniform, 6, 3)
  )
  def test_counts_are_exact_under_ties(self, allocate, in_a, in_b):
    equal = dnw(sparsity=0.75, allocate=allocate)
    tx, ones = equal.transform(INNER), jax.tree.map(jnp.ones_like, PARAMS)
    first = tx.init(ones)
    updates, second = jax.jit(tx.update)(ones, first, ones)
    shrunk = optax.apply_updates(ones, updates)
    for params, state in ((ones, first), (shrunk, second)):
      for tree in equal.finish(params, state):
        found = [np.count_nonzero(x['kernel']) for x in tree.values()]
        self.assertEqual(found, [in_a, in_b])

  def test_finishes_with_what_was_evaluated(self):
    params, state = jax.tree.map(lambda x: x[-1], train(METHOD, PARAMS, 9))
    finished, mask = METHOD.finish(params, state)
    chex.assert_trees_all_equal(mask, state.mask)
    chex.assert_trees_all_equal(finished, METHOD.effective(params, state))
    chex.assert_trees_all_equal(finished, masks.apply_mask(params, mask))

  def test_refuses(self):
    with self.assertRaisesRegex(
      ValueError, r'^`sparsity` must be a number in \[0, 1\), .* got 1.5.$'
    ):
      dnw(sparsity=1.5)
