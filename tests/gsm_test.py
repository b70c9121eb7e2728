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
from ong_jax.methods import gsm

METHOD = gsm(sparsity=0.75)  # Keeps 9 of 36.


def reference(num_steps):
  w, target, found = flat(PARAMS), flat(TARGET), []
  velocity = np.zeros(42)
  for _ in range(num_steps):
    gradient = w - target
    active = largest(np.abs(w * gradient), 9)
    velocity = MOMENTUM * velocity + gradient * active + DECAY * w
    w = w - RATE * velocity
    found.append((w, velocity))
  return [np.stack(x) for x in zip(*found)]


class GsmTest(parameterized.TestCase):
  def test_follows_numpy(self):
    params, states = train(METHOD, PARAMS, 9)
    w, velocity = reference(9)
    np.testing.assert_allclose(flat_steps(params), w, rtol=1e-4, atol=1e-5)
    found = flat_steps(states[1][1][0].trace)
    np.testing.assert_allclose(found, velocity, rtol=1e-4, atol=1e-5)

  @parameterized.named_parameters(
    ('pooled', allocation.pooled, 0, 9), ('by_leaf', allocation.uniform, 6, 3)
  )
  def test_ranks_weights_alone_and_biases_get_their_gradient(
    self, allocate, in_a, in_b
  ):
    # By |w g|: 36 weights of 2, of which 12 of `b` have 20, biases 1000 or 0.
    params = jax.tree.map(lambda p: jnp.full_like(p, 2), PARAMS)
    grads = jax.tree.map(jnp.ones_like, PARAMS)
    grads['b']['kernel'] = jnp.full((3, 4), 10.0)
    for bias in (500.0, 0.0):
      params['a']['bias'] = jnp.full(6, bias)
      tx = gsm(sparsity=0.75, allocate=allocate).transform(optax.identity())
      updates, _ = tx.update(grads, tx.init(params), params)
      chex.assert_trees_all_equal(updates['a']['bias'], grads['a']['bias'])
      found = [np.count_nonzero(x['kernel']) for x in updates.values()]
      self.assertEqual(found, [in_a, in_b])

  def test_the_product_decides(self):
    params = {'kernel': jnp.array([[1.0, -3, 5, 2]])}
    grads = {'kernel': jnp.array([[-6.0, 3, 1, 2]])}  # 6, 9, 5, 4.
    tx = gsm(sparsity=0.5).transform(optax.sgd(1.0))
    updates, _ = tx.update(grads, tx.init(params), params)
    chex.assert_trees_all_equal(
      updates, {'kernel': jnp.array([[6.0, -3, 0, 0]])}
    )

  def test_the_network_stays_dense(self):
    params, state = jax.tree.map(lambda x: x[-1], train(METHOD, PARAMS, 9))
    for key in (jax.random.key(0), None):
      chex.assert_trees_all_equal(METHOD.effective(params, state, key), params)

  @parameterized.named_parameters(
    ('pooled', allocation.pooled, [9, 0]),
    ('by_leaf', allocation.uniform, [6, 3]),
  )
  def test_finish_keeps_an_exact_count_of_the_largest(self, allocate, counts):
    method = gsm(sparsity=0.75, allocate=allocate)
    params, mask = method.finish(PARAMS, None)
    chex.assert_trees_all_equal(params, masks.apply_mask(PARAMS, mask))
    self.assertEqual(sum(np.count_nonzero(m) for m in jax.tree.leaves(mask)), 9)
    if allocate is allocation.pooled:
      expected = largest(np.abs(flat(PARAMS)), 9)
      np.testing.assert_array_equal(flat(params), flat(PARAMS) * expected)
    _, mask = method.finish(jax.tree.map(jnp.ones_like, PARAMS), None)
    found = [np.count_nonzero(m) for m in jax.tree.leaves(mask)]
    self.assertEqual(found, counts)

  def test_refuses(self):
    with self.assertRaisesRegex(
      ValueError, r'^`sparsity` must be a number in \[0, 1\), .* got 1.$'
    ):
      gsm(sparsity=1)
