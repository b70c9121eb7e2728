import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl.testing import absltest, parameterized

import ong_jax
from ong_jax.methods.probmask import (
  budgets,
  concrete,
  inverse_temperatures,
  project,
)

_PARAMS = {
  'a': {
    'kernel': jax.random.normal(jax.random.key(0), (10, 8)),
    'bias': jnp.ones(8),
  },
  'b': {'kernel': jax.random.normal(jax.random.key(1), (5, 4))},
}  # 100 weights.


def _method(**options):
  options = {'sparsity': 0.8, 'interval': 2, 'num_intervals': 10} | options
  return ong_jax.probmask(**options)


def _grads(trainable, scale=1.0):
  return jax.tree.map(
    lambda x: scale * jax.random.normal(jax.random.key(2), x.shape), trainable
  )


def _total(tree):
  return sum(np.asarray(x, np.float64).sum() for x in jax.tree.leaves(tree))


def _brute_force(z, budget):
  """The best of all solutions whose entries are 0, 1 or z - v."""
  best, distance = None, np.inf
  for kinds in itertools.product((0, 1, None), repeat=len(z)):
    free = np.array([kind is None for kind in kinds])
    fixed = np.array([kind or 0 for kind in kinds], float)
    shifts = [0.0]
    if free.any():
      shifts.append((z[free].sum() + fixed.sum() - budget) / free.sum())
    for v in shifts:
      s = np.where(free, z - v, fixed)
      if s.min() < -1e-12 or s.max() > 1 + 1e-12 or s.sum() > budget + 1e-9:
        continue
      if (d := np.square(s - z).sum()) < distance:
        best, distance = s, d
  return best


class ProjectTest(parameterized.TestCase):
  @parameterized.parameters(
    ([0.9, 0.8, 0.1, 1.3, -0.2], 2, [0.566667, 0.466667, 0, 0.966667, 0]),
    ([1.4, 1.2, 0.3], 2, [1, 0.95, 0.05]),
    ([2.0, 0.5, 0.4, 0.3], 1.5, [1, 0.266667, 0.166667, 0.066667]),
    ([0.2, 0.3], 1, [0.2, 0.3]),
    ([1.0, 1.0, 1.0, 1.0], 1, [0.25, 0.25, 0.25, 0.25]),
  )
  def test_known_solutions(self, z, budget, expected):
    np.testing.assert_allclose(
      project(jnp.array(z), budget), expected, atol=1e-6
    )

  def test_agrees_with_brute_force(self):
    rng = np.random.default_rng(0)
    jitted = jax.jit(project)
    for _ in range(20):
      z = rng.normal(0.5, 0.8, size=5)
      budget = rng.uniform(0.1, 4)
      found = jitted(jnp.array(z, jnp.float32), budget)
      np.testing.assert_allclose(found, _brute_force(z, budget), atol=2e-6)

  def test_one_shift_for_the_whole_tree(self):
    z = np.random.default_rng(1).normal(0.6, 0.5, size=1000).astype('float32')
    flat = project(jnp.array(z), 100)
    tree = {'a': jnp.array(z[:300]).reshape(3, 100), 'b': jnp.array(z[300:])}
    split = project(tree, 100)
    parts = [np.ravel(split['a']), np.ravel(split['b'])]
    np.testing.assert_allclose(np.concatenate(parts), flat, atol=1e-6)
    self.assertBetween(_total(flat), 100 * (1 - 1e-5), 100 * (1 + 1e-6))
    np.testing.assert_allclose(project(flat, 100), flat, atol=1e-6)
    self.assertTrue((np.diff(np.asarray(flat)[np.argsort(z)]) >= 0).all())

  def test_its_laws(self):
    rng = np.random.default_rng(2)
    jitted = jax.jit(lambda z: project(z, 20.0))
    z, y = (rng.normal(0.6, 0.5, size=100).astype('float32') for _ in range(2))
    of_z, of_y = np.asarray(jitted(z)), np.asarray(jitted(y))
    self.assertBetween(of_z.min(), 0, of_z.max())
    self.assertLessEqual(of_z.max(), 1)
    self.assertLess(np.linalg.norm(of_z - of_y), np.linalg.norm(z - y))
    order = rng.permutation(100)
    np.testing.assert_allclose(jitted(z[order]), of_z[order], atol=1e-6)

  def test_within_the_budget_only_the_box_counts(self):
    z = jnp.array([0.2, 1.5, -0.5])
    np.testing.assert_allclose(project(z, 3), [0.2, 1.0, 0.0], rtol=1e-6)
    np.testing.assert_allclose(project(z, 0), [0, 0, 0], atol=1e-6)


class ConcreteTest(parameterized.TestCase):
  @parameterized.parameters(1.0, 4.0, 1000.0)
  def test_is_above_half_as_often_as_it_says(self, inverse):
    probabilities = {'kernel': jnp.full((200, 100), 0.3)}
    soft = concrete(jax.random.key(0), probabilities, inverse)['kernel']
    self.assertAlmostEqual(float((soft > 0.5).mean()), 0.3, delta=0.015)
    if inverse == 1000:
      self.assertLess(float(((soft > 0.01) & (soft < 0.99)).mean()), 0.01)

  @parameterized.parameters((0.5, 1.0), (0.3, 0.5))
  def test_its_noise_is_logistic(self, p, inverse):
    probabilities = {'kernel': jnp.full(4_000, p)}
    soft = concrete(jax.random.key(1), probabilities, inverse)['kernel']
    soft = np.asarray(soft, np.float64)
    noise = np.log(soft / (1 - soft)) / inverse - np.log(p / (1 - p))
    uniform = np.sort(1 / (1 + np.exp(-noise)))
    distance = abs(uniform - (np.arange(4_000) + 0.5) / 4_000).max()
    # Kolmogorov and Smirnov: one draw in a thousand is farther.
    self.assertLess(distance, 1.95 / np.sqrt(4_000))

  def test_hardens_to_the_mask_of_the_same_noise(self):
    probabilities = {'kernel': jnp.linspace(0.01, 0.99, 1_000)}
    soft, hard = (
      concrete(jax.random.key(0), probabilities, inverse)['kernel']
      for inverse in (1.0, 1e4)
    )
    off = abs(hard - (soft > 0.5))
    self.assertLess(float((off > 1e-3).mean()), 0.005)

  def test_layers_do_not_share_noise(self):
    probabilities = {'a': jnp.full(100, 0.5), 'b': jnp.full(100, 0.5)}
    soft = concrete(jax.random.key(0), probabilities, 1.0)
    self.assertLess(abs(np.corrcoef(soft['a'], soft['b'])[0, 1]), 0.4)

  def test_its_derivative(self):
    def soft(p):
      return concrete(jax.random.key(0), {'kernel': p}, 2.0)['kernel']

    p = jnp.array([0.2, 0.5, 0.9])
    m = soft(p)
    np.testing.assert_allclose(
      jax.grad(lambda p: soft(p).sum())(p),
      2 * m * (1 - m) / (p * (1 - p)),
      rtol=1e-4,
    )

  def test_is_alive_at_the_ends(self):
    ends = jnp.array([0.0, 1.0] * 500)
    grad = jax.grad(
      lambda p: concrete(jax.random.key(0), {'kernel': p}, 1.0)['kernel'].sum()
    )(ends)
    self.assertTrue(np.isfinite(grad).all())
    # Where a sample rounds to 1 there is none: one in ten at probability 1.
    self.assertTrue((np.asarray(grad)[::2] > 0).all())
    self.assertGreater((np.asarray(grad)[1::2] > 0).mean(), 0.8)


class ScheduleTest(parameterized.TestCase):
  def test_budget(self):
    kept = 1 - np.array(budgets(0.9, 300, (0.16, 0.6)))
    known = {0: 1, 48: 1, 49: 0.9797, 81: 0.479688, 114: 0.2125, 147: 0.114063}
    for e, value in known.items():
      self.assertAlmostEqual(kept[e], value, places=5)
    np.testing.assert_allclose(kept[180:], 0.1)
    self.assertLen(kept, 300)
    self.assertTrue((np.diff(kept) <= 0).all())

  def test_temperature(self):
    found = inverse_temperatures(300)
    known = {0: 1.0, 75: 1.3201, 150: 1.9417, 225: 3.6697, 299: 30.0903}
    for e, value in known.items():
      self.assertAlmostEqual(found[e], value, places=4)
    self.assertTrue((np.diff(found) > 0).all())


class EffectiveTest(absltest.TestCase):
  def test_gradients_of_weights_and_probabilities(self):
    method = _method()
    trainable = method.init(_PARAMS)
    probabilities = jax.tree.map(
      lambda p: jax.random.uniform(jax.random.key(5), p.shape) * 0.6 + 0.2,
      trainable.extra,
    )
    trainable = trainable._replace(extra=probabilities)
    state = method.transform(optax.sgd(0.1)).init(trainable)
    key = jax.random.key(6)

    def loss(params):
      return sum(jnp.sum(jnp.sin(x)) for x in jax.tree.leaves(params))

    @jax.jit
    def compute(trainable):
      return (
        jax.grad(lambda t: loss(method.effective(t, state, key)))(trainable),
        jax.grad(loss)(method.effective(trainable, state, key)),
        concrete(key, trainable.extra, 1.0),  # T of the first interval.
      )

    found, outer, soft = compute(trainable)
    for layer in ('a', 'b'):
      w, g, m, p = (
        np.asarray(tree[layer]['kernel'], np.float64)
        for tree in (_PARAMS, outer, soft, probabilities)
      )
      np.testing.assert_allclose(
        found.params[layer]['kernel'], g * m, rtol=1e-4, atol=1e-6
      )
      np.testing.assert_allclose(
        found.extra[layer]['kernel'],
        g * w * m * (1 - m) / (p * (1 - p)),
        rtol=1e-3,
        atol=1e-5,
      )
    np.testing.assert_allclose(found.params['a']['bias'], outer['a']['bias'])


class UpdateTest(parameterized.TestCase):
  def test_keeps_the_budget_of_each_interval(self):
    method = _method()
    trainable = method.init(_PARAMS)
    tx = method.transform(optax.sgd(0.01))
    update, state = jax.jit(tx.update), tx.init(trainable)
    expected = 100 - np.round(100 * np.array(budgets(0.8, 10, (0.16, 0.6))))
    for t in range(22):
      updates, state = update(_grads(trainable), state, trainable)
      trainable = optax.apply_updates(trainable, updates)
      budget = expected[min(t // 2, 9)]
      self.assertLessEqual(_total(trainable.extra), budget * (1 + 1e-5))
      if budget < 100:
        self.assertGreater(_total(trainable.extra), budget * 0.99)
    mask = method.finish(trainable, state)[1]
    self.assertEqual(sum(int(m.sum()) for m in jax.tree.leaves(mask)), 20)

  def test_without_gradients_only_the_projection_moves(self):
    method = _method()
    trainable = method.init(_PARAMS)
    tx = method.transform(optax.sgd(0.01))
    update, state = jax.jit(tx.update), tx.init(trainable)
    for t in range(14):
      updates, state = update(_grads(trainable, 0.0), state, trainable)
      trainable = optax.apply_updates(trainable, updates)
      kept = round(100 * (1 - budgets(0.8, 10, (0.16, 0.6))[t // 2]))
      for p in jax.tree.leaves(trainable.extra):  # From 1 for all, alike.
        np.testing.assert_allclose(p, kept / 100, rtol=1e-5)

  def test_equal_probabilities_end_in_the_exact_count(self):
    _, mask = _method().finish(_method().init(_PARAMS), None)
    self.assertEqual(sum(int(m.sum()) for m in jax.tree.leaves(mask)), 20)

  def test_clips_weights_and_probabilities_together(self):
    method = _method()
    trainable = method.init(_PARAMS)
    tx = method.transform(optax.sgd(1.0))
    small, large = (
      tx.update(_grads(trainable, s), tx.init(trainable), trainable)[0]
      for s in (1.0, 1000.0)
    )
    chex.assert_trees_all_close(small, large, rtol=1e-4)
    share = optax.tree.norm(_grads(trainable).params) / optax.tree.norm(
      _grads(trainable)
    )
    np.testing.assert_allclose(
      optax.tree.norm(small.params), 3 * share, rtol=1e-5
    )

  def test_a_drawn_mask_has_the_expected_count(self):
    trainable = _method().init({'kernel': jnp.ones((100, 100))})
    trainable = trainable._replace(extra={'kernel': jnp.full((100, 100), 0.3)})
    params, mask = _method().finish(trainable, None, jax.random.key(3))
    kept = int(mask['kernel'].sum())
    self.assertBetween(kept, 3000 - 5 * 46, 3000 + 5 * 46)
    np.testing.assert_array_equal(params['kernel'] != 0, mask['kernel'])

  def test_finds_what_matters(self):
    # Of 50 inputs, 5 decide.
    x = jax.random.normal(jax.random.key(4), (256, 50))
    y = x[:, :5].sum(1)
    method = _method(sparsity=0.9, interval=30, num_intervals=10, rate=0.05)
    trainable = method.init({'kernel': jnp.full((50, 1), 0.5)})
    tx = method.transform(optax.sgd(0.05))

    @jax.jit
    def step(trainable, state, key):
      def loss(trainable):
        params = method.effective(trainable, state, key)
        return jnp.mean((x @ params['kernel'][:, 0] - y) ** 2)

      updates, state = tx.update(jax.grad(loss)(trainable), state, trainable)
      return optax.apply_updates(trainable, updates), state

    state = tx.init(trainable)
    for i in range(300):
      trainable, state = step(trainable, state, jax.random.key(i))
    probabilities = trainable.extra['kernel'][:, 0]
    self.assertGreater(probabilities[:5].min(), probabilities[5:].max())

  def test_finds_a_supermask(self):
    # The target is made by a fifth of the very weights that are drawn.
    weights = jax.random.normal(jax.random.key(7), (50, 4))
    goal = jax.random.uniform(jax.random.key(8), (50, 4)) < 0.2
    x = jax.random.normal(jax.random.key(9), (256, 50))
    y = x @ jnp.where(goal, weights, 0)
    method = _method(
      interval=15, num_intervals=20, rate=0.05, train_weights=False
    )
    trainable = method.init({'kernel': weights})
    tx = method.transform(optax.adamw(0.1))

    def loss(params):
      return jnp.mean((x @ params['kernel'] - y) ** 2)

    @jax.jit
    def step(trainable, state, key):
      grads = jax.grad(lambda t: loss(method.effective(t, state, key)))
      updates, state = tx.update(grads(trainable), state, trainable)
      return optax.apply_updates(trainable, updates), state

    state = tx.init(trainable)
    before, _ = method.finish(trainable, state, jax.random.key(0))
    for i in range(300):
      trainable, state = step(trainable, state, jax.random.key(i))
    after, mask = method.finish(trainable, state)
    np.testing.assert_array_equal(trainable.params['kernel'], weights)
    np.testing.assert_array_equal(
      after['kernel'], jnp.where(mask['kernel'], weights, 0)
    )
    self.assertLess(loss(after), 0.1 * loss(before))

  @parameterized.named_parameters(
    ('sparsity', {'sparsity': 1.0}, '`sparsity` must be'),
    ('rate', {'rate': 0.0}, r'`rate` must lie in \(0, inf\); got 0.0'),
    ('clip', {'clip': np.nan}, r'`clip` must lie in \(0, inf\); got nan'),
    ('short', {'num_intervals': 1}, '`ramp`=.* of 1 intervals it begins in 0'),
    ('ramp', {'ramp': (0.5, 0.4)}, r'`ramp`=\(0.5, 0.4\) must take one'),
  )
  def test_refuses(self, bad, message):
    with self.assertRaisesRegex(ValueError, message):
      _method(**bad)


if __name__ == '__main__':
  absltest.main()
