from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl.testing import parameterized
from jax.flatten_util import ravel_pytree

from ong_jax import SparseMethod, allocation, masks, method
from ong_jax.methods import dnw


def normal(seed, *shape):
  values = np.random.default_rng(seed).normal(size=shape)
  return jnp.asarray(values, jnp.float32)


PARAMS = {  # 6 biases, and 24 + 12 = 36 weights after them.
  'a': {'bias': normal(0, 6), 'kernel': normal(1, 4, 6)},
  'b': {'kernel': normal(2, 3, 4)},
}
TARGET = jax.tree.map(lambda p: -p[::-1], PARAMS)  # So that ranks change.
RATE, MOMENTUM, DECAY = 0.1, 0.9, 0.05
INNER = optax.chain(optax.add_decayed_weights(DECAY), optax.sgd(RATE, MOMENTUM))
METHOD = dnw(sparsity=0.75)  # Keeps 9 of 36.


def loss(params, target=TARGET):
  distances = jax.tree.map(lambda p, t: (p - t) ** 2, params, target)
  return sum(0.5 * x.sum() for x in jax.tree.leaves(distances))


@partial(jax.jit, static_argnums=(0, 2))
def train(method, params, num_steps, target=TARGET):
  """Steps towards the target; params and states after each of them."""
  tx = method.transform(INNER)

  def step(carry, _):
    params, opt_state = carry

    def run(params):
      key = jax.random.key(0)
      return loss(method.effective(params, opt_state, key), target)

    updates, opt_state = tx.update(jax.grad(run)(params), opt_state, params)
    carry = optax.apply_updates(params, updates), opt_state
    return carry, carry

  return jax.lax.scan(step, (params, tx.init(params)), length=num_steps)[1]


def flat(tree):
  return np.asarray(ravel_pytree(tree)[0], np.float64)


def flat_steps(tree):
  return np.asarray(jax.vmap(lambda x: ravel_pytree(x)[0])(tree))


def largest(scores, k):
  """Which k of the 36 weights; and all biases."""
  mask = np.arange(42) < 6
  mask[6 + np.argsort(-scores[6:], kind='stable')[:k]] = True
  return mask


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
