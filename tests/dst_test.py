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

from ong_jax import Trainable, allocation, masks
from ong_jax.methods import dst

METHOD = dst(sparsity=0.75, penalty=0.5)
UNIT = np.append(np.tile(np.arange(6), 4), 6 + np.tile(np.arange(4), 3))


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


def slope_of(x):
  far = 0.4 * (np.abs(x) <= 1)
  return np.where(np.abs(x) <= 0.4, 2 - 4 * np.abs(x), far)


def reference(num_steps):
  x, target, found = np.append(flat(PARAMS), np.zeros(10)), flat(TARGET), []
  velocity = np.zeros(52)
  for _ in range(num_steps):
    w, t = x[6:42], x[42:]
    margin = np.abs(w) - t[UNIT]
    alive = margin > 0
    gradient = np.append(x[:6], w * alive) - target
    through = gradient[6:] * w * slope_of(margin)
    gradient[6:] = gradient[6:] * alive + through * np.sign(w)
    per_unit = -np.bincount(UNIT, through) - 0.5 * np.exp(-t)
    gradient = np.append(gradient + DECAY * x[:42], per_unit)
    velocity = MOMENTUM * velocity + gradient
    x = x - RATE * velocity
    found.append((x, velocity))
  return [np.stack(x) for x in zip(*found)]


def one_kernel(w, t):
  return Trainable({'kernel': jnp.asarray(w)}, {'kernel': jnp.asarray(t)})


class DstTest(parameterized.TestCase):
  def test_follows_numpy(self):
    trainable, states = train(METHOD, METHOD.init(PARAMS), 9)
    x, velocity = reference(9)
    np.testing.assert_allclose(flat_steps(trainable), x, rtol=1e-3, atol=1e-4)
    found = flat_steps(states[1][1][0].trace)
    np.testing.assert_allclose(found, velocity, rtol=1e-3, atol=1e-4)
    alive = np.abs(x[:, 6:42]) > x[:, 42:][:, UNIT]
    self.assertTrue(np.any(alive[1:] & ~alive[:-1]))
    self.assertTrue(np.any(~alive[1:] & alive[:-1]))

  def test_thresholds_start_at_0_one_for_each_unit(self):
    expected = {'a': {'bias': None, 'kernel': jnp.zeros(6)}}
    expected['b'] = {'kernel': jnp.zeros(4)}
    chex.assert_trees_all_equal(METHOD.init(PARAMS).extra, expected)

  @parameterized.parameters(
    # w, t, and the estimate of the derivative of H at |w| - t.
    (1.0, 1.0, 2.0),
    (1.25, 1.0, 1.0),
    (0.75, 1.0, 1.0),
    (-1.25, 1.0, 1.0),
    (1.5, 1.0, 0.4),
    (0.5, 1.0, 0.4),
    (2.0, 1.0, 0.4),
    (1.0, 2.0, 0.4),
    (2.125, 1.0, 0.0),
    (1.0, 2.125, 0.0),
  )
  def test_estimator(self, w, t, slope):
    def run(trainable):
      return METHOD.effective(trainable, None)['kernel'][0, 0]

    found, grads = jax.value_and_grad(run)(one_kernel([[w]], [t]))
    alive = abs(w) > t
    self.assertEqual(found, w * alive)
    expected = one_kernel([[alive + abs(w) * slope]], [-w * slope])
    chex.assert_trees_all_close(grads, expected, rtol=1e-6)

  def test_the_edge_of_the_steep_part(self):
    values = jnp.array([[0.375, 0.4, 0.40625]])
    slope = jax.grad(lambda t: METHOD.effective(t, None)['kernel'].sum())(
      one_kernel(values, jnp.zeros(3))
    ).extra['kernel']
    np.testing.assert_allclose(-slope / values[0], [0.5, 0.4, 0.4], rtol=1e-6)

  @parameterized.named_parameters(
    # A step of +1 on all thresholds; 100 or 200 weights in 4 units.
    ('at_1_percent', 25, 1, [0, 0, 0, 0]),
    ('above', 25, 2, [1.5, 1.5, 1.5, 1.5]),
    ('far_above', 25, 100, [1.5, 1.5, 1.5, 1.5]),
    ('below', 50, 1, [0, 0, 0, 0]),
    ('none_left', 25, 0, [0, 0, 0, 0]),
  )
  def test_thresholds_restart_where_a_kernel_is_empty(
    self, fan_in, num_alive, expected
  ):
    tx = dst(sparsity=None, penalty=0).transform(optax.sgd(1.0))
    before = jnp.full((fan_in, 4), 2.0)  # All alive.
    after = jnp.where(jnp.arange(4 * fan_in) < num_alive, -2.0, 1.0)
    params = {'a': {'kernel': before}, 'b': {'kernel': before}}
    extra = {'a': {'kernel': jnp.full(4, 0.5)}, 'b': {'kernel': jnp.zeros(4)}}
    trainable = Trainable(params, extra)
    grads = jax.tree.map(lambda x: -jnp.ones_like(x), trainable)
    grads.params['a']['kernel'] = before - after.reshape(fan_in, 4)
    updates, _ = tx.update(grads, tx.init(trainable), trainable)
    found = optax.apply_updates(trainable, updates).extra
    np.testing.assert_array_equal(found['a']['kernel'], expected)
    np.testing.assert_array_equal(found['b']['kernel'], [1, 1, 1, 1])

  def test_finishes_with_what_was_evaluated(self):
    found = dst(sparsity=None)
    trainable, _ = train(METHOD, METHOD.init(PARAMS), 9)
    trainable = jax.tree.map(lambda x: x[-1], trainable)
    params, mask = found.finish(trainable, None)
    chex.assert_trees_all_equal(params, METHOD.effective(trainable, None))
    chex.assert_trees_all_equal(
      params, masks.apply_mask(trainable.params, mask)
    )
    for name, t in trainable.extra.items():
      w = np.asarray(trainable.params[name]['kernel'])
      np.testing.assert_array_equal(mask[name]['kernel'], abs(w) > t['kernel'])

  @parameterized.named_parameters(
    # Margins are -1, 1, -0.5 and 0.5, 0, 0.25: three survive.
    ('prunes_more', 2 / 3, [[0, 1, 0], [1, 0, 0]]),
    ('prunes_as_it_is', 0.5, [[0, 1, 0], [1, 0, 1]]),
    ('fills_up_by_the_margin', 1 / 3, [[0, 1, 0], [1, 1, 1]]),
    ('fills_up_again', 1 / 6, [[0, 1, 1], [1, 1, 1]]),
    ('keeps_all', 0, [[1, 1, 1], [1, 1, 1]]),
  )
  def test_finish_keeps_an_exact_count(self, sparsity, expected):
    w = jnp.array([[1.0, -3, 1.5], [2.5, 2, -2.25]])
    trainable = one_kernel(w, jnp.array([2.0, 2, 2]))
    params, mask = dst(sparsity=sparsity).finish(trainable, None)
    np.testing.assert_array_equal(mask['kernel'], expected)
    alive = np.array([[0, 1, 0], [1, 0, 1]])
    np.testing.assert_array_equal(params['kernel'], w * alive * mask['kernel'])

  @parameterized.named_parameters(
    ('by_size_and_not_by_margin', [2.5, 0.0, 2.0], 2 / 3, [[1, 0, 0]]),
    ('before_larger_ones_that_did_not', [3.5, 0.0, 0.5], 1 / 3, [[0, 1, 1]]),
  )
  def test_survivors_are_ranked(self, thresholds, sparsity, expected):
    trainable = one_kernel([[3.0, 2.0, 1.0]], thresholds)
    _, mask = dst(sparsity=sparsity).finish(trainable, None)
    np.testing.assert_array_equal(mask['kernel'], expected)

  @parameterized.named_parameters(
    ('pooled', allocation.pooled, [9, 0]),
    ('by_leaf', allocation.uniform, [6, 3]),
  )
  def test_finish_is_exact_under_ties(self, allocate, counts):
    ones = jax.tree.map(jnp.ones_like, PARAMS)
    tied = dst(sparsity=0.75, allocate=allocate)
    for t in (0.0, 2.0):  # All survive, or none.
      trainable = tied.init(ones)
      extra = jax.tree.map(lambda x, t=t: x + t, trainable.extra)
      _, mask = tied.finish(trainable._replace(extra=extra), None)
      found = [np.count_nonzero(m) for m in jax.tree.leaves(mask)]
      self.assertEqual(found, counts)

  @parameterized.named_parameters(
    ('sparsity', {'sparsity': 95}, '^`sparsity` must be .* got 95.$'),
    (
      'penalty',
      {'penalty': -1},
      r'^`penalty` must lie in \[0, inf\); got -1.$',
    ),
    (
      'nan',
      {'penalty': np.nan},
      r'^`penalty` must lie in \[0, inf\); got nan.$',
    ),
  )
  def test_refuses(self, bad, message):
    with self.assertRaisesRegex(ValueError, message):
      dst(**{'sparsity': None} | bad)
