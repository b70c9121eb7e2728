import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl.testing import parameterized
from toy_problem import (
  DECAY,
  MOMENTUM,
  PARAMS,
  RATE,
  TARGET,
  flat,
  flat_steps,
  largest,
  train,
)

from ong_jax import allocation, masks
from ong_jax.methods import lc

METHOD = lc(sparsity=0.75, weight_decay=DECAY)  # Spares 9 of 36.


def reference(num_steps):
  w, target, found = flat(PARAMS), flat(TARGET), []
  velocity = np.zeros(42)
  for _ in range(num_steps):
    decays = ~largest(np.abs(w), 9)
    decays[:6] = True  # Biases.
    velocity = MOMENTUM * velocity + w - target + DECAY * w * decays
    w = w - RATE * velocity
    found.append((w, velocity))
  return [np.stack(x) for x in zip(*found)]


class LcTest(parameterized.TestCase):
  def test_follows_numpy(self):
    params, states = train(METHOD, PARAMS, 9)
    w, velocity = reference(9)
    np.testing.assert_allclose(flat_steps(params), w, rtol=1e-4, atol=1e-5)
    found = flat_steps(states[1][1][0].trace)
    np.testing.assert_allclose(found, velocity, rtol=1e-4, atol=1e-5)

  @parameterized.named_parameters(
    ('pooled', allocation.pooled), ('by_leaf', allocation.uniform)
  )
  def test_decay_is_cancelled_exactly_on_the_largest(self, allocate):
    method = lc(sparsity=0.75, weight_decay=DECAY, allocate=allocate)
    tx = method.transform(optax.add_decayed_weights(DECAY))
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    updates, _ = tx.update(zeros, tx.init(PARAMS), PARAMS)
    _, mask = method.finish(PARAMS, None)  # The same rule.
    expected = jax.tree.map(
      lambda p, m: DECAY * p if m is None else jnp.where(m, 0, DECAY * p),
      PARAMS,
      mask,
    )
    chex.assert_trees_all_equal(updates, expected)
    found = [np.count_nonzero(u == 0) for u in jax.tree.leaves(updates)]
    self.assertEqual(sum(found), 9)
    if allocate is allocation.uniform:
      self.assertEqual(found, [0, 6, 3])

  def test_without_decay_it_is_dense_training(self):
    grads = jax.tree.map(lambda p: p[::-1], PARAMS)
    tx = lc(sparsity=0.75, weight_decay=0).transform(optax.identity())
    updates, _ = tx.update(grads, tx.init(PARAMS), PARAMS)
    chex.assert_trees_all_equal(updates, grads)

  def test_the_network_stays_dense(self):
    params, state = jax.tree.map(lambda x: x[-1], train(METHOD, PARAMS, 9))
    for key in (jax.random.key(0), None):
      chex.assert_trees_all_equal(METHOD.effective(params, state, key), params)

  @parameterized.named_parameters(
    ('pooled', allocation.pooled, [9, 0]),
    ('by_leaf', allocation.uniform, [6, 3]),
  )
  def test_finish_keeps_an_exact_count_of_the_largest(self, allocate, counts):
    method = lc(sparsity=0.75, weight_decay=DECAY, allocate=allocate)
    params, mask = method.finish(PARAMS, None)
    chex.assert_trees_all_equal(params, masks.apply_mask(PARAMS, mask))
    self.assertEqual(sum(np.count_nonzero(m) for m in jax.tree.leaves(mask)), 9)
    if allocate is allocation.pooled:
      expected = largest(np.abs(flat(PARAMS)), 9)
      np.testing.assert_array_equal(flat(params), flat(PARAMS) * expected)
    _, mask = method.finish(jax.tree.map(jnp.ones_like, PARAMS), None)
    found = [np.count_nonzero(m) for m in jax.tree.leaves(mask)]
    self.assertEqual(found, counts)

  @parameterized.named_parameters(
    ('sparsity', {'sparsity': '0.9'}, "^`sparsity` must be .* got '0.9'.$"),
    (
      'negative',
      {'weight_decay': -0.1},
      r'^`weight_decay` must lie in \[0, inf\); got -0.1.$',
    ),
    (
      'nan',
      {'weight_decay': np.nan},
      r'^`weight_decay` must lie in \[0, inf\); got nan.$',
    ),
  )
  def test_refuses(self, bad, message):
    with self.assertRaisesRegex(ValueError, message):
      lc(**{'sparsity': 0.5, 'weight_decay': 0.1} | bad)
