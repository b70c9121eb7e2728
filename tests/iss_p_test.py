import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl.testing import absltest, parameterized
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
from ong_jax.methods import iss_p

INNERS = (
  ('momentum', INNER),
  ('adamw', optax.adamw(0.1, weight_decay=0.3)),
  ('lion', optax.lion(0.05, weight_decay=0.3)),
)


def reference(shrink, num_steps):
  """One ranking over all leaves; keeps 9 of 36."""
  w, target, found = flat(PARAMS), flat(TARGET), []
  velocity = np.zeros(42)
  for _ in range(num_steps):
    velocity = MOMENTUM * velocity + w - target + DECAY * w
    w = w - RATE * velocity
    w = np.where(largest(np.abs(w), 9), w, (1 - shrink) * w)
    found.append((w, velocity))
  return [np.stack(x) for x in zip(*found)]


class IssPTest(parameterized.TestCase):
  @parameterized.parameters(0.0, 0.1, 1.0)
  def test_follows_numpy(self, shrink):
    own = iss_p(sparsity=0.75, shrink=shrink, allocate=allocation.pooled)
    params, states = train(own, PARAMS, 9)
    w, velocity = reference(shrink, 9)
    np.testing.assert_allclose(flat_steps(params), w, rtol=1e-4, atol=1e-5)
    found = flat_steps(states[0][1][0].trace)
    np.testing.assert_allclose(found, velocity, rtol=1e-4, atol=1e-5)

  def test_by_default_a_twentieth_is_lost_in_each_layer(self):
    tx = iss_p(sparsity=0.75).transform(optax.identity())
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    updates, _ = tx.update(zeros, tx.init(PARAMS), PARAMS)
    expected = jax.tree.map(lambda p: -0.05 * p, PARAMS)
    found = {k: np.count_nonzero(u['kernel']) for k, u in updates.items()}
    self.assertEqual(found, {'a': 18, 'b': 9})
    np.testing.assert_array_equal(updates['a']['bias'], 0)
    for k in 'ab':
      u, e = updates[k]['kernel'], expected[k]['kernel']
      np.testing.assert_allclose(u[u != 0], e[u != 0], rtol=1e-6)
      self.assertLess(np.abs(e[u != 0]).max(), np.abs(e[u == 0]).min())

  @parameterized.named_parameters(*INNERS)
  def test_what_inner_does_is_left_alone(self, inner):
    grads = jax.tree.map(lambda p: p[::-1], PARAMS)
    tx = iss_p(sparsity=0.75, shrink=0.5).transform(inner)
    state, plain = tx.init(PARAMS), inner.init(PARAMS)
    for _ in range(2):
      updates, state = tx.update(grads, state, PARAMS)
      expected, plain = inner.update(grads, plain, PARAMS)
    chex.assert_trees_all_equal(state[0], plain)
    u, e, w = flat(updates), flat(expected), flat(PARAMS)
    keeps = np.ones(42, bool)
    for part, k in ((slice(6, 30), 6), (slice(30, 42), 3)):
      x = np.abs((w + e)[part])
      keeps[part] = x >= np.sort(x)[-k]
    np.testing.assert_array_equal(u[keeps], e[keeps])
    shrunk = 0.5 * (w + e)[~keeps]
    np.testing.assert_allclose((w + u)[~keeps], shrunk, rtol=1e-5, atol=1e-6)

  @parameterized.named_parameters(*INNERS)
  def test_shrinking_by_all_is_a_projection(self, inner):
    own = iss_p(sparsity=0.75, shrink=1)
    params, _ = train(own, PARAMS, 6, TARGET, inner)
    found = [
      np.count_nonzero(x['kernel'].reshape(6, -1), axis=1).tolist()
      for x in params.values()
    ]
    self.assertEqual(found, [[6] * 6, [3] * 6])

  @parameterized.named_parameters(*INNERS)
  def test_shrinking_by_nothing_is_dense_training(self, inner):
    params, states = train(
      iss_p(sparsity=0.75, shrink=0), PARAMS, 6, TARGET, inner
    )
    dense = SparseMethod(effective=method.dense)
    expected = train(dense, PARAMS, 6, TARGET, inner)
    chex.assert_trees_all_close(
      (params, states[0]), expected, rtol=1e-5, atol=1e-6
    )
    tx = iss_p(sparsity=0.75, shrink=0).transform(optax.identity())
    updates, _ = tx.update(TARGET, tx.init(PARAMS), PARAMS)
    chex.assert_trees_all_equal(updates, TARGET)  # To the bit.

  def test_what_is_small_after_the_update_shrinks(self):
    tx = iss_p(sparsity=0.5, shrink=0.5).transform(optax.sgd(1.0))
    params = {'kernel': jnp.array([[1.0, 2.0, 3.0, 4.0]])}
    grads = {'kernel': jnp.array([[-8.0, 1.0, -2.0, 0.0]])}  # To 9, 1, 5, 4.
    updates, _ = tx.update(grads, tx.init(params), params)
    found = optax.apply_updates(params, updates)
    np.testing.assert_array_equal(found['kernel'], [[9, 0.5, 5, 2]])

  def test_nan_stays_where_it_is_and_is_pruned(self):
    own = iss_p(sparsity=0.5, shrink=0.5)
    tx = own.transform(optax.sgd(1.0))
    params = {'kernel': jnp.array([[4.0, 3.0, 2.0, 1.0]])}
    grads = {'kernel': jnp.array([[jnp.nan, 0.0, 0.0, 0.0]])}
    updates, state = tx.update(grads, tx.init(params), params)
    params = optax.apply_updates(params, updates)
    np.testing.assert_array_equal(params['kernel'], [[np.nan, 3, 2, 0.5]])
    finished, _ = own.finish(params, state)
    np.testing.assert_array_equal(finished['kernel'], [[0, 3, 2, 0]])

  def test_the_network_stays_dense(self):
    own = iss_p(sparsity=0.75)
    params, state = jax.tree.map(lambda x: x[-1], train(own, PARAMS, 9))
    self.assertTrue(np.all(flat(params) != 0))
    for key in (jax.random.key(0), None):
      chex.assert_trees_all_equal(own.effective(params, state, key), params)

  @parameterized.named_parameters(
    ('pooled', allocation.pooled, [9, 0]),
    ('by_leaf', allocation.uniform, [6, 3]),
  )
  def test_finish_keeps_an_exact_count_of_the_largest(self, allocate, counts):
    own = iss_p(sparsity=0.75, allocate=allocate)
    params, mask = own.finish(PARAMS, None)
    chex.assert_trees_all_equal(params, masks.apply_mask(PARAMS, mask))
    if allocate is allocation.pooled:
      expected = largest(np.abs(flat(PARAMS)), 9)
      np.testing.assert_array_equal(flat(params), flat(PARAMS) * expected)
    _, mask = own.finish(jax.tree.map(jnp.ones_like, PARAMS), None)
    found = [np.count_nonzero(m) for m in jax.tree.leaves(mask)]
    self.assertEqual(found, counts)

  @parameterized.named_parameters(
    ('sparsity', {'sparsity': 1}, '^`sparsity` must be a number .* got 1.$'),
    ('above', {'shrink': 1.1}, r'^`shrink` must lie in \[0, 1\]; got 1.1.$'),
    ('below', {'shrink': -0.1}, r'^`shrink` must lie in \[0, 1\]; got -0.1.$'),
    ('nan', {'shrink': np.nan}, r'^`shrink` must lie in \[0, 1\]; got nan.$'),
    ('text', {'shrink': '5%'}, r"^`shrink` must lie in \[0, 1\]; got '5%'.$"),
  )
  def test_refuses(self, bad, message):
    with self.assertRaisesRegex(ValueError, message):
      iss_p(**{'sparsity': 0.5} | bad)


if __name__ == '__main__':
  absltest.main()
