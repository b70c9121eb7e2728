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
  loss,
  train,
)

from ong_jax import masks, patterns, scores
from ong_jax.costs import Costs, LayerCost
from ong_jax.methods import mask_decay, structure_decay
from ong_jax.states import state_of

COLUMNS = {'kernel': PARAMS['a']['kernel']}
KEY = jax.random.key(0)
TWO_OF_4 = patterns.n_of_m(2, 4)
FADED = mask_decay(TWO_OF_4, start=2, end=6)
TIGHTENED = structure_decay(
  [patterns.n_of_m(n, 4) for n in (3, 2, 1)], boundaries=[2, 4, 7]
)


def reference(share, choose, num_steps):
  """A trajectory in NumPy.

  Args:
    share: `(w, mask, step) -> what each weight is multiplied by`.
    choose: `(w, mask, updates so far) -> mask`.
    num_steps: of training.

  Returns:
    Weights, momentum, and mask after each step.
  """
  w, target, found = flat(PARAMS), flat(TARGET), []
  mask, velocity = np.ones(42, bool), np.zeros(42)
  for step in range(num_steps):
    factor = share(w, mask, step)
    gradient = factor * (factor * w - target)
    velocity = MOMENTUM * velocity + gradient + DECAY * mask * w
    w = w - RATE * velocity
    mask = choose(w, mask, step + 1)
    w, velocity = w * mask, velocity * mask
    found.append((w, velocity, mask[6:]))
  return [np.stack(x) for x in zip(*found)]


def faded(w, mask, step):
  beta = min(1, max(0, 1 - (step - 2) / 4))
  best = best_of_4(np.abs(w), 2) if step < 6 else mask
  return np.where(best, 1, beta)


def tightened(w, mask, count):
  n = {2: 3, 4: 2, 7: 1}.get(count)
  return best_of_4(np.abs(w) * mask, n) if n else mask


def smallest(weights):
  """A score that prefers what is pruned."""
  return jax.tree.map(lambda w: -jnp.abs(w), weights)


def channels(capacity):
  """A pattern of COLUMNS, and how they are scored."""
  names = {'kernel': jax.sharding.PartitionSpec(None, 'x')}
  costs = Costs({'x': 1}, [LayerCost(None, 'x', np.arange(7)[None])], rest=0)
  pattern = patterns.whole_channels(names, costs, capacity)
  return pattern, patterns.per_channel(names, scores.magnitude)


class MaskDecayTest(parameterized.TestCase):
  def test_follows_numpy(self):
    params, states = train(FADED, PARAMS, 9)
    w, velocity, mask = reference(
      faded,
      lambda w, mask, n: best_of_4(np.abs(w), 2) if n == 6 else mask,
      9,
    )
    np.testing.assert_array_equal(flat_steps(states.mask), mask)
    np.testing.assert_allclose(flat_steps(params), w, rtol=1e-4, atol=1e-5)
    found = flat_steps(states.inner_state[1][0].trace)
    np.testing.assert_allclose(found, velocity, rtol=1e-4, atol=1e-5)
    for tree in (flat_steps(params), found):  # Exactly.
      np.testing.assert_array_equal(tree[5:, 6:][~mask[5:]], 0)
      self.assertTrue((tree[:5] != 0).all())

  def test_beta_leads_from_the_dense_network_to_the_pattern(self):
    state = FADED.transform(INNER).init(PARAMS)
    dense = flat(PARAMS).astype(np.float32)
    mask = best_of_4(np.abs(dense), 2)
    for step, beta in ((0, 1), (2, 1), (3, 0.75), (4, 0.5), (5, 0.25)):
      now = state._replace(count=jnp.array(step))
      found = flat(FADED.effective(PARAMS, now, KEY))
      share = np.where(mask, 1, np.float32(beta))
      np.testing.assert_array_equal(found, dense * share)

  def test_beta_may_be_0_early(self):
    early = mask_decay(TWO_OF_4, start=2, end=6, fade=lambda x: float(x == 0))
    state = early.transform(INNER).init(PARAMS)
    state = state._replace(count=jnp.array(3))
    chex.assert_trees_all_equal(
      early.effective(PARAMS, state, KEY), early.finish(PARAMS, state)[0]
    )

  def test_the_shape_of_the_decay_is_ones_own(self):
    exponential = mask_decay(
      TWO_OF_4, start=2, end=6, fade=lambda x: math.exp(-5 * x)
    )
    state = exponential.transform(INNER).init(PARAMS)
    state = state._replace(count=jnp.array(4))
    found = flat(exponential.effective(PARAMS, state, KEY)) / flat(PARAMS)
    outside = ~best_of_4(np.abs(flat(PARAMS)), 2)
    np.testing.assert_allclose(found[outside], math.exp(-2.5), rtol=1e-6)
    np.testing.assert_array_equal(found[~outside], 1)

  def test_gradients_carry_beta_where_weights_fade(self):
    state = FADED.transform(INNER).init(PARAMS)
    state = state._replace(count=jnp.array(5))
    found = jax.grad(lambda p: loss(FADED.effective(p, state, KEY)))(PARAMS)
    at = flat(jax.grad(loss)(FADED.effective(PARAMS, state, KEY)))
    mask = best_of_4(np.abs(flat(PARAMS)), 2)
    np.testing.assert_array_equal(flat(found), np.where(mask, at, 0.25 * at))

  @chex.variants(with_jit=True, without_jit=True)
  def test_what_is_deployed_has_the_pattern_at_any_step(self):
    params, states = train(FADED, PARAMS, 9)
    finish = self.variant(FADED.finish)
    for step in (0, 3, 5, 8):
      p, state = jax.tree.map(lambda x, i=step: x[i], (params, states))
      deployed, mask = finish(p, state)
      expected = best_of_4(np.abs(flat(p)), 2)
      np.testing.assert_array_equal(flat(mask), expected[6:])
      np.testing.assert_array_equal(flat(deployed), expected * flat(p))
      chex.assert_trees_all_equal(FADED.effective(p, state), deployed)
    chex.assert_trees_all_equal(deployed, p)

  def test_from_the_end_on_the_mask_is_fixed_whatever_is_scored(self):
    fixed = mask_decay(TWO_OF_4, start=2, end=4, score=smallest)
    params, states = train(fixed, PARAMS, 6)
    for leaf in jax.tree.leaves(states.mask):
      np.testing.assert_array_equal(leaf[3:], leaf[3:4].repeat(3, 0))
    p, state = jax.tree.map(lambda x: x[-1], (params, states))
    chex.assert_trees_all_equal(fixed.effective(p, state, KEY), p)

  def test_keeps_the_precision_of_the_weights(self):
    half = jax.tree.map(lambda p: p.astype(jnp.bfloat16), PARAMS)
    state = FADED.transform(INNER).init(half)
    state = state._replace(count=jnp.array(4))
    found = FADED.effective(half, state, KEY)
    chex.assert_trees_all_equal_dtypes(found, half)

  def test_whole_channels(self):
    pattern, score = channels(capacity=2)
    sparse = mask_decay(pattern, start=0, end=2, score=score)
    params, _ = train(sparse, COLUMNS, 3, jax.tree.map(jnp.negative, COLUMNS))
    alive = np.any(params['kernel'] != 0, axis=1).sum(-1)
    np.testing.assert_array_equal(alive, [6, 2, 2])

  @parameterized.parameters((-1, 6), (6, 6), (0.5, 6))
  def test_refuses_a_start_that_is_not_before_the_end(self, start, end):
    with self.assertRaisesRegex(
      ValueError, rf'^`start` must .* \[0, 6\), below `end`; got {start}.$'
    ):
      mask_decay(TWO_OF_4, start=start, end=end)

  @parameterized.named_parameters(
    ('not_1_at_first', lambda x: 0.9, 'got 0.9 for 0.$'),
    ('above_1', lambda x: 1 + x, 'got 1.25 for 0.25.$'),
    ('nan', lambda x: 1.0 if x < 0.5 else math.nan, 'got nan for 0.5.$'),
  )
  def test_refuses_what_is_no_beta(self, fade, message):
    with self.assertRaisesRegex(ValueError, f'^`fade` must .*{message}'):
      mask_decay(TWO_OF_4, start=2, end=6, fade=fade)

  def test_refuses_before_training(self):
    with self.assertRaisesRegex(ValueError, '^`end` must .* got 0.$'):
      mask_decay(TWO_OF_4, start=0, end=0)
    with self.assertRaisesRegex(TypeError, '^`pattern` must be .* got 0.9.$'):
      mask_decay(0.9, start=2, end=6)
    too_sparse = mask_decay(patterns.unstructured(0.99), start=2, end=6)
    with self.assertRaisesRegex(ValueError, '^`sparsity`=0.99 keeps'):
      too_sparse.transform(INNER).init(PARAMS)


class StructureDecayTest(parameterized.TestCase):
  def test_follows_numpy(self):
    params, states = train(TIGHTENED, PARAMS, 9)
    w, velocity, mask = reference(lambda w, mask, n: mask, tightened, 9)
    np.testing.assert_array_equal(flat_steps(states.mask), mask)
    np.testing.assert_allclose(flat_steps(params), w, rtol=1e-4, atol=1e-5)
    found = flat_steps(states.inner_state[1][0].trace)
    np.testing.assert_allclose(found, velocity, rtol=1e-4, atol=1e-5)
    for tree in (flat_steps(params), found):  # Exactly.
      np.testing.assert_array_equal(tree[:, 6:] != 0, mask)

  def test_masks_are_nested_and_exact(self):
    params, states = train(TIGHTENED, PARAMS, 9)
    for leaf in jax.tree.leaves(states.mask):
      kept = np.asarray(leaf)
      rows = kept.shape[1]
      for step, n in enumerate((4, 3, 3, 2, 2, 2, 1, 1, 1)):
        np.testing.assert_array_equal(kept[step].sum(0), min(n, rows))
      self.assertFalse((kept[1:] & ~kept[:-1]).any())
    for step in range(9):
      p, state = jax.tree.map(lambda x, i=step: x[i], (params, states))
      finished, mask = TIGHTENED.finish(p, state)
      chex.assert_trees_all_equal(mask, state.mask)
      for found in (finished, TIGHTENED.effective(p, state, KEY)):
        chex.assert_trees_all_equal(found, p)

  def test_masks_are_nested_whatever_is_scored(self):
    tight = structure_decay(
      [patterns.n_of_m(n, 4) for n in (3, 2, 1)],
      boundaries=[1, 2, 3],
      score=smallest,
    )
    _, states = train(tight, PARAMS, 4)
    for leaf in jax.tree.leaves(states.mask):
      kept = np.asarray(leaf)
      self.assertFalse((kept[1:] & ~kept[:-1]).any())
      np.testing.assert_array_equal(kept[-1].sum(0), 1)

  def test_may_begin_pruned(self):
    tight = structure_decay([TWO_OF_4], boundaries=[0])
    state = tight.transform(INNER).init(PARAMS)
    expected = best_of_4(np.abs(flat(PARAMS)), 2)
    np.testing.assert_array_equal(flat(state.mask), expected[6:])

  def test_a_target_that_is_not_nested_is_met_exactly(self):
    params = {'kernel': jnp.arange(1.0, 9)[:, None]}  # The last four are kept.
    loose = patterns.unstructured(0.5)
    tight = structure_decay([loose, TWO_OF_4], boundaries=[0, 1])
    tx = tight.transform(optax.sgd(0.0))
    updates, state = tx.update(params, tx.init(params), params)
    params = optax.apply_updates(params, updates)
    self.assertEqual(params['kernel'].ravel().tolist(), [0] * 6 + [7, 8])
    kept = state.mask['kernel'].reshape(2, 4).sum(1)
    np.testing.assert_array_equal(kept, 2)

  def test_whole_channels(self):
    (loose, score), (target, _) = channels(4), channels(2)
    sparse = structure_decay([loose, target], boundaries=[1, 2], score=score)
    params, _ = train(sparse, COLUMNS, 3, jax.tree.map(jnp.negative, COLUMNS))
    alive = np.any(params['kernel'] != 0, axis=1).sum(-1)
    np.testing.assert_array_equal(alive, [4, 2, 2])

  @parameterized.named_parameters(
    ('of_another_number', [1], 'got 1 for 2.$'),
    ('that_fall', [3, 2], r'got \[3, 2\].$'),
    ('that_are_equal', [3, 3], r'got \[3, 3\].$'),
    ('below_0', [-1, 3], r'got \[-1, 3\].$'),
    ('that_are_no_integers', [0.5, 3], r'got \[0.5, 3\].$'),
  )
  def test_refuses_boundaries(self, boundaries, message):
    with self.assertRaisesRegex(ValueError, f'^`boundaries` must .*{message}'):
      structure_decay([TWO_OF_4, TWO_OF_4], boundaries=boundaries)

  def test_refuses_patterns(self):
    with self.assertRaisesRegex(ValueError, 'must be some; got 0 for 0.$'):
      structure_decay([], boundaries=[])
    with self.assertRaisesRegex(TypeError, '^`pattern` must be .* got 2.$'):
      structure_decay([2], boundaries=[1])
    loosens = structure_decay(
      [patterns.n_of_m(1, 4), TWO_OF_4], boundaries=[1, 2]
    )
    with self.assertRaisesRegex(
      ValueError, '^`patterns` must .* 1 keeps 20 weights, .* only 10.$'
    ):
      loosens.transform(INNER).init(PARAMS)


class StateTest(parameterized.TestCase):
  @parameterized.named_parameters(
    ('mask_decay', FADED), ('structure_decay', TIGHTENED)
  )
  def test_is_found_and_mapped(self, sparse):
    tx = optax.chain(sparse.transform(INNER))
    state = tx.init(PARAMS)
    self.assertEqual(int(state_of(state).count), 0)
    found = optax.tree.map_params(tx, lambda x: x + 1, state)
    np.testing.assert_array_equal(flat(found[0].inner_state), 1)

  @parameterized.named_parameters(
    ('mask_decay', FADED), ('structure_decay', TIGHTENED)
  )
  def test_gradients_that_are_not_finite_do_not_reach_pruned_weights(
    self, sparse
  ):
    params, states = train(sparse, PARAMS, 9)
    params, state = jax.tree.map(lambda x: x[-1], (params, states))
    bad = jax.tree.map(
      lambda p, m: p if m is None else jnp.where(m, p, jnp.nan),
      params,
      state.mask,
    )
    updates, _ = sparse.transform(INNER).update(bad, state, params)
    params = optax.apply_updates(params, updates)
    chex.assert_trees_all_equal(params, masks.apply_mask(params, state.mask))
    self.assertTrue(np.isfinite(flat(params)).all())
