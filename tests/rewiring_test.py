import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl.testing import absltest, parameterized
from toy_problem import PARAMS, loss

import ong_jax
from ong_jax import allocation, patterns, schedules
from ong_jax.rewiring import make_rewiring
from ong_jax.states import SparseState

_KEY = jax.random.key(0)
_HALF = patterns.unstructured(0.5)  # Keeps 12 of 'a', and 6 of 'b'.
_INTERVAL, _FRACTIONS = 2, (0.5, 0.4, 0.2)
_RIGL = ong_jax.rigl(_KEY, _HALF, interval=_INTERVAL, fractions=_FRACTIONS)
_SET = ong_jax.set_(_KEY, _HALF, interval=_INTERVAL, fractions=_FRACTIONS)
_AVERAGED = ong_jax.rigl(
  _KEY, _HALF, interval=_INTERVAL, fractions=_FRACTIONS, average=2
)
_MOMENTUM = optax.sgd(0.1, 0.9)
_LEAVES = {'a': {'bias': 'dense', 'kernel': 'sparse'}, 'b': 'sparse'}
_SUBTREES = {'a': 'sparse', 'b': 'dense'}


def _inside(inner):
  return lambda method: method.transform(inner)


def _partition(labels):
  return lambda method: optax.partition(
    {'sparse': method.transform(_MOMENTUM), 'dense': _MOMENTUM}, labels
  )


def _inject(method):
  def make(learning_rate):
    return method.transform(optax.adam(learning_rate))

  return optax.inject_hyperparams(make)(learning_rate=0.1)


# What goes inside a method, or around it: method -> transformation.
_OPTIMIZERS = {
  'momentum': _inside(_MOMENTUM),
  'adamw': _inside(optax.adamw(0.1, weight_decay=0.1)),
  'lion': _inside(optax.lion(0.1)),
  'rmsprop': _inside(optax.rmsprop(0.1, momentum=0.9)),
  'lamb': _inside(optax.lamb(0.1)),
  'adafactor': _inside(optax.adafactor(0.1)),
  'muon': _inside(optax.contrib.muon(0.1)),
  'schedule_free': _inside(optax.contrib.schedule_free_sgd(0.1)),
  'noise': _inside(optax.chain(optax.add_noise(0.1, 0.5, 0), _MOMENTUM)),
  'inject_inside': _inside(optax.inject_hyperparams(optax.adam)(0.1)),
  'inject_around': _inject,
  'finite_inside': _inside(optax.apply_if_finite(_MOMENTUM, 5)),
  'finite_around': lambda m: optax.apply_if_finite(m.transform(_MOMENTUM), 5),
  'multi_inside': _inside(optax.MultiSteps(_MOMENTUM, 2)),
  'multi_around': lambda m: optax.MultiSteps(m.transform(_MOMENTUM), 2),
  'partition_inside': _inside(
    optax.partition({'sparse': optax.adam(0.1), 'dense': _MOMENTUM}, _LEAVES)
  ),
  'partition_around': _partition(_LEAVES),
  'partition_of_subtrees': _partition(_SUBTREES),
}
_SOME = ('momentum', 'schedule_free', 'multi_around', 'partition_of_subtrees')
_CASES = [('rigl_' + name, name, _RIGL) for name in _OPTIMIZERS]
_CASES += [('set_' + name, name, _SET) for name in _SOME]
_CASES += [('averaged_' + name, name, _AVERAGED) for name in _SOME[2:]]


def _train(method, tx, num_steps):
  """[(params, opt_state)] of the outset and after each step."""
  traces = []

  @jax.jit
  def step(params, state):
    traces.append(1)
    grads = jax.grad(lambda p: loss(method.effective(p, state)))(params)
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state

  found = [(PARAMS, jax.jit(tx.init)(PARAMS))]
  for _ in range(num_steps):
    found.append(step(*found[-1]))
  assert len(traces) == 1, 'A step compiled again.'
  return found


def _kernels(tree):
  return [x for x in jax.tree.leaves(tree) if np.ndim(x) == 2]


class OptimizersTest(parameterized.TestCase):
  @parameterized.named_parameters(_CASES)
  def test_counts_zeros_and_moments_are_exact(self, name, method):
    tx = _OPTIMIZERS[name](method)
    num_steps = 16 if name == 'multi_around' else 8
    steps = _train(method, tx, num_steps)[1:]
    sparse = ['a'] if name == 'partition_of_subtrees' else ['a', 'b']
    before, replaced = steps[0], []
    for params, state in steps[0 if name != 'multi_around' else 1 :]:
      chex.assert_tree_all_finite(params)
      own = ong_jax.state_of(state, params)
      inner = own.inner_state
      if method is _AVERAGED:  # The sum of gradients is no moment.
        inner = inner.inner_state
      finished, mask = method.finish(params, state)
      chex.assert_trees_all_equal(finished, params)
      self.assertIsNone(mask['a']['bias'])
      old = ong_jax.mask_of(before[1], params)
      for layer in sparse:
        new, was = mask[layer]['kernel'], old[layer]['kernel']
        self.assertEqual(new.sum(), new.size // 2)
        np.testing.assert_array_equal(params[layer]['kernel'][~new], 0)
        mirrors = [x for x in _kernels(inner) if x.shape == new.shape]
        self.assertNotEmpty(mirrors)
        for x in mirrors:
          self.assertTrue(np.isfinite(x).all())
          np.testing.assert_array_equal(x[new ^ was], 0)
          if name not in ('adafactor', 'noise'):  # They add something.
            np.testing.assert_array_equal(x[~new], 0)
        if (new != was).any():
          replaced.append((layer, int(own.count), int((new & ~was).sum())))
      if 'b' not in sparse:
        self.assertIsNone(mask['b']['kernel'])
      before = params, state
    expected = [  # floor(z n), at the end of every second step.
      *[('a', 2, 6), ('b', 2, 3)],
      *[('a', 4, 4), ('b', 4, 2)],
      *[('a', 6, 2), ('b', 6, 1)],
    ]
    self.assertEqual(replaced, [x for x in expected if x[0] in sparse])
    moved = jax.tree.map(lambda x, y: (x != y).any(), PARAMS, before[0])
    self.assertTrue(all(jax.tree.leaves(moved)))

  @parameterized.named_parameters(('set', _SET), ('rigl', _RIGL))
  def test_schedule_free_is_evaluated_at_zeros_too(self, method):
    tx = _OPTIMIZERS['schedule_free'](method)
    for params, state in _train(method, tx, 8)[1:]:
      inner = ong_jax.state_of(state).inner_state
      params = optax.contrib.schedule_free_eval_params(inner, params)
      for x, m in zip(_kernels(params), _kernels(ong_jax.mask_of(state))):
        np.testing.assert_array_equal(x[~m], 0)
        self.assertTrue(np.any(x[m] != 0))

  @parameterized.named_parameters(('set', _SET), ('rigl', _RIGL))
  def test_map_params(self, method):
    tx = method.transform(optax.adam(0.1))
    state = optax.tree.map_params(tx, jnp.ones_like, tx.init(PARAMS))
    found = [x for x in _kernels(state) if x.dtype == jnp.float32]
    moments = [x for x in found if (x == 1).all()]
    self.assertLen(moments, 4)


class PlanTest(parameterized.TestCase):
  @parameterized.named_parameters(
    ('uniform', _HALF, [12, 6]),
    ('erk', patterns.unstructured(0.75, allocation.erk), [5, 4]),
    ('pooled', patterns.unstructured(0.75, allocation.pooled), [9]),
    ('two_of_four', patterns.n_of_m(2, 4), [12, 8]),
  )
  def test_begins_with_a_random_mask_of_the_pattern(self, pattern, counts):
    masks = [
      make_rewiring(jax.random.key(i), pattern, 1, [0.3]).begin(PARAMS)
      for i in (0, 0, 1)
    ]
    chex.assert_trees_all_equal(*masks[:2])
    pairs = zip(_kernels(masks[0]), _kernels(masks[2]))
    self.assertTrue(any((x != y).any() for x, y in pairs))
    self.assertIsNone(masks[0]['a']['bias'])
    found = [int(m.sum()) for m in _kernels(masks[0])]
    self.assertEqual(found if len(counts) > 1 else [sum(found)], counts)

  def test_begins_with_what_is_given(self):
    mask = ong_jax.magnitude(sparsity=0.5)(PARAMS)
    for first in (mask, ong_jax.magnitude(sparsity=0.5)):
      wiring = make_rewiring(_KEY, _HALF, 1, [0.3], first)
      chex.assert_trees_all_equal(wiring.begin(PARAMS), mask)

  def test_what_is_prunable_is_what_the_first_mask_says(self):
    def only_b(path, leaf):
      return "'b'" in str(path)

    mask = make_rewiring(_KEY, _HALF, 1, [0.3], prunable=only_b).begin(PARAMS)
    self.assertIsNone(mask['a']['kernel'])
    self.assertEqual(int(mask['b']['kernel'].sum()), 6)

  def test_updates_after_every_interval_until_the_last(self):
    wiring = make_rewiring(_KEY, _HALF, 5, [0.3, 0.0, 0.1])
    steps = range(1, 30)
    found = [i for i in steps if wiring.updates_within(i)]
    self.assertEqual(found, [5, 10, 15])
    found = [i for i in steps if wiring.updates_within(i, 3)]
    self.assertEqual(found, [3, 4, 5, 8, 9, 10, 13, 14, 15])
    found = [i for i in steps if wiring.updates_within(i, 5)]
    self.assertEqual(found, list(range(1, 16)))
    never = make_rewiring(_KEY, _HALF, 5, [])
    self.assertFalse(any(never.updates_within(i) for i in steps))

  def test_a_fraction_of_0_replaces_nothing(self):
    fractions = [0.0, *schedules.cosine_decay(0.3, 3)]
    wiring = make_rewiring(_KEY, _HALF, 1, fractions)
    mask, replaced, renew = wiring.begin(PARAMS), [], jax.jit(wiring.renew)
    for i in range(6):
      state = SparseState(jnp.array(i + 1), mask, ())
      mask = renew(PARAMS, state).mask
      pairs = zip(_kernels(mask), _kernels(state.mask))
      replaced.append([int((m & ~old).sum()) for m, old in pairs])
    # Of 12 and 6 weights 0.3, 0.225, 0.075; then it is over.
    self.assertEqual(replaced, [[0, 0], [3, 1], [2, 1], [0, 0], [0, 0], [0, 0]])

  def test_counts_of_a_given_mask_become_those_of_the_pattern(self):
    for sparsity in (0.25, 0.75):
      first = ong_jax.magnitude(sparsity=sparsity)
      wiring = make_rewiring(_KEY, _HALF, 1, [0.3], first)
      state = SparseState(jnp.array(1), wiring.begin(PARAMS), ())
      total = sum(int(m.sum()) for m in _kernels(state.mask))
      self.assertEqual(total, {0.25: 27, 0.75: 9}[sparsity])
      mask = wiring.renew(PARAMS, state).mask
      self.assertEqual([int(m.sum()) for m in _kernels(mask)], [12, 6])

  @parameterized.named_parameters(
    ('a_sparsity', {'pattern': 0.9}, TypeError, r'`pattern` must .* got 0.9.$'),
    (
      'channels',
      {
        'pattern': patterns.Pattern(
          lambda scores: scores, lambda kept, params: params
        )
      },
      ValueError,
      '`pattern` must be of single weights',
    ),
    (
      'no_steps',
      {'interval': 0},
      ValueError,
      '`interval` must be an integer of at least 1; got 0.$',
    ),
    (
      'one_fraction',
      {'fractions': 0.3},
      TypeError,
      r'`fractions` must have a number for each .*cosine_decay.* got 0.3.$',
    ),
    (
      'all',
      {'fractions': [0.5, 1.0]},
      ValueError,
      r'`fractions` must lie in \[0, 1\); got 1.0.$',
    ),
    (
      'not_a_number',
      {'fractions': [float('nan')]},
      ValueError,
      r'`fractions` must lie in \[0, 1\); got nan.$',
    ),
  )
  def test_refuses(self, options, error, message):
    options = {'pattern': _HALF, 'interval': 1, 'fractions': [0.3]} | options
    for make in (ong_jax.set_, ong_jax.rigl):
      with self.assertRaisesRegex(error, message):
        make(_KEY, **options)

  def test_refuses_before_training_what_an_update_would(self):
    pattern = patterns.unstructured(0.5, floor=0.2)
    for make in (ong_jax.set_, ong_jax.rigl):
      method = make(_KEY, pattern, interval=1, fractions=[0.1, 0.7])
      with self.assertRaisesRegex(ValueError, '`floor`=0.2 is more than a cut'):
        method.transform(_MOMENTUM).init(PARAMS)
      method = make(_KEY, _HALF, interval=1, fractions=[0.1], first=_mask(3))
      with self.assertRaisesRegex(ValueError, "'a/kernel' has shape"):
        method.transform(_MOMENTUM).init(PARAMS)


def _mask(size):
  ones = jnp.ones(size, bool)
  return {'a': {'bias': None, 'kernel': ones}, 'b': {'kernel': ones}}


if __name__ == '__main__':
  absltest.main()
