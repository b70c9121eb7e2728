from functools import partial

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
  loss,
)

from ong_jax import SparseMethod, Trainable, allocation, masks, method
from ong_jax.methods import str_

METHOD = str_(sparsity=0.75, start=-1.0)
KERNEL = np.repeat([0, 1], [24, 12])  # Of each weight.


@partial(jax.jit, static_argnums=(0, 2))
def train(method, trainable, num_steps):
  """Steps towards the target; trainables and states after each of them."""
  tx = method.transform(INNER)

  def step(carry, _):
    trainable, opt_state = carry

    def run(trainable):
      return loss(method.effective(trainable, opt_state, jax.random.key(0)))

    grads = jax.grad(run)(trainable)
    updates, opt_state = tx.update(grads, opt_state, trainable)
    carry = optax.apply_updates(trainable, updates), opt_state
    return carry, carry

  start = trainable, tx.init(trainable)
  return jax.lax.scan(step, start, length=num_steps)[1]


def sigmoid(x):
  return 1 / (1 + np.exp(-x))


def reference(num_steps):
  x, target, found = np.append(flat(PARAMS), [-1, -1]), flat(TARGET), []
  velocity = np.zeros(44)
  for _ in range(num_steps):
    w, theta = x[6:42], x[42:]
    threshold = sigmoid(theta)[KERNEL]
    alive = np.abs(w) > threshold
    effective = np.append(x[:6], np.sign(w) * (np.abs(w) - threshold) * alive)
    gradient = effective - target
    gradient[6:] *= alive
    per_theta = np.bincount(KERNEL, -gradient[6:] * np.sign(w))
    slope = sigmoid(theta) * (1 - sigmoid(theta))
    gradient = np.append(gradient, per_theta * slope) + DECAY * x
    velocity = MOMENTUM * velocity + gradient
    x = x - RATE * velocity
    found.append((x, velocity))
  return [np.stack(x) for x in zip(*found)]


class StrTest(parameterized.TestCase):
  def test_follows_numpy(self):
    trainable, states = train(METHOD, METHOD.init(PARAMS), 9)
    x, velocity = reference(9)
    np.testing.assert_allclose(flat_steps(trainable), x, rtol=1e-4, atol=1e-5)
    found = flat_steps(states[1][0].trace)
    np.testing.assert_allclose(found, velocity, rtol=1e-4, atol=1e-5)
    alive = np.abs(x[:, 6:42]) > sigmoid(x[:, 42:])[:, KERNEL]
    self.assertTrue(np.any(alive[-1] & ~alive[0]))
    self.assertTrue(np.any(~alive[-1] & alive[0]))

  def test_weights_shrink_by_the_threshold(self):
    weights = {'kernel': jnp.array([[-2.0, 0.25, 0.75, -0.5]])}
    trainable = str_(sparsity=None, start=0.0).init(weights)  # 1 / 2.
    chex.assert_trees_all_equal(trainable.extra, {'kernel': jnp.array(0.0)})
    for key in (jax.random.key(0), None):
      found = METHOD.effective(trainable, None, key)
      expected = {'kernel': jnp.array([[-1.5, 0, 0.25, 0]])}
      chex.assert_trees_all_equal(found, expected)

  def test_at_theta_minus_infinity_it_is_dense(self):
    trainable = str_(sparsity=None, start=-1e9).init(PARAMS)
    gradient = jax.grad(lambda t: loss(METHOD.effective(t, None, None)))
    zeros = {'a': {'bias': None, 'kernel': jnp.zeros([])}}
    zeros['b'] = {'kernel': jnp.zeros([])}
    expected = Trainable(jax.grad(loss)(PARAMS), zeros)
    chex.assert_trees_all_equal(gradient(trainable), expected)

  def test_at_a_very_low_theta_it_is_dense_training(self):
    low = str_(sparsity=None, start=-1e4)
    trainable, _ = train(low, low.init(PARAMS), 9)
    dense = SparseMethod(effective=method.dense)
    expected, _ = train(dense, PARAMS, 9)
    chex.assert_trees_all_close(trainable.params, expected, rtol=1e-5)

  def test_finishes_with_what_was_evaluated(self):
    found = str_(sparsity=None)
    trainable, state = train(METHOD, METHOD.init(PARAMS), 9)
    trainable = jax.tree.map(lambda x: x[-1], trainable)
    params, mask = found.finish(trainable, state)
    chex.assert_trees_all_equal(params, found.effective(trainable, state))
    self.assertIsNone(mask['a']['bias'])
    for name, theta in trainable.extra.items():
      w = np.asarray(trainable.params[name]['kernel'])
      alive = np.abs(w) > sigmoid(np.asarray(theta['kernel']))
      np.testing.assert_array_equal(mask[name]['kernel'], alive)
      np.testing.assert_array_equal(params[name]['kernel'] != 0, alive)

  @parameterized.named_parameters(
    ('prunes_more', 0.5, [[0, 1]], [[1, 1, 0, 0]]),
    ('prunes_as_it_is', 1 / 3, [[0, 1]], [[1, 1, 0, 1]]),
    ('fills_up_with_zeros', 0.0, [[1, 1]], [[1, 1, 1, 1]]),
  )
  def test_finish_keeps_an_exact_count_by_the_margin(self, sparsity, *expected):
    trainable = Trainable(
      {'a': {'kernel': jnp.array([[0.75, 2]])}}
      | {'b': {'kernel': jnp.array([[-0.75, 1, 0.25, 0.5]])}},
      {'a': {'kernel': jnp.array(40.0)}, 'b': {'kernel': jnp.array(-40.0)}},
    )  # |w| - 1 in `a`, |w| in `b`.
    params, mask = str_(sparsity=sparsity).finish(trainable, None)
    expected = [np.array(x, bool) for x in expected]
    found = [x['kernel'] for x in mask.values()]
    chex.assert_trees_all_equal(found, expected)
    np.testing.assert_array_equal(params['a']['kernel'], [[0, 1]])
    shrunk = np.array([[-0.75, 1, 0.25, 0.5]]) * expected[1]
    np.testing.assert_allclose(params['b']['kernel'], shrunk, rtol=1e-6)

  @parameterized.named_parameters(
    ('pooled', allocation.pooled, [9, 0]),
    ('by_leaf', allocation.uniform, [6, 3]),
  )
  def test_finish_is_exact_under_ties(self, allocate, counts):
    ones = jax.tree.map(jnp.ones_like, PARAMS)
    tied = str_(sparsity=0.75, allocate=allocate)
    params, mask = tied.finish(tied.init(ones), None)
    found = [np.count_nonzero(m) for m in jax.tree.leaves(mask)]
    self.assertEqual(found, counts)
    chex.assert_trees_all_equal(params, masks.apply_mask(params, mask))

  def test_refuses(self):
    with self.assertRaisesRegex(
      ValueError, r'^`sparsity` must be a number in \[0, 1\), .* got 1.$'
    ):
      str_(sparsity=1)
