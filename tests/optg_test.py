import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl.testing import absltest, parameterized

import ong_jax
from ong_jax.methods.optg import gate

_KEY = jax.random.key(0)
_PARAMS = {
  'a': {'kernel': jax.random.normal(_KEY, (6, 5)), 'bias': jnp.ones(5)},
  'b': {'kernel': jax.random.normal(_KEY, (5, 4))},
}  # 50 weights.
_GRADS = jax.tree.map(
  lambda w: jax.random.normal(jax.random.key(1), w.shape), _PARAMS
)
_INNER = optax.chain(
  optax.add_decayed_weights(0.1), optax.trace(0.9), optax.scale(-0.01)
)


def _method(**options):
  options = {'sparsity': 0.8, 'interval': 3, 'num_intervals': 5} | options
  return ong_jax.optg(**options)


def _steps(method, num_steps, score_grads, inner=_INNER):
  """Trains by gradients that stay the same: trainables, states."""
  trainable = method.init(_PARAMS)
  tx = method.transform(inner)
  update = jax.jit(tx.update)
  pairs = [(trainable, tx.init(trainable))]
  for _ in range(num_steps):
    trainable, state = pairs[-1]
    grads = ong_jax.Trainable(_GRADS, score_grads)
    updates, state = update(grads, state, trainable)
    pairs.append((optax.apply_updates(trainable, updates), state))
  return pairs


def _score_grads():
  return ong_jax.selection.select(_GRADS)


def _kept(state):
  return sum(int(m.sum()) for m in jax.tree.leaves(ong_jax.mask_of(state)))


class GateTest(parameterized.TestCase):
  @parameterized.parameters(
    (0, 1.93e-22), (45, 0.00669285), (50, 0.5), (55, 0.993307), (60, 0.999955)
  )
  def test_opens_in_the_middle(self, epoch, value):
    np.testing.assert_allclose(gate(100, 1.0)[epoch], value, rtol=1e-3)

  def test_does_not_overflow(self):
    gates = gate(1000, 50.0)
    self.assertEqual((gates[0], gates[-1]), (0.0, 1.0))


class GradientTest(parameterized.TestCase):
  def test_scores_get_w_times_the_gradient_and_weights_only_where_kept(self):
    method = _method()
    trainable, state = _steps(method, 9, _score_grads())[-1]
    mask = ong_jax.mask_of(state)
    self.assertLess(_kept(state), 50)

    def loss(params):
      return sum(jnp.sum(jnp.sin(x) * 3) for x in jax.tree.leaves(params))

    key = jax.random.key(2)
    effective = method.effective(trainable, state, key)
    outer = jax.grad(loss)(effective)
    found = jax.grad(lambda t: loss(method.effective(t, state, key)))(trainable)
    chex.assert_trees_all_equal(found.params, ong_jax.apply_mask(outer, mask))
    chex.assert_trees_all_equal(
      found.extra,
      jax.tree.map(
        jnp.multiply,
        ong_jax.selection.select(outer),
        ong_jax.selection.select(trainable.params),
      ),
    )
    pruned = [g[~m] for g, m in zip(*map(jax.tree.leaves, (found.extra, mask)))]
    self.assertTrue((np.concatenate(pruned) != 0).all())

  def test_agrees_with_the_surrogate_of_autodiff(self):
    method = _method()
    trainable, state = _steps(method, 9, _score_grads())[-1]
    mask = ong_jax.mask_of(state)

    def surrogate(trainable):
      return jax.tree.map(
        lambda w, x, m: (
          w if m is None else w * (jax.lax.stop_gradient(m - x) + x)
        ),
        *trainable,
        mask,
      )

    def loss(params):
      return sum(jnp.sum(jnp.sin(x)) for x in jax.tree.leaves(params))

    chex.assert_trees_all_close(
      jax.grad(lambda t: loss(method.effective(t, state)))(trainable),
      jax.grad(lambda t: loss(surrogate(t)))(trainable),
      rtol=1e-5,
    )

  def test_of_two_linear_layers_by_hand(self):
    method = _method()
    params = {'a': {'kernel': _PARAMS['a']['kernel']}, 'b': _PARAMS['b']}
    trainable = method.init(params)
    state = method.transform(_INNER).init(trainable)
    mask = jax.tree.map(lambda w: w > 0, params)
    state = state._replace(mask=mask)
    x = jax.random.normal(jax.random.key(3), (7, 6))

    def loss(trainable):
      effective = method.effective(trainable, state)
      return jnp.sum(x @ effective['a']['kernel'] @ effective['b']['kernel'])

    found = jax.grad(loss)(trainable)
    (u, v), (m, n) = (
      [np.asarray(tree[layer]['kernel']) for layer in ('a', 'b')]
      for tree in (params, mask)
    )
    ones = np.ones((7, 4))
    of_u, of_v = x.T @ ones @ (v * n).T, (x @ (u * m)).T @ ones
    for layer, g, w, keep in (('a', of_u, u, m), ('b', of_v, v, n)):
      np.testing.assert_allclose(
        found.params[layer]['kernel'], g * keep, rtol=1e-5, atol=1e-6
      )
      np.testing.assert_allclose(
        found.extra[layer]['kernel'], g * w, rtol=1e-5, atol=1e-6
      )

  def test_says_what_switching_a_weight_would_cost(self):
    # Of a quadratic loss, up to the term of second order, which is known.
    w = jnp.array([[2.0, -1.0, 0.5, 3.0]])
    target = jnp.array([[1.0, 1.0, -1.0, 0.5]])
    mask = jnp.array([[True, True, False, False]])
    method = _method(sparsity=0.5)
    trainable = method.init({'kernel': w})
    state = method.transform(_INNER).init(trainable)

    def loss(mask):
      return 0.5 * jnp.sum((jnp.where(mask, w, 0) - target) ** 2)

    def of_trainable(trainable):
      effective = method.effective(
        trainable, state._replace(mask={'kernel': mask})
      )
      return 0.5 * jnp.sum((effective['kernel'] - target) ** 2)

    scores = jax.grad(of_trainable)(trainable).extra['kernel']
    for i in range(4):
      change = loss(mask.at[0, i].set(~mask[0, i])) - loss(mask)
      sign = -1 if mask[0, i] else 1
      np.testing.assert_allclose(
        change - w[0, i] ** 2 / 2, sign * scores[0, i], rtol=1e-5
      )


class UpdateTest(parameterized.TestCase):
  def test_scores_sum_the_gated_momentum_without_decay(self):
    pairs = _steps(_method(beta=0.5), 7, _score_grads())
    gates = 1 / (1 + np.exp(-0.5 * (np.arange(5) - 2.5)))
    for t in range(8):
      factor = -0.01 * sum(
        gates[j // 3] * (1 - 0.9 ** (j + 1)) / 0.1 for j in range(t)
      )
      chex.assert_trees_all_close(
        pairs[t][0].extra,
        jax.tree.map(lambda g: g * factor, _score_grads()),  # noqa: B023
        rtol=1e-4,
      )

  def test_the_rate_of_scores_is_that_of_weights_times_the_gate(self):
    method = ong_jax.optg(sparsity=0.5, interval=1, num_intervals=100)
    rate = optax.cosine_decay_schedule(0.1, 100)
    trainable = method.init({'kernel': jnp.ones((2, 1))})
    tx = method.transform(optax.sgd(rate))
    update, state, rates = jax.jit(tx.update), tx.init(trainable), []
    ones = jax.tree.map(jnp.ones_like, trainable)
    for _ in range(100):
      updates, state = update(ones, state, trainable)
      rates.append(-float(updates.extra['kernel'][0, 0]))
      weights = -float(updates.params['kernel'][0, 0])
      self.assertAlmostEqual(
        rates[-1], weights * gate(100, 1.0)[len(rates) - 1], places=6
      )
    for e, value in {
      45: 3.87e-4,
      48: 6.334e-3,
      50: 0.025,
      52: 0.041275,
      55: 0.041896,
      75: 0.014645,
    }.items():
      np.testing.assert_allclose(rates[e], value, rtol=1e-3)
    self.assertEqual(np.argmax(rates), 53)

  def test_weights_follow_the_inner_optimizer(self):
    pairs = _steps(_method(), 4, _score_grads())
    params, state = _PARAMS, _INNER.init(_PARAMS)
    for _ in range(4):
      updates, state = _INNER.update(_GRADS, state, params)
      params = optax.apply_updates(params, updates)
    chex.assert_trees_all_close(pairs[-1][0].params, params, rtol=1e-5)

  def test_the_mask_is_held_for_an_interval(self):
    pairs = _steps(_method(beta=2.0), 20, _score_grads())
    gates = gate(5, 2.0)
    expected = [50, *(50 - round(50 * 0.8 * g) for g in gates[1:-1]), 10]
    for t, (_, state) in enumerate(pairs):
      self.assertEqual(_kept(state), expected[min(t // 3, 4)])
      if t % 3 or t > 12:
        chex.assert_trees_all_equal(
          ong_jax.mask_of(state), ong_jax.mask_of(pairs[t - 1][1])
        )

  def test_keeps_the_highest_scores_of_all_layers_signed(self):
    trainable, state = _steps(_method(), 12, _score_grads())[-1]
    leaves = map(jax.tree.leaves, (trainable.extra, ong_jax.mask_of(state)))
    pairs = [(np.ravel(x), np.ravel(m)) for x, m in zip(*leaves)]
    scores, kept = (np.concatenate(x) for x in zip(*pairs))
    self.assertEqual(kept.sum(), 10)
    self.assertGreaterEqual(scores[kept].min(), scores[~kept].max())

  def test_the_scale_and_the_origin_of_scores_do_not_matter(self):
    masks = []
    for factor, shift in ((1, 0), (0.5, 0), (1, 2048)):
      scores = jax.tree.map(  # Exact in any case.
        lambda g: factor * (jnp.round(g * 1024) - shift),  # noqa: B023
        _score_grads(),
      )
      masks.append(ong_jax.mask_of(_steps(_method(), 12, scores)[-1][1]))
    chex.assert_trees_all_equal(*masks[:2])
    chex.assert_trees_all_equal(masks[0], masks[2])

  def test_what_is_pruned_rests_without_momentum_and_decay(self):
    method = _method(beta=2.0)
    trainable, state = _steps(method, 9, _score_grads())[-1]
    mask = ong_jax.mask_of(state)
    tx = method.transform(optax.sgd(0.1))
    state = tx.init(trainable)._replace(mask=mask, count=state.count)

    @jax.jit
    def step(trainable, state):
      def loss(trainable):
        effective = method.effective(trainable, state)
        return sum(jnp.sum(jnp.sin(x)) for x in jax.tree.leaves(effective))

      updates, state = tx.update(jax.grad(loss)(trainable), state, trainable)
      return optax.apply_updates(trainable, updates), state

    rested, state = step(*step(trainable, state))
    for old, new, m in zip(
      *(
        jax.tree.leaves(ong_jax.selection.select(t.params))
        for t in (trainable, rested)
      ),
      jax.tree.leaves(mask),
    ):
      np.testing.assert_array_equal(old == new, ~m)

  def test_finds_a_supermask(self):
    # The target is made by a fifth of the very weights that are drawn.
    weights = jax.random.normal(jax.random.key(7), (50, 4))
    goal = jax.random.uniform(jax.random.key(8), (50, 4)) < 0.2
    x = jax.random.normal(jax.random.key(9), (256, 50))
    y = x @ jnp.where(goal, weights, 0)
    method = _method(interval=10, num_intervals=20, train_weights=False)
    trainable = method.init({'kernel': weights})
    tx = method.transform(_INNER)

    def loss(params):
      return jnp.mean((x @ params['kernel'] - y) ** 2)

    @jax.jit
    def step(trainable, state):
      grads = jax.grad(lambda t: loss(method.effective(t, state)))
      updates, state = tx.update(grads(trainable), state, trainable)
      return optax.apply_updates(trainable, updates), state

    state = tx.init(trainable)
    for _ in range(200):
      trainable, state = step(trainable, state)
    found, mask = method.finish(trainable, state)
    np.testing.assert_array_equal(trainable.params['kernel'], weights)
    self.assertEqual(int(mask['kernel'].sum()), 40)
    by_chance = ong_jax.random(jax.random.key(0), sparsity=0.8)
    before = ong_jax.apply_mask(
      {'kernel': weights}, by_chance(trainable.params)
    )
    self.assertLess(loss(found), 0.1 * loss(before))

  def test_equal_scores_do_not_change_the_count(self):
    zeros = jax.tree.map(jnp.zeros_like, _score_grads())
    self.assertEqual(_kept(_steps(_method(), 12, zeros)[-1][1]), 10)

  def test_what_was_pruned_returns_when_its_score_has_risen(self):
    method = _method(num_intervals=6)
    pairs = _steps(method, 12, _score_grads())
    trainable, state = pairs[-1]
    mask = ong_jax.mask_of(state)
    tx = method.transform(_INNER)
    # From here on, the gradients of what is pruned are negative.
    grads = ong_jax.Trainable(
      _GRADS, jax.tree.map(lambda m: jnp.where(m, 9.0, -9.0), mask)
    )
    for _ in range(3):
      updates, state = tx.update(grads, state, trainable)
      trainable = optax.apply_updates(trainable, updates)
    returned = jax.tree.map(
      lambda new, old: new & ~old, ong_jax.mask_of(state), mask
    )
    self.assertTrue(any(x.any() for x in jax.tree.leaves(returned)))
    self.assertEqual(_kept(state), 10)

  def test_finish_has_exact_zeros(self):
    method = _method()
    trainable, state = _steps(method, 12, _score_grads())[-1]
    params, mask = method.finish(trainable, state)
    nonzero = [
      int((x != 0).sum())
      for x in jax.tree.leaves(ong_jax.selection.select(params))
    ]
    self.assertEqual(sum(nonzero), 10)
    chex.assert_trees_all_equal(mask, ong_jax.mask_of(state))

  @parameterized.named_parameters(
    ('sparsity', {'sparsity': 1.0}, '`sparsity` must be'),
    ('interval', {'interval': 0}, '`interval` must be an integer'),
    ('intervals', {'num_intervals': 1}, '`num_intervals` must be at least 2'),
    ('beta', {'beta': 0.0}, r'`beta` must lie in \(0, inf\); got 0.0'),
  )
  def test_refuses(self, bad, message):
    with self.assertRaisesRegex(ValueError, message):
      _method(**bad)


if __name__ == '__main__':
  absltest.main()
