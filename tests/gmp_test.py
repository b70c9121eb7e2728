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
  largest,
)

from ong_jax import allocation, masks, states
from ong_jax.methods import gmp

SETTINGS = {'sparsity': 0.75, 'interval': 2, 'num_updates': 3}
# Sparsity is 0.75 - 0.75 (1 - t / 3)^3: 19, 26 and 27 of 36 weights are gone.
KEPT = [36, 17, 17, 10, 10, 9, 9, 9, 9]


@partial(jax.jit, static_argnums=(0, 1, 3))
def train(method, inner, params, num_steps, target=TARGET):
  """Steps towards the target; params and states after each of them."""
  tx = method.transform(inner)

  def step(carry, _):
    params, opt_state = carry

    def loss(params):
      effective = method.effective(params, opt_state, jax.random.key(0))
      distances = jax.tree.map(lambda p, t: (p - t) ** 2, effective, target)
      return sum(0.5 * x.sum() for x in jax.tree.leaves(distances))

    updates, opt_state = tx.update(jax.grad(loss)(params), opt_state, params)
    carry = optax.apply_updates(params, updates), opt_state
    return carry, carry

  return jax.lax.scan(step, (params, tx.init(params)), length=num_steps)[1]


def reference(recover, num_steps):
  w, target, found = flat(PARAMS), flat(TARGET), []
  mask, velocity = np.ones(42, bool), np.zeros(42)
  for count in range(1, num_steps + 1):
    gradient = mask * (w - target) + DECAY * w
    velocity = MOMENTUM * velocity + gradient
    w = w - RATE * velocity
    if count in (2, 4, 6):
      new = largest(np.abs(w) if recover else np.abs(w) * mask, KEPT[count - 1])
      velocity, mask = velocity * (new == mask), new
    if not recover:
      w, velocity = w * mask, velocity * mask
    found.append((w, velocity, mask[6:]))
  return [np.stack(x) for x in zip(*found)]


class GmpTest(parameterized.TestCase):
  @parameterized.named_parameters(('for_good', False), ('recover', True))
  def test_follows_numpy(self, recover):
    method = gmp(**SETTINGS, recover=recover)
    params, states = train(method, INNER, PARAMS, 9)
    w, velocity, mask = reference(recover, 9)
    np.testing.assert_array_equal(flat_steps(states.mask), mask)
    np.testing.assert_allclose(flat_steps(params), w, rtol=1e-4, atol=1e-6)
    found = flat_steps(states.inner_state[1][0].trace)
    np.testing.assert_allclose(found, velocity, rtol=1e-4, atol=1e-6)
    returned = np.any(mask[1:] & ~mask[:-1], axis=1)
    self.assertEqual(returned.any(), recover)
    if not recover:
      pruned = flat_steps(params)[:, 6:][~mask]
      np.testing.assert_array_equal(pruned, np.zeros_like(pruned))

  @parameterized.named_parameters(('for_good', False), ('recover', True))
  def test_counts_are_exact_at_every_step_and_under_ties(self, recover):
    method = gmp(**SETTINGS, recover=recover)
    for params in (PARAMS, jax.tree.map(jnp.ones_like, PARAMS)):
      _, states = train(method, INNER, params, 9, params)
      self.assertEqual(flat_steps(states.mask).sum(1).tolist(), KEPT)

  @parameterized.named_parameters(('for_good', False), ('recover', True))
  def test_by_another_score(self, recover):
    # One that does not look at the weights, and is below 0.
    def score(weights):
      return jax.tree.map(
        lambda w: jnp.arange(w.size).reshape(w.shape) - 99.0, weights
      )

    method = gmp(**SETTINGS, recover=recover, score=score)
    _, states = train(method, INNER, PARAMS, 9)
    places = np.concatenate(
      [np.arange(m[0].size) for m in jax.tree.leaves(states.mask)]
    )
    found = flat_steps(states.mask)
    self.assertEqual(found.sum(1).tolist(), KEPT)
    for mask in found:
      if not mask.all():
        self.assertGreaterEqual(places[mask].min(), places[~mask].max())

  def test_scores_of_another_shape_are_refused(self):
    def score(weights):
      return jax.tree.map(lambda w: jnp.abs(w[:1]), weights)

    tx = gmp(**SETTINGS, score=score).transform(optax.sgd(0.1))
    with self.assertRaisesRegex(
      ValueError, '`score` must return scores shaped'
    ):
      tx.update(PARAMS, tx.init(PARAMS), PARAMS)

  def test_nan_is_pruned_before_numbers_but_brings_nothing_back(self):
    method = gmp(
      **SETTINGS,
      score=lambda ws: jax.tree.map(lambda w: jnp.full_like(w, jnp.nan), ws),
    )
    _, states = train(method, INNER, PARAMS, 9)
    found = flat_steps(states.mask)
    self.assertEqual(found.sum(1).tolist(), KEPT)
    self.assertFalse(np.any(found[1:] & ~found[:-1]))

  def test_refuses_what_is_no_score(self):
    with self.assertRaisesRegex(TypeError, '`score` must be'):
      gmp(**SETTINGS, score='magnitude')

  def test_survivors_that_are_0_do_not_bring_back_what_was_pruned(self):
    method = gmp(**SETTINGS | {'interval': 1})  # 2, 3 and 3 of 4 go.
    tx = method.transform(optax.sgd(1.0))
    params, update = {'kernel': jnp.array([[1.0, 2, 3, 4]])}, jax.jit(tx.update)
    state, found = tx.init(params), []
    for share in (0.0, 1.0, 0.0):  # Survivors become 0 in the second step.
      grads = jax.tree.map(lambda p, share=share: share * p, params)
      updates, state = update(grads, state, params)
      params = optax.apply_updates(params, updates)
      found.append(np.concatenate([params['kernel'], state.mask['kernel']]))
    np.testing.assert_array_equal(
      found,
      [
        [[0, 0, 3, 4], [0, 0, 1, 1]],
        [[0, 0, 0, 0], [0, 0, 1, 0]],
        [[0, 0, 0, 0], [0, 0, 1, 0]],
      ],
    )

  def test_behind_the_mask_weights_decay_and_return(self):
    method = gmp(sparsity=0.5, interval=2, num_updates=2, recover=True)
    inner = optax.chain(optax.add_decayed_weights(0.5), optax.sgd(1.0))
    params = {'kernel': jnp.array([[4.0, 68, 160, 32]])}
    target = {'kernel': jnp.array([[0.0, -2, -16, 64]])}
    # A step takes survivors from w to target - w / 2, the others to w / 2.
    params, states = train(method, inner, params, 6, target)
    np.testing.assert_array_equal(
      params['kernel'][:, 0],
      [
        [-2, -36, -96, 48],
        [1, 16, 32, 40],
        [0.5, 8, -32, 44],
        [0.25, 4, 0, 42],
        [0.125, -4, 0, 43],
        [0.0625, 0, 0, 42.5],
      ],
    )
    expected = [[1, 1, 1, 1]] + 2 * [[0, 0, 1, 1]] + 3 * [[0, 1, 0, 1]]
    np.testing.assert_array_equal(states.mask['kernel'][:, 0], expected)

  def test_budgets_may_be_split_by_leaf(self):
    method = gmp(**SETTINGS, allocate=allocation.uniform)
    params, states = train(method, INNER, PARAMS, 7)
    counts = jax.tree.map(
      lambda m: np.count_nonzero(m.reshape(7, -1), axis=1).tolist(),
      states.mask,
    )
    self.assertEqual(counts['b']['kernel'][5:], [3, 3])
    self.assertEqual(counts['a']['kernel'][5:], [6, 6])
    last = jax.tree.map(lambda x: x[-1], (params, states))
    params, mask = method.finish(*last)
    chex.assert_trees_all_equal(mask, last[1].mask)
    chex.assert_trees_all_equal(params, masks.apply_mask(last[0], mask))

  def test_starts_dense(self):
    for recover in (False, True):
      method = gmp(**SETTINGS, recover=recover)
      state = method.transform(INNER).init(PARAMS)
      self.assertEqual(masks.sparsity(states.mask_of(state)), 0)
      chex.assert_trees_all_equal(method.effective(PARAMS, state), PARAMS)

  @parameterized.named_parameters(
    (
      'sparsity',
      {'sparsity': 1.0},
      '^`sparsity` must be a number in .* 1.0.$',
    ),
    ('interval', {'interval': 0}, '^`interval` must be an integer .* got 0.$'),
    (
      'num_updates',
      {'num_updates': 2.5},
      '^`num_updates` must be an integer .* got 2.5.$',
    ),
  )
  def test_refuses(self, bad, message):
    with self.assertRaisesRegex(ValueError, message):
      gmp(**SETTINGS | bad)
