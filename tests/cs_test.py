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
  flat,
  flat_steps,
  loss,
)

from ong_jax import Trainable, allocation, masks
from ong_jax.methods import cs
from ong_jax.methods.cs import gate_weights

TARGET = jax.tree.map(lambda p: 2 * p, PARAMS)
SETTINGS = {'num_steps': 6, 'start': -0.5, 'final_beta': 64.0, 'penalty': 0.2}
METHOD = cs(sparsity=0.75, **SETTINGS)
BETAS = [1, 2, 4, 8, 16, 32, 64, 64, 64]


@partial(jax.jit, static_argnums=(0, 2))
def train(method, trainable, num_steps):
  """Steps towards the target; trainables and states after each of them."""
  tx = method.transform(INNER)

  def step(carry, _):
    trainable, opt_state = carry

    def run(trainable):
      key = jax.random.key(0)
      return loss(method.effective(trainable, opt_state, key), TARGET)

    grads = jax.grad(run)(trainable)
    updates, opt_state = tx.update(grads, opt_state, trainable)
    carry = optax.apply_updates(trainable, updates), opt_state
    return carry, carry

  start = trainable, tx.init(trainable)
  return jax.lax.scan(step, start, length=num_steps)[1]


def sigmoid(x):
  return 1 / (1 + np.exp(-x))


def reference():
  x, target, found = (
    np.append(flat(PARAMS), np.full(36, -0.5)),
    flat(TARGET),
    [],
  )
  velocity, c = np.zeros(78), 1 / sigmoid(-0.5)
  for beta in BETAS:
    w, q = x[6:42], x[42:]
    gate = sigmoid(beta * q)
    gradient = np.append(x[:6], c * w * gate) - target
    slope = beta * gate * (1 - gate)
    per_gate = gradient[6:] * c * w * slope + 0.2 * slope
    gradient[6:] *= c * gate
    gradient = np.append(gradient + DECAY * x[:42], per_gate)
    velocity = MOMENTUM * velocity + gradient
    x = x - RATE * velocity
    found.append((x, velocity))
  return [np.stack(x) for x in zip(*found)]


def one_kernel(w, q):
  return Trainable({'kernel': jnp.asarray(w)}, {'kernel': jnp.asarray(q)})


def state_at(count, method=METHOD):
  trainable = method.init(PARAMS)
  state = method.transform(INNER).init(trainable)
  return state._replace(count=jnp.int32(count))


class CsTest(parameterized.TestCase):
  def test_bfloat16_stays_bfloat16(self):
    params = {'kernel': jnp.ones((2, 2), jnp.bfloat16)}
    method = cs(sparsity=0.5, num_steps=3)
    trainable = method.init(params)
    tx = method.transform(optax.sgd(0.1))
    state = tx.init(trainable)
    key = jax.random.key(0)
    effective = method.effective(trainable, state, key)['kernel']
    self.assertEqual(effective.dtype, jnp.bfloat16)
    updates, _ = tx.update(trainable, state, trainable)
    for leaf in jax.tree.leaves(updates):
      self.assertEqual(leaf.dtype, jnp.bfloat16)

  def test_follows_numpy(self):
    trainable, states = train(METHOD, METHOD.init(PARAMS), len(BETAS))
    x, velocity = reference()
    np.testing.assert_allclose(flat_steps(trainable), x, rtol=1e-3, atol=1e-4)
    found = flat_steps(states.inner_state[1][0].trace)
    np.testing.assert_allclose(found, velocity, rtol=1e-3, atol=1e-4)
    self.assertBetween(np.mean(x[-1, 42:] > 0), 0.1, 0.9)

  def test_gates_start_open_by_one(self):
    trainable = METHOD.init(PARAMS)
    halves = jax.tree.map(lambda p: jnp.full_like(p, -0.5), PARAMS)
    halves['a']['bias'] = None
    chex.assert_trees_all_equal(trainable.extra, halves)
    found = METHOD.effective(trainable, state_at(0), jax.random.key(0))
    chex.assert_trees_all_close(found, PARAMS, rtol=1e-6)

  def test_at_beta_0_gates_are_half_open(self):
    q = jax.tree.map(
      lambda p: -p,
      {**PARAMS, 'a': {'bias': None, 'kernel': PARAMS['a']['kernel']}},
    )
    found = gate_weights(Trainable(PARAMS, q), 0.0, start=-0.5)
    half = 0.5 * (1 + np.exp(0.5))  # c / 2
    expected = jax.tree.map(lambda p: half * p, PARAMS)
    expected['a']['bias'] = PARAMS['a']['bias']
    chex.assert_trees_all_close(found, expected, rtol=1e-6)

  def test_at_a_large_beta_gates_are_hard(self):
    trainable = one_kernel([[3.0, -4.0, 5.0]], [[0.5, 0.25, -0.25]])
    found = gate_weights(trainable, 1e4, start=0.0)  # c is 2.
    chex.assert_trees_all_equal(found, {'kernel': jnp.array([[6.0, -8, 0]])})

  @parameterized.parameters((0, 1.0), (3, 8.0), (6, 64.0), (7, 64.0))
  def test_beta_rises_geometrically_and_stays(self, count, beta):
    trainable = one_kernel([[1.0, -2.0]], [[0.125, -0.0625]])
    found = METHOD.effective(trainable, state_at(count), jax.random.key(0))
    expected = [[1, -2]] * sigmoid(beta * np.array([[0.125, -0.0625]]))
    np.testing.assert_allclose(
      found['kernel'], expected / sigmoid(-0.5), rtol=1e-5
    )

  def test_without_a_key_it_is_what_would_be_deployed(self):
    trainable = one_kernel([[3.0, -4.0, 5.0]], [[0.125, -0.125, 0.0]])
    found = METHOD.effective(trainable, state_at(3))
    kept = 3 * sigmoid(1.0) / sigmoid(-0.5)
    np.testing.assert_allclose(found['kernel'], [[kept, 0, 0]], rtol=1e-6)
    finished = cs(sparsity=None, **SETTINGS).finish(trainable, state_at(3))
    mask = {'kernel': jnp.array([[True, False, False]])}
    chex.assert_trees_all_equal(finished, (found, mask))

  def test_finish_keeps_an_exact_count_by_the_gates(self):
    trainable = one_kernel([[3.0, -4, 5, 6]], [[0.25, -0.5, -0.25, -0.75]])
    gates = sigmoid(8 * np.array([[0.25, -0.5, -0.25, -0.75]])) / sigmoid(-0.5)
    gated = np.array([[3, -4, 5, 6]]) * gates
    for sparsity, expected in (
      (0.75, [[1, 0, 0, 0]]),
      (0.5, [[1, 0, 1, 0]]),
      (0, [[1, 1, 1, 1]]),
    ):
      method = cs(sparsity=sparsity, **SETTINGS)
      params, mask = method.finish(trainable, state_at(3))
      np.testing.assert_array_equal(mask['kernel'], expected)
      np.testing.assert_allclose(params['kernel'], gated * expected, rtol=1e-5)

  @parameterized.named_parameters(
    ('pooled', allocation.pooled, [9, 0]),
    ('by_leaf', allocation.uniform, [6, 3]),
  )
  def test_finish_is_exact_under_ties(self, allocate, counts):
    tied = cs(sparsity=0.75, allocate=allocate, **SETTINGS)
    params, mask = tied.finish(tied.init(PARAMS), state_at(6))
    found = [np.count_nonzero(m) for m in jax.tree.leaves(mask)]
    self.assertEqual(found, counts)
    chex.assert_trees_all_equal(params, masks.apply_mask(params, mask))

  @parameterized.named_parameters(
    ('sparsity', {'sparsity': 1.0}, '^`sparsity` must be .* got 1.0.$'),
    ('steps', {'num_steps': 0}, '^`num_steps` must be an integer .* got 0.$'),
    (
      'beta',
      {'final_beta': 0.0},
      r'^`final_beta` must lie in \[1, inf\); got 0.0.$',
    ),
    (
      'nan',
      {'final_beta': np.nan},
      r'^`final_beta` must lie in \[1, inf\); got nan.$',
    ),
    (
      'penalty',
      {'penalty': -1},
      r'^`penalty` must lie in \[0, inf\); got -1.$',
    ),
  )
  def test_refuses(self, bad, message):
    with self.assertRaisesRegex(ValueError, message):
      cs(**{'sparsity': None, 'num_steps': 10} | bad)
