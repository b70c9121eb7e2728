import itertools
import math

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
  best_of_4,
  flat,
  flat_steps,
  largest,
  loss,
  normal,
  train,
)

from ong_jax import SparseMethod, allocation, masks, method, patterns, scores
from ong_jax.costs import Costs, LayerCost
from ong_jax.methods import dnw, ste
from ong_jax.states import mask_of

TWO_OF_4 = patterns.n_of_m(2, 4)
METHOD = dnw(sparsity=0.75)  # Keeps 9 of 36.


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


def ste_reference(decay, num_steps):
  w, target, found = flat(PARAMS), flat(TARGET), []
  velocity = np.zeros(42)
  for _ in range(num_steps):
    mask = best_of_4(np.abs(w), 2)
    gradient = w * mask - target + decay * ~mask * w
    velocity = MOMENTUM * velocity + gradient + DECAY * w
    w = w - RATE * velocity
    found.append((w, velocity, best_of_4(np.abs(w), 2)[6:]))
  return [np.stack(x) for x in zip(*found)]


class SteTest(parameterized.TestCase):
  @parameterized.named_parameters(('ste', 0.0), ('sr_ste', 0.3))
  def test_follows_numpy(self, decay):
    params, states = train(ste(TWO_OF_4, decay=decay), PARAMS, 9)
    w, velocity, mask = ste_reference(decay, 9)
    np.testing.assert_array_equal(flat_steps(states.mask), mask)
    np.testing.assert_allclose(flat_steps(params), w, rtol=1e-4, atol=1e-5)
    found = flat_steps(states.inner_state[1][0].trace)
    np.testing.assert_allclose(found, velocity, rtol=1e-4, atol=1e-5)
    self.assertTrue(np.any(mask[1:] & ~mask[:-1]))

  @parameterized.named_parameters(('distinct', False), ('tied', True))
  def test_of_four_the_pair_of_the_largest_sum_is_kept(self, tied):
    kernel = normal(3, 2, 8, 5)  # [height, inputs, outputs].
    params = {'kernel': jnp.ones_like(kernel) if tied else kernel}
    state = ste(TWO_OF_4).transform(INNER).init(params)
    groups = np.abs(params['kernel']).reshape(-1, 4, 5).swapaxes(1, 2)
    kept = np.asarray(mask_of(state)['kernel']).reshape(-1, 4, 5).swapaxes(1, 2)
    pairs = [
      np.isin(np.arange(4), pair)
      for pair in itertools.combinations(range(4), 2)
    ]
    sums = np.stack([groups @ pair for pair in pairs])
    np.testing.assert_array_equal(kept.sum(-1), 2)
    np.testing.assert_array_equal(kept, np.stack(pairs)[sums.argmax(0)])

  def test_the_output_depends_on_what_is_kept_alone(self):
    sparse = ste(TWO_OF_4, decay=0.3)
    state = sparse.transform(INNER).init(PARAMS)

    def moved(m, p):
      return p if m is None else jnp.where(m, p, p + 100)

    other = jax.tree.map(lambda p, m: moved(m, p), PARAMS, state.mask)
    chex.assert_trees_all_equal(
      sparse.effective(other, state), sparse.effective(PARAMS, state)
    )
    self.assertFalse((flat(other) == flat(PARAMS)).all())

  def test_gradients_of_all_weights_are_those_of_the_pruned_ones(self):
    sparse = ste(TWO_OF_4)
    state = sparse.transform(INNER).init(PARAMS)
    effective = sparse.effective(PARAMS, state)
    found = jax.grad(lambda p: loss(sparse.effective(p, state)))(PARAMS)
    chex.assert_trees_all_equal(found, jax.grad(loss)(effective))
    self.assertTrue((flat(found) != 0).all())

  def test_decay_adds_to_the_gradients_of_pruned_weights_alone(self):
    # Eighths, so that sums have no rounding.
    params, grads = (
      jax.tree.map(lambda p: jnp.round(8 * p) / 8, tree)
      for tree in (PARAMS, TARGET)
    )
    seen = []
    for decay in (0.0, 0.25):
      tx = ste(TWO_OF_4, decay=decay).transform(optax.identity())
      state = tx.init(params)
      seen.append(tx.update(grads, state, params)[0])
    plain, decayed = map(flat, seen)
    outside = ~best_of_4(np.abs(flat(params)), 2)
    expected = 0.25 * outside * flat(params)
    np.testing.assert_array_equal(decayed - plain, expected)
    np.testing.assert_array_equal(plain, flat(grads))
    self.assertTrue(expected.any())

  @chex.variants(with_jit=True, without_jit=True)
  def test_a_step_that_is_not_finite_raises_nowhere(self):
    tx = ste(TWO_OF_4).transform(INNER)
    bad = jax.tree.map(lambda p: jnp.full_like(p, jnp.nan), PARAMS)
    _, state = self.variant(tx.update)(bad, tx.init(PARAMS), PARAMS)
    self.assertEqual(int(state.mask['a']['kernel'].sum()), 12)

  def test_whole_channels(self):
    spec = jax.sharding.PartitionSpec(None, 'x')
    costs = Costs({'x': 1}, [LayerCost(None, 'x', np.arange(7)[None])], rest=0)
    pattern = patterns.whole_channels({'kernel': spec}, costs, capacity=2)
    score = patterns.per_channel({'kernel': spec}, scores.magnitude)
    sparse = ste(pattern, decay=0.3, score=score)
    params = {'kernel': PARAMS['a']['kernel']}
    tx = sparse.transform(INNER)
    updates, state = tx.update(params, tx.init(params), params)
    params = optax.apply_updates(params, updates)
    sums = np.abs(params['kernel']).sum(0)
    _, mask = sparse.finish(params, state)
    best = np.isin(np.arange(6), np.argsort(-sums)[:2])
    np.testing.assert_array_equal(mask['kernel'], np.tile(best, (4, 1)))

  def test_the_state_is_found_and_mapped(self):
    tx = optax.chain(ste(TWO_OF_4, decay=0.3).transform(INNER))
    state = tx.init(PARAMS)
    shapes = jax.tree.map(jnp.shape, mask_of(state))
    self.assertEqual(
      shapes, {'a': {'bias': None, 'kernel': (4, 6)}, 'b': {'kernel': (3, 4)}}
    )
    found = optax.tree.map_params(tx, lambda x: x + 1, state)
    np.testing.assert_array_equal(flat(found[0].inner_state), 1)

  @parameterized.parameters(-0.1, math.inf, math.nan)
  def test_refuses_a_decay_that_is_none(self, decay):
    with self.assertRaisesRegex(ValueError, f'^`decay` must .* got {decay}.$'):
      ste(TWO_OF_4, decay=decay)

  def test_refuses_before_training(self):
    with self.assertRaisesRegex(TypeError, '^`pattern` must be .* got 0.9.$'):
      ste(0.9)
    tx = ste(TWO_OF_4, decay=0.3).transform(INNER)
    with self.assertRaisesRegex(ValueError, '^`update` needs the parameters'):
      tx.update(PARAMS, tx.init(PARAMS))
    with self.assertRaisesRegex(ValueError, "'b/kernel' .* not finite"):
      tx.init({**PARAMS, 'b': {'kernel': jnp.full((3, 4), jnp.nan)}})
