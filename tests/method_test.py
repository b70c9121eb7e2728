import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl.testing import parameterized

import ong_jax
from ong_jax import allocation, masks, method, pruners, transforms
from ong_jax.method import SparseMethod

NAN = np.nan
PARAMS = {
  'a': {'kernel': jnp.array([[1.0, -4, 3], [2, 6, -5]]), 'bias': jnp.ones(3)},
  'b': {'kernel': jnp.array([[-7.0, 8]])},
}
MASK = {
  'a': {
    'kernel': jnp.array([[True, False, False], [False, True, True]]),
    'bias': None,
  },
  'b': {'kernel': jnp.array([[False, True]])},
}
MASKED = {
  'a': {'kernel': jnp.array([[1.0, 0, 0], [0, 6, -5]]), 'bias': jnp.ones(3)},
  'b': {'kernel': jnp.array([[0.0, 8]])},
}
# The mask is found wherever wrappers put it.
STATE = optax.apply_if_finite(
  transforms.masked_transform(optax.adam(0.1), MASK), 1
).init(PARAMS)
KEYS = (('with_a_key', True), ('without', False))


def key_if(given):
  return (jax.random.key(0),) if given else ()


def squares(params):
  return sum(0.5 * (x**2).sum() for x in jax.tree.leaves(params))


class MaskedTest(parameterized.TestCase):
  @parameterized.named_parameters(*KEYS)
  def test_applies_the_mask_of_the_state(self, key):
    found = method.masked(PARAMS, STATE, *key_if(key))
    chex.assert_trees_all_equal(found, MASKED)
    found = method.finish_masked(PARAMS, STATE, *key_if(key))
    chex.assert_trees_all_equal(found, (MASKED, MASK))

  def test_gradients_flow_to_survivors_alone(self):
    grads = jax.grad(lambda p: squares(method.masked(p, STATE)))(PARAMS)
    chex.assert_trees_all_equal(grads, MASKED)


class StraightThroughTest(parameterized.TestCase):
  @parameterized.named_parameters(*KEYS)
  def test_runs_on_survivors(self, key):
    found = method.straight_through(PARAMS, STATE, *key_if(key))
    chex.assert_trees_all_equal(found, MASKED)

  @chex.variants(with_jit=True, without_jit=True)
  def test_every_weight_gets_the_gradient_at_the_masked_ones(self):
    def loss(params):  # Whose derivative is not 0 at a weight that is 0.
      return sum((x + 1.5 * x**2).sum() for x in jax.tree.leaves(params))

    def through(params, state):
      return loss(method.straight_through(params, state))

    found = self.variant(jax.grad(through))(PARAMS, STATE)
    expected = jax.tree.map(lambda w: 1 + 3 * w, MASKED)
    chex.assert_trees_all_equal(found, expected)

  def test_what_is_behind_the_mask_is_exactly_0(self):
    params = {'kernel': jnp.array([[NAN, np.inf, 1e30, 2]])}
    mask = {'kernel': jnp.array([[False, False, False, True]])}
    state = transforms.masked_transform(optax.sgd(0.1), mask).init(params)

    def run(params):
      return squares(method.straight_through(params, state))

    found = method.straight_through(params, state)
    chex.assert_trees_all_equal(found, {'kernel': jnp.array([[0.0, 0, 0, 2]])})
    chex.assert_trees_all_equal(jax.grad(run)(params), found)

  def test_refuses_a_mask_that_does_not_fit(self):
    params = {**PARAMS, 'b': {'kernel': jnp.ones((2, 2))}}
    with self.assertRaisesRegex(
      ValueError, r"^Mask leaf 'b/kernel' has shape \(1, 2\), but its "
    ):
      method.straight_through(params, STATE)


class KeepBestTest(parameterized.TestCase):
  @parameterized.named_parameters(
    ('pooled', (), [[0, 0, 0], [0, 1, 1]], [[1, 1]]),
    ('by_leaf', (allocation.uniform,), [[0, 1, 0], [0, 1, 1]], [[0, 1]]),
  )
  def test_keeps_the_best_whatever_the_weights(self, allocate, in_a, in_b):
    ranked = jax.tree.map(lambda w: w**2, PARAMS)
    ranked['a']['bias'] = None
    params, mask = method.keep_best(PARAMS, ranked, 0.5, *allocate)
    expected = {
      'a': {'kernel': jnp.array(in_a, bool), 'bias': None},
      'b': {'kernel': jnp.array(in_b, bool)},
    }
    chex.assert_trees_all_equal(mask, expected)
    chex.assert_trees_all_equal(params, masks.apply_mask(PARAMS, expected))
    self.assertEqual(params['a']['bias'].sum(), 3)

  def test_the_count_is_exact_under_ties(self):
    ranked = jax.tree.map(jnp.zeros_like, PARAMS)
    ranked['a']['bias'] = None
    for sparsity, kept in ((0, 8), (0.5, 4), (0.65, 3), (0.75, 2)):
      _, mask = method.keep_best(PARAMS, ranked, sparsity)
      self.assertEqual(sum(int(m.sum()) for m in jax.tree.leaves(mask)), kept)

  def test_refuses_what_would_leave_too_few(self):
    with self.assertRaisesRegex(ValueError, '^`sparsity`=0.9 keeps 1 of 11 '):
      method.keep_best(PARAMS, PARAMS, 0.9)


METHODS = {
  name: functools.partial(make, **options)
  for name, make, options in (
    ('gmp', ong_jax.gmp, {'interval': 1, 'num_updates': 3}),
    ('dpf', ong_jax.dpf, {'interval': 1, 'num_updates': 3}),
    ('dnw', ong_jax.dnw, {}),
    ('top_kast', ong_jax.top_kast, {'backward_sparsity': 0.5}),
    ('ac_dc', ong_jax.ac_dc, {'boundaries': [1]}),
    ('gsm', ong_jax.gsm, {}),
    ('lc', ong_jax.lc, {'weight_decay': 0.1}),
    ('iss_p', ong_jax.iss_p, {}),
    ('str', ong_jax.str_, {}),
    ('dst', ong_jax.dst, {}),
    ('cs', ong_jax.cs, {'num_steps': 3}),
  )
}


class PrunesToTest(parameterized.TestCase):
  @parameterized.named_parameters(METHODS.items())
  def test_too_high_a_sparsity_is_refused_before_training(self, make):
    method = make(sparsity=0.9)  # Of 8 weights in two leaves: 1 is left.
    with self.assertRaisesRegex(ValueError, 'keeps 1 of 8 weights, fewer than'):
      method.transform(optax.sgd(0.1)).init(method.init(PARAMS))

  @parameterized.named_parameters(  # STR's update is that of the inner one.
    item for item in METHODS.items() if item[0] != 'str'
  )
  def test_an_update_needs_the_params(self, make):
    method = make(sparsity=0.5)
    trainable = method.init(PARAMS)
    tx = method.transform(optax.sgd(0.1))
    with self.assertRaisesRegex(ValueError, '^`update` needs the parameters'):
      tx.update(trainable, tx.init(trainable))


class CheckTrainableTest(parameterized.TestCase):
  @parameterized.named_parameters(
    item for item in METHODS.items() if item[0] in ('str', 'dst', 'cs')
  )
  def test_params_are_not_what_these_methods_train(self, make):
    method = make(sparsity=0.5)
    with self.assertRaisesRegex(TypeError, 'what `method.init.*; got dict'):
      method.effective(PARAMS, None)


class SparseMethodTest(parameterized.TestCase):
  def test_by_default_a_method_changes_no_training_and_applies_its_mask(self):
    plain, inner = SparseMethod(), optax.sgd(0.1)
    self.assertIs(plain.transform(inner), inner)
    self.assertIs(plain.init(PARAMS), PARAMS)
    self.assertIs(plain.tracks_statistics(STATE), True)
    chex.assert_trees_all_equal(plain.effective(PARAMS, STATE), MASKED)
    chex.assert_trees_all_equal(plain.finish(PARAMS, STATE), (MASKED, MASK))

  @parameterized.named_parameters(*KEYS)
  def test_dense_returns_what_it_is_given(self, key):
    self.assertIs(method.dense(PARAMS, STATE, *key_if(key)), PARAMS)


class StaticTest(parameterized.TestCase):
  def test_trains_and_finishes_under_one_mask(self):
    static = method.static(MASK)
    self.assertIs(static.init(PARAMS), PARAMS)
    tx = static.transform(optax.adam(0.1))
    state = tx.init(PARAMS)
    self.assertIs(static.tracks_statistics(state), True)
    updates, state = tx.update(PARAMS, state, PARAMS)
    params = optax.apply_updates(PARAMS, updates)
    expected = masks.apply_mask(params, MASK)
    chex.assert_trees_all_equal(params, expected)
    for key in ((), (jax.random.key(0),)):
      effective = static.effective(PARAMS, state, *key)
      chex.assert_trees_all_equal(effective, MASKED)
      found = static.finish(PARAMS, state, *key)
      chex.assert_trees_all_equal(found, (MASKED, MASK))

  def test_a_pruner_sees_the_weights_of_the_start(self):
    prune = pruners.magnitude(sparsity=0.5)
    static = method.static(prune)
    tx = optax.MultiSteps(static.transform(optax.sgd(1.0)), 2)
    state = tx.init(PARAMS)
    later = jax.tree.map(lambda p: p[:, ::-1] if p.ndim > 1 else p, PARAMS)
    mask = static.finish(later, state)[1]
    chex.assert_trees_all_equal(mask, prune(PARAMS))

  def test_gradients_flow_to_survivors_alone(self):
    static = method.static(MASK)
    state = static.transform(optax.sgd(0.1)).init(PARAMS)

    def total(params):
      effective = static.effective(params, state, None)
      return sum(x.sum() for x in jax.tree.leaves(effective))

    ones = jax.tree.map(jnp.ones_like, PARAMS)
    chex.assert_trees_all_equal(
      jax.grad(total)(PARAMS), masks.apply_mask(ones, MASK)
    )
