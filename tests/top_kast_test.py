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
  loss,
  train,
)

from ong_jax import (
  SparseMethod,
  allocation,
  mask_of,
  masks,
  method,
  state_of,
  states,
)
from ong_jax.methods import top_kast

# Of 24 + 12 weights 6 + 3 run, and 12 + 6 train.
SETTINGS = {'sparsity': 0.75, 'backward_sparsity': 0.5, 'penalty': 0.1}
INNERS = (
  ('momentum', INNER, lambda s: [s[1][0].trace]),
  (
    'adamw',
    optax.adamw(0.1, weight_decay=0.3),
    lambda s: [s[0].mu, s[0].nu],
  ),
  ('lion', optax.lion(0.05, weight_decay=0.3), lambda s: [s[0].mu]),
  (
    'clipped',
    optax.chain(optax.clip_by_global_norm(0.5), optax.sgd(0.1, 0.9)),
    lambda s: [s[1][0].trace],
  ),
)


def largest_by_leaf(w, in_a, in_b):
  mask = np.ones(42, bool)
  for part, k in ((slice(6, 30), in_a), (slice(30, 42), in_b)):
    x = np.abs(w[part])
    mask[part] = np.isin(np.arange(x.size), np.argsort(-x, kind='stable')[:k])
  return mask


def reference(interval, num_steps):
  w, target, found = flat(PARAMS), flat(TARGET), []
  velocity = np.zeros(42)
  a, b = largest_by_leaf(w, 6, 3), largest_by_leaf(w, 12, 6)
  for count in range(1, num_steps + 1):
    penalty = np.where(a, 0.1, 0.1 / 0.25) * (np.arange(42) >= 6)
    gradient = w * a - target + penalty * w + DECAY * w
    velocity = b * (MOMENTUM * velocity + gradient)
    w = w - RATE * velocity
    if count % interval == 0:
      new = largest_by_leaf(w, 12, 6)
      a, velocity, b = largest_by_leaf(w, 6, 3), velocity * (b & new), new
    found.append((w, velocity, a[6:], b[6:]))
  return [np.stack(x) for x in zip(*found)]


def backward_of(state):
  return state_of(state).inner_state.backward


class TopKastTest(parameterized.TestCase):
  @parameterized.named_parameters(('each_step', 1), ('every_third', 3))
  def test_follows_numpy(self, interval):
    params, states = train(top_kast(**SETTINGS, interval=interval), PARAMS, 12)
    w, velocity, a, b = reference(interval, 12)
    np.testing.assert_array_equal(flat_steps(states.mask), a)
    np.testing.assert_array_equal(flat_steps(backward_of(states)), b)
    np.testing.assert_allclose(flat_steps(params), w, rtol=1e-4, atol=1e-5)
    found = flat_steps(states.inner_state.inner_state[1][0].trace)
    np.testing.assert_allclose(found, velocity, rtol=1e-4, atol=1e-5)
    for mask in (a, b):  # Something enters, and between refreshes nothing does.
      moved = np.any(mask[1:] != mask[:-1], axis=1)
      self.assertTrue(moved.any())
      due = np.arange(2, 13) % interval == 0
      self.assertFalse(moved[~due].any())

  @parameterized.named_parameters(*INNERS)
  def test_outside_of_b_nothing_moves_and_nothing_is_remembered(
    self, inner, moments
  ):
    own = top_kast(**SETTINGS, interval=2)
    params, states = train(own, PARAMS, 8, TARGET, inner)
    first = own.transform(inner).init(PARAMS)
    w = np.concatenate([flat(PARAMS)[None], flat_steps(params)])
    mask = np.concatenate(
      [flat(backward_of(first))[None] > 0, flat_steps(backward_of(states))]
    )
    np.testing.assert_array_equal(w[1:, 6:][~mask[:-1]], w[:-1, 6:][~mask[:-1]])
    self.assertTrue(np.all((w[1:] != w[:-1])[:, 6:][mask[:-1]]))
    stays = mask[1:] & mask[:-1]  # What has entered starts without moments.
    self.assertTrue((mask[1:] & ~mask[:-1]).any())
    for moment in moments(states.inner_state.inner_state):
      found = flat_steps(moment)[:, 6:]
      np.testing.assert_array_equal(found[~stays], 0)
      self.assertTrue(np.all(found[stays] != 0))

  def test_inner_sees_b_alone_and_what_it_adds_outside_is_lost(self):
    seen = []

    def add_one(updates, params):
      seen.append((updates, params))
      return jax.tree.map(lambda u: u + 1, updates)

    inner = optax.chain(optax.stateless(add_one), optax.trace(0.9))
    tx = top_kast(**SETTINGS).transform(inner)
    state, params, entered = tx.init(PARAMS), PARAMS, 0
    for _ in range(3):
      b = np.concatenate([np.ones(6), flat(backward_of(state))]) > 0
      updates, state = tx.update(PARAMS, state, params)
      for tree in seen[-1]:
        np.testing.assert_array_equal(flat(tree) != 0, b)
      np.testing.assert_array_equal(flat(updates) != 0, b)
      new = np.concatenate([np.ones(6), flat(backward_of(state))]) > 0
      moment = flat(state.inner_state.inner_state[1].trace)
      np.testing.assert_array_equal(moment != 0, b & new)
      params, entered = (
        optax.apply_updates(params, updates),
        entered + (new > b),
      )
    self.assertTrue(np.any(entered))

  def test_runs_on_a_alone_and_differentiates_b_alone(self):
    own = top_kast(**SETTINGS)
    state = own.transform(INNER).init(PARAMS)
    a, b = mask_of(state), backward_of(state)
    other = jax.tree.map(
      lambda p, m: p if m is None else jnp.where(m, p, jnp.nan), PARAMS, a
    )
    for key in (None, jax.random.key(0)):
      effective = own.effective(PARAMS, state, key)
      chex.assert_trees_all_equal(effective, masks.apply_mask(PARAMS, a))
      chex.assert_trees_all_equal(own.effective(other, state, key), effective)
    grads = jax.grad(lambda p: loss(own.effective(p, state)))(PARAMS)
    dense = jax.grad(loss)(masks.apply_mask(PARAMS, a))
    chex.assert_trees_all_equal(grads, masks.apply_mask(dense, b))

  def test_the_penalty_is_on_a_and_more_on_the_rest_of_b(self):
    own = top_kast(sparsity=0.75, backward_sparsity=0.5, penalty=0.5)
    tx = own.transform(optax.sgd(1.0))
    params = {'kernel': jnp.array([[8.0, -4.0, 2.0, 1.0]]), 'bias': jnp.ones(1)}
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = tx.update(zeros, tx.init(params), params)
    np.testing.assert_array_equal(updates['kernel'], [[-4, 8, 0, 0]])
    np.testing.assert_array_equal(updates['bias'], 0)

  @parameterized.named_parameters(
    ('uniform', allocation.uniform),
    ('erk', allocation.erk),
    ('pooled', allocation.pooled),
    (  # Fewer of `b` than before: 4 after 8.
      'jumping',
      lambda scores, sparsity: jax.tree.map(
        lambda s: (
          s.size // 3 if sparsity > 0.6 else s.size // 6 * (s.size // 8)
        ),
        scores,
      ),
    ),
  )
  def test_b_contains_a(self, allocate):
    own = top_kast(**SETTINGS, allocate=allocate)
    for params in (PARAMS, jax.tree.map(jnp.ones_like, PARAMS)):
      state = own.transform(INNER).init(params)
      a, b = flat(mask_of(state)), flat(backward_of(state))
      self.assertTrue(np.all(a <= b))
      _, states = train(own, params, 6)
      a, b = flat_steps(states.mask), flat_steps(backward_of(states))
      self.assertTrue(np.all(a <= b))
      if allocate in (allocation.uniform, allocation.pooled):
        self.assertEqual(set(a.sum(1)), {9})
        self.assertEqual(set(b.sum(1)), {18})

  def test_at_sparsity_0_it_is_dense_training(self):
    own = top_kast(sparsity=0, backward_sparsity=0, penalty=0)
    params, states = train(own, PARAMS, 9)
    dense = SparseMethod(effective=method.dense)
    expected, inner_states = train(dense, PARAMS, 9)
    chex.assert_trees_all_close(
      (params, states.inner_state.inner_state),
      (expected, inner_states),
      rtol=1e-4,
      atol=1e-5,
    )

  def test_without_exploration_b_is_a(self):
    own = top_kast(sparsity=0.75, backward_sparsity=0.75)
    _, states = train(own, PARAMS, 6)
    chex.assert_trees_all_equal(states.mask, backward_of(states))

  def test_nan_falls_out_and_does_not_return(self):
    own = top_kast(**SETTINGS)
    tx = own.transform(INNER)
    state, update = tx.init(PARAMS), jax.jit(tx.update)
    index = np.argmax(np.abs(PARAMS['b']['kernel']))
    bad = jnp.zeros(12).at[index].set(jnp.nan).reshape(3, 4)
    params, grads = PARAMS, jax.tree.map(jnp.zeros_like, PARAMS)
    grads['b']['kernel'] = bad
    for _ in range(3):
      self.assertEqual(flat(backward_of(state)).sum(), 18)
      updates, state = update(grads, state, params)
      params = optax.apply_updates(params, updates)
      for mask in (mask_of(state), backward_of(state)):
        self.assertFalse(mask['b']['kernel'].ravel()[index])
    finished, _ = own.finish(params, state)
    self.assertTrue(np.isfinite(flat(finished)).all())
    self.assertEqual(np.isnan(flat(params)).sum(), 1)

  def test_finishes_with_what_was_evaluated(self):
    own = top_kast(**SETTINGS)
    params, state = jax.tree.map(lambda x: x[-1], train(own, PARAMS, 5))
    finished, mask = own.finish(params, state)
    chex.assert_trees_all_equal(mask, state.mask)
    chex.assert_trees_all_equal(finished, own.effective(params, state))
    self.assertEqual(np.count_nonzero(flat(finished)[6:]), 9)
    self.assertGreater(np.count_nonzero(flat(params)[6:]), 18)  # Dense behind.

  def test_optax_finds_what_mirrors_the_params(self):
    tx = top_kast(**SETTINGS).transform(optax.adam(0.1))
    state = tx.init(PARAMS)
    found = optax.tree.map_params(tx, lambda x: x + 1, state)
    adam = found.inner_state.inner_state[0]
    self.assertEqual(set(flat(adam.mu)), {1.0})
    self.assertIs(states.state_of((state,)).mask, state.mask)

  @parameterized.named_parameters(
    ('sparsity', {'sparsity': 1.0}, '^`sparsity` must be a number .* got 1.0.'),
    (
      'backward_above',
      {'backward_sparsity': 0.8},
      r'^`backward_sparsity` must lie in \[0, 0.75\], .* got 0.8. Lower it',
    ),
    (
      'backward_below',
      {'backward_sparsity': -0.1},
      '^`backward_sparsity` must lie in .* got -0.1.',
    ),
    (
      'backward_nan',
      {'backward_sparsity': np.nan},
      '^`backward_sparsity` must lie in .* got nan.',
    ),
    (
      'backward_text',
      {'backward_sparsity': '0.5'},
      "^`backward_sparsity` must lie in .* got '0.5'.",
    ),
    ('interval', {'interval': 0}, '^`interval` must be an integer .* got 0.$'),
    ('penalty', {'penalty': -1}, r'^`penalty` must lie in \[0, inf\); got -1.'),
    ('penalty_nan', {'penalty': np.nan}, '^`penalty` must lie in .* got nan.'),
  )
  def test_refuses(self, bad, message):
    with self.assertRaisesRegex(ValueError, message):
      top_kast(**SETTINGS | bad)

  def test_copies_of_weights_come_with_what_enters(self):
    inner = optax.contrib.schedule_free_sgd(0.1)
    own = top_kast(sparsity=0.75, backward_sparsity=0.5, penalty=0)
    tx = own.transform(inner)
    state = tx.init(PARAMS)
    # All that was trained shrinks away, and others enter.
    grads = jax.tree.map(lambda p: 9.9 * p, PARAMS)
    updates, after = jax.jit(tx.update)(grads, state, PARAMS)
    params = optax.apply_updates(PARAMS, updates)
    before, backward = (s.inner_state.backward for s in (state, after))
    entered = 0
    for name in 'ab':
      new = np.asarray(backward[name]['kernel'] & ~before[name]['kernel'])
      entered += new.sum()
      z = np.asarray(after.inner_state.inner_state.z[name]['kernel'])
      np.testing.assert_array_equal(z[new], params[name]['kernel'][new])
      np.testing.assert_array_equal(z[~np.asarray(backward[name]['kernel'])], 0)
    self.assertGreater(entered, 0)


if __name__ == '__main__':
  absltest.main()
