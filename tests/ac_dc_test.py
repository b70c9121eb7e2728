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
  loss,
  train,
)

from ong_jax import allocation, magnitude, mask_of, masks, static
from ong_jax.methods import ac_dc, gmp

SETTINGS = {'sparsity': 0.75, 'boundaries': [2, 5, 7, 8, 10]}
KEPT = [36, 9, 9, 9, 36, 36, 9, 36, 36, 9, 9, 9]  # After each of 12 steps.
INNERS = (
  ('momentum', INNER, lambda s: [s[1][0].trace]),
  ('adamw', optax.adamw(0.1, weight_decay=0.3), lambda s: [s[0].mu, s[0].nu]),
  ('lion', optax.lion(0.05, weight_decay=0.3), lambda s: [s[0].mu]),
  (
    'with_a_rate_in_its_state',
    optax.inject_hyperparams(lambda rate: optax.sgd(rate, 0.9))(rate=0.1),
    lambda s: [s.inner_state[0].trace],
  ),
)


def reference(num_steps):
  w, target, found = flat(PARAMS), flat(TARGET), []
  mask, velocity = np.ones(42, bool), np.zeros(42)
  for count in range(1, num_steps + 1):
    gradient = mask * (w - target) + DECAY * w
    velocity = MOMENTUM * velocity + gradient
    w = w - RATE * velocity
    if count in (2, 7, 10):
      mask = largest(np.abs(w), 9)
      w, velocity = w * mask, velocity * mask
    if count in (5, 8):
      mask, velocity = np.ones(42, bool), np.zeros(42)
    found.append((w, velocity, mask[6:]))
  return [np.stack(x) for x in zip(*found)]


def walk(own, params, state, num_steps):
  """Single steps, as a training loop makes them."""
  tx, found = own.transform(INNER), []

  @jax.jit
  def step(params, state):
    grads = jax.grad(lambda p: loss(own.effective(p, state)))(params)
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state

  state = tx.init(params) if state is None else state
  for _ in range(num_steps):
    params, state = step(params, state)
    found.append((params, state))
  assert step._cache_size() == 1  # No phase compiles again.
  return found


class AcDcTest(parameterized.TestCase):
  def test_follows_numpy(self):
    params, states = train(ac_dc(**SETTINGS), PARAMS, 12)
    w, velocity, mask = reference(12)
    np.testing.assert_array_equal(flat_steps(states.mask), mask)
    np.testing.assert_allclose(flat_steps(params), w, rtol=1e-4, atol=1e-6)
    found = flat_steps(states.inner_state[1][0].trace)
    np.testing.assert_allclose(found, velocity, rtol=1e-4, atol=1e-6)
    self.assertTrue(np.any(mask[11] & ~mask[2]))  # It chose others.

  @parameterized.named_parameters(
    ('pooled', allocation.pooled, [9, 0]),
    ('by_leaf', allocation.uniform, [6, 3]),
  )
  def test_counts_are_exact_and_a_mask_is_held_in_its_phase(
    self, allocate, of_ties
  ):
    own = ac_dc(**SETTINGS, allocate=allocate)
    for params in (PARAMS, jax.tree.map(jnp.ones_like, PARAMS)):
      after, states = train(own, params, 12, params)
      mask = flat_steps(states.mask)
      self.assertEqual(mask.sum(1).tolist(), KEPT)
      changes = np.flatnonzero(np.any(mask[1:] != mask[:-1], axis=1)) + 2
      self.assertEqual(changes.tolist(), [2, 5, 7, 8, 10])
      pruned = flat_steps(after)[:, 6:][~mask]
      np.testing.assert_array_equal(pruned, np.zeros_like(pruned))
    found = [np.count_nonzero(x['kernel'][11]) for x in states.mask.values()]
    self.assertEqual(found, of_ties)

  @parameterized.named_parameters(*INNERS)
  def test_restored_weights_start_at_0_and_all_moments_with_them(
    self, inner, moments
  ):
    params, states = train(ac_dc(**SETTINGS), PARAMS, 12, TARGET, inner)
    w, mask = flat_steps(params), flat_steps(states.mask)
    np.testing.assert_array_equal(w[4, 6:] == 0, ~mask[3])
    self.assertTrue(np.all(w[5, 6:] != 0))
    for moment in moments(states.inner_state):
      found = flat_steps(moment)
      np.testing.assert_array_equal(found[[4, 7]], 0)  # Of biases, too.
      np.testing.assert_array_equal(found[:, 6:][~mask], 0)
      for step in (1, 2, 3, 5, 6, 8, 9, 11):  # All others go on.
        self.assertTrue(np.all(found[step, :6] != 0))
        self.assertTrue(np.all(found[step, 6:][mask[step]] != 0))

  def test_what_is_no_moment_goes_on(self):
    inner = dict(x[:2] for x in INNERS)['adamw']
    _, states = train(ac_dc(**SETTINGS), PARAMS, 12, TARGET, inner)
    expected = np.arange(1, 13)
    np.testing.assert_array_equal(states.inner_state[0].count, expected)
    inner = dict(x[:2] for x in INNERS)['with_a_rate_in_its_state']
    _, states = train(ac_dc(**SETTINGS), PARAMS, 12, TARGET, inner)
    rates = states.inner_state.hyperparams['rate']
    np.testing.assert_array_equal(rates, np.float32(0.1))

  @parameterized.parameters(1, 2, 4, 5, 7, 9, 10, 11)
  def test_a_resumed_run_lands_in_its_phase(self, stop):
    whole = walk(ac_dc(**SETTINGS), PARAMS, None, 12)
    kept = jax.tree.map(np.asarray, whole[stop - 1])
    rest = walk(ac_dc(**SETTINGS), *jax.tree.map(jnp.asarray, kept), 12 - stop)
    chex.assert_trees_all_equal(rest, whole[stop:])

  def test_the_phase_is_of_the_count_alone(self):
    own = ac_dc(**SETTINGS)
    tx = own.transform(INNER)
    state, update = tx.init(PARAMS), jax.jit(tx.update)
    for count, kept in ((2, 9), (5, 36), (7, 9), (8, 36), (10, 9)):
      before = state._replace(count=jnp.int32(count - 1))
      _, after = update(PARAMS, before, PARAMS)
      self.assertEqual(flat(mask_of(after)).sum(), kept)

  @parameterized.parameters(1, 4)
  def test_with_one_boundary_it_prunes_once(self, step):
    found = train(ac_dc(sparsity=0.75, boundaries=[step]), PARAMS, 7)
    once = gmp(sparsity=0.75, interval=step, num_updates=1)
    expected = train(once, PARAMS, 7)
    chex.assert_trees_all_equal(found[1].mask, expected[1].mask)
    chex.assert_trees_all_close(found, expected, rtol=1e-5, atol=1e-6)

  def test_from_0_it_is_pruned_from_the_outset(self):
    found = train(ac_dc(sparsity=0.75, boundaries=[0]), PARAMS, 5)
    expected = train(static(magnitude(sparsity=0.75)), PARAMS, 5)
    chex.assert_trees_all_equal(found[1].mask, expected[1].mask)
    chex.assert_trees_all_close(found, expected, rtol=1e-5, atol=1e-6)
    own = ac_dc(sparsity=0.75, boundaries=[0, 2, 3])
    state = own.transform(INNER).init(PARAMS)
    self.assertEqual(flat(mask_of(state)).sum(), 9)
    _, states = train(own, PARAMS, 4)
    self.assertEqual(flat_steps(states.mask).sum(1).tolist(), [9, 36, 9, 9])

  def test_neighbouring_boundaries_are_phases_of_one_step(self):
    _, states = train(ac_dc(sparsity=0.75, boundaries=[1, 2, 3]), PARAMS, 4)
    self.assertEqual(flat_steps(states.mask).sum(1).tolist(), [9, 36, 9, 9])

  def test_nan_is_pruned_first(self):
    tx = ac_dc(sparsity=0.5, boundaries=[1]).transform(optax.sgd(1.0))
    params = {'kernel': jnp.array([[4.0, 3.0, 2.0, 1.0]])}
    grads = {'kernel': jnp.array([[jnp.nan, 0.0, 0.0, 0.0]])}
    _, state = tx.update(grads, tx.init(params), params)
    np.testing.assert_array_equal(state.mask['kernel'], [[0, 1, 1, 0]])

  def test_finishes_with_what_was_evaluated(self):
    own = ac_dc(**SETTINGS)
    params, state = jax.tree.map(lambda x: x[-1], train(own, PARAMS, 11))
    finished, mask = own.finish(params, state)
    chex.assert_trees_all_equal(mask, state.mask)
    chex.assert_trees_all_equal(finished, own.effective(params, state))
    chex.assert_trees_all_equal(finished, masks.apply_mask(params, mask))

  @parameterized.named_parameters(
    ('sparsity', {'sparsity': 1.5}, '^`sparsity` must be a number .* got 1.5.'),
    ('even', {'boundaries': [1, 2]}, r'an odd number .* got 2: \[1, 2\]. Add'),
    ('none', {'boundaries': []}, r'an odd number .* got 0: \[\]. Add'),
    ('equal', {'boundaries': [1, 4, 4]}, 'increasing; got 4 after 4.$'),
    ('falling', {'boundaries': [5, 4, 6]}, 'increasing; got 4 after 5.$'),
    ('negative', {'boundaries': [-1]}, 'integers of at least 0; got -1.$'),
    ('fraction', {'boundaries': [0.5]}, 'integers of at least 0; got 0.5.$'),
  )
  def test_refuses(self, bad, message):
    with self.assertRaisesRegex(ValueError, message):
      ac_dc(**SETTINGS | bad)

  def test_refuses_a_number_for_a_sequence(self):
    with self.assertRaisesRegex(TypeError, r'got 5. .* pass \[5\].$'):
      ac_dc(sparsity=0.5, boundaries=5)

  def test_copies_of_weights_begin_again_with_them(self):
    """Schedule-free averages from there; from 0 it would forget everything."""
    inner = optax.contrib.schedule_free_sgd(0.1)
    own = ac_dc(sparsity=0.75, boundaries=[2, 4, 9])
    tx, grads = own.transform(inner), jax.tree.map(jnp.zeros_like, PARAMS)
    params, state = PARAMS, tx.init(PARAMS)
    for _ in range(4):
      updates, state = tx.update(grads, state, params)
      params = optax.apply_updates(params, updates)
    chex.assert_trees_all_close(state.inner_state.z, params)
    self.assertTrue(params['a']['bias'].any())


if __name__ == '__main__':
  absltest.main()
