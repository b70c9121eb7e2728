import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl.testing import absltest, parameterized

from experiments import options
from experiments.config import Config
from experiments.methods import METHODS
from experiments.plan import Run
from ong_jax import masks


def _params():
  key = jax.random.key(0)
  return {
    'conv1': {'kernel': jax.random.normal(key, (3, 3, 4, 8))},
    'block': {
      'shortcut_conv': {'kernel': jax.random.normal(key, (1, 1, 8, 8))}
    },
    'linear': {
      'kernel': jax.random.normal(key, (16, 10)),
      'bias': jnp.zeros(10),
    },
  }


def _segments(name, given=None, **fields):
  recipe = METHODS[name].recipe
  run = Run(Config(method=name, **fields), steps_per_epoch=40)
  return recipe(run, **options.complete(recipe, given or {}, run))


def _mask(name, given=None, **fields):
  """The mask that the first segment of a method begins with."""
  return _segments(name, given, **fields)[0].prune(_params(), None)[1]


class MethodsTest(parameterized.TestCase):
  @parameterized.parameters('ong', 'magnitude', 'ong-reconstructed')
  def test_training_seed_does_not_change_the_mask(self, name):
    chex.assert_trees_all_equal(_mask(name, seed=0), _mask(name, seed=1))

  def test_random_follows_the_seed(self):
    first, second = _mask('random', seed=0), _mask('random', seed=1)
    same = [
      bool((a == b).all())
      for a, b in zip(*map(jax.tree.leaves, (first, second)))
    ]
    self.assertFalse(all(same))

  def test_reference_set_leaves_classifier_and_shortcuts_dense(self):
    mask = _mask('ong-refset')
    self.assertIsNone(mask['linear']['kernel'])
    self.assertIsNone(mask['block']['shortcut_conv']['kernel'])
    self.assertIsNotNone(mask['conv1']['kernel'])

  def test_variants_are_different(self):
    names = [name for name in METHODS if name.startswith('ong')]
    masks = {
      name: np.concatenate(
        [np.ravel(leaf) for leaf in jax.tree.leaves(_mask(name, sparsity=0.5))]
      ).tobytes()
      for name in names
    }
    self.assertLen(set(masks.values()), len(names))

  def test_options_make_the_variants(self):
    chex.assert_trees_all_equal(
      _mask('ong', {'saliency': 'recon_mag', 'rank': 7}),
      _mask('ong-recon-mag'),
    )
    chex.assert_trees_all_equal(
      _mask('random', {'allocate': 'uniform'}, sparsity=0.5),
      _mask('random', {'allocate': 'uniform'}, sparsity=0.5),
    )

  @parameterized.named_parameters(
    ('at_the_outset', 'ong', 0, [200]),
    ('after_dense_epochs', 'ong', 3, [120, 200]),
    ('only_prunes_afterwards', 'magnitude', 3, [120, 200]),
    ('dense', 'dense', 3, [320]),
    ('throughout', 'gmp', 0, [200]),
    ('in_turns', 'ac-dc', 0, [200]),
    ('prunes_in_the_end', 'gsm', 0, [150, 50]),
    ('shrinks_then_prunes', 'iss-p', 0, [150, 50]),
    ('in_phases', 'imp', 3, [120, 66, 66, 68]),
    ('in_phases_with_a_budget', 'bimp', 0, [100, 33, 33, 34]),
    ('in_phases_after_its_budget', 'bimp', 3, [120, 66, 66, 68]),
    ('from_the_first_weights', 'lth', 0, [50, 50, 50, 50]),
    ('from_early_weights', 'weight-rewinding', 0, [56, 48, 48, 48]),
  )
  def test_steps_of_segments(self, name, dense_epochs, expected):
    segments = _segments(name, epochs=5, dense_epochs=dense_epochs)
    self.assertEqual([segment.steps for segment in segments], expected)

  @parameterized.named_parameters(
    ('as_long_as_in_the_paper', 1470, 40, 6e-3),  # 58,800 steps.
    ('half_as_long', 735, 40, 12e-3),
    ('longer', 2940, 40, 6e-3),
    ('of_a_few_intervals', 8, 1, 0.1),
    ('not_at_all', 0, 1, 0.1),
  )
  def test_probmask_is_scaled_to_the_run(self, epochs, interval, rate):
    recipe = METHODS['probmask'].recipe
    run = Run(Config(method='probmask', epochs=epochs), steps_per_epoch=40)
    given = options.complete(recipe, {}, run)
    self.assertEqual(given['interval'], interval)
    self.assertAlmostEqual(given['rate'], rate)

  @parameterized.named_parameters(
    ('as_often_as_in_the_paper', 'rigl', 200, 100),
    ('thirty_times', 'rigl', 20, 20),
    ('but_with_training_in_between', 'rigl', 1, 4),
    ('not_at_all', 'rigl', 0, 1),
    ('an_epoch', 'set', 20, 40),
  )
  def test_rewiring_is_scaled_to_the_run(self, name, epochs, interval):
    recipe = METHODS[name].recipe
    run = Run(Config(method=name, epochs=epochs), steps_per_epoch=40)
    self.assertEqual(options.complete(recipe, {}, run)['interval'], interval)

  @parameterized.parameters('rigl', 'set')
  def test_rewiring_needs_time(self, name):
    with self.assertRaisesRegex(
      ValueError, '`interval`=200 must be at most the 150 steps that'
    ):
      _segments(name, {'interval': 200}, epochs=5)
    with self.assertRaisesRegex(ValueError, '`until` must lie in'):
      _segments(name, {'until': 1.5}, epochs=5)
    method = _segments(name, {'fraction': 0.0}, epochs=5)[0].method(None)
    tx = method.transform(optax.sgd(0.1))
    params = {'kernel': jnp.ones((10, 10))}
    first = tx.init(params)
    grads = {'kernel': jnp.where(first.mask['kernel'], 0.0, 1.0)}
    _, last = jax.lax.fori_loop(
      0, 50, lambda _, s: tx.update(grads, s[1], params), (grads, first)
    )
    self.assertEqual(int(last.count), 50)
    chex.assert_trees_all_equal(last.mask, first.mask)

  def test_set_grows_where_a_factorization_is_large(self):
    given = {'first': 'tempered', 'allocate': 'uniform', 'interval': 40}
    params, masks = _params(), {}
    for grow in ('random', 'recon'):
      options = given | {'grow': grow, 'until': 0.2, 'fraction': 0.5}
      method = _segments('set', options, epochs=5, sparsity=0.5)[0].method(None)
      tx = method.transform(optax.sgd(0.1))
      state, update = tx.init(params), jax.jit(tx.update)
      grads = jax.tree.map(jnp.zeros_like, params)
      chex.assert_trees_all_equal(
        state.mask, _mask('ong', {'allocate': 'uniform'}, sparsity=0.5)
      )
      for _ in range(40):
        _, state = update(grads, state, params)
      masks[grow] = jax.tree.leaves(state.mask)
    for x, y in zip(*masks.values()):
      self.assertEqual(int(x.sum()), int(y.sum()))
      self.assertFalse(np.array_equal(x, y))
    for options in {'first': 'largest'}, {'grow': 'tempered'}:
      (name,) = options
      with self.assertRaisesRegex(ValueError, f'`{name}` must be one of'):
        _segments('set', options, epochs=5)

  def test_probmask_draws_before_it_retrains(self):
    segments = _segments('probmask', {'draws': 10}, epochs=5)
    self.assertEqual(
      [(s.draws, s.samples) for s in segments], [(10, 2), (0, 1)]
    )
    with self.assertRaisesRegex(ValueError, '`draws` must be at least 0'):
      _segments('probmask', {'draws': -1}, epochs=5)

  @parameterized.named_parameters(
    ('of_4', 4, 0.75, {20: 3, 85: 2, 150: 1}),
    ('of_16', 16, 0.9375, {20: 15, 52: 8, 85: 4, 117: 2, 150: 1}),
    ('of_16_to_6', 16, 0.625, {20: 15, 85: 8, 150: 6}),
    ('to_the_loosest', 4, 0.25, {20: 3}),
  )
  def test_patterns_tighten_by_halves(self, m, sparsity, expected):
    (segment,) = _segments(
      'structure-decay', {'m': m}, epochs=5, sparsity=sparsity
    )
    tx = segment.method(None).transform(optax.sgd(0.1))
    params = {'kernel': jnp.arange(1.0, m + 1)[:, None]}
    update, state, found = jax.jit(tx.update), tx.init(params), {}
    for step in range(1, segment.steps + 1):
      before, (_, state) = state, update(params, state, params)
      kept = int(state.mask['kernel'].sum())
      if kept != int(before.mask['kernel'].sum()):
        found[step] = kept
    self.assertEqual(found, expected)

  def test_what_fades_is_gone_in_time(self):
    found = {}
    for fade in ('linear', 'exponential'):
      (segment,) = _segments(
        'mask-decay', {'fade': fade}, epochs=5, sparsity=0.75
      )
      method = segment.method(None)
      params = {'kernel': jnp.arange(1.0, 5)[:, None]}
      state = method.transform(optax.sgd(0.1)).init(params)
      found[fade] = [
        float(
          method.effective(
            params, state._replace(count=jnp.array(step)), jax.random.key(0)
          )['kernel'][0, 0]
        )
        for step in (20, 85, 149)
      ]
    np.testing.assert_allclose(found['linear'], [1, 0.5, 1 / 130], rtol=1e-5)
    expected = np.exp(-5 * np.array([0, 65, 129]) / 130)
    np.testing.assert_allclose(found['exponential'], expected, rtol=1e-5)

  def test_decays_need_steps_and_a_sparsity_that_fits(self):
    with self.assertRaisesRegex(ValueError, '^`until`=0.1 must leave steps'):
      _segments('mask-decay', {'until': 0.1}, sparsity=0.75)
    with self.assertRaisesRegex(
      ValueError, '^`until`=0.115 leaves 3 steps .* for 5 patterns'
    ) as caught:
      _segments(
        'structure-decay', {'until': 0.115, 'm': 16}, epochs=5, sparsity=15 / 16
      )
    self.assertIn('Take more `epochs`', str(caught.exception))
    for name in ('sr-ste', 'mask-decay', 'structure-decay'):
      with self.assertRaisesRegex(ValueError, 'no whole number of every 4'):
        _segments(name, sparsity=0.7)

  @parameterized.named_parameters(
    ('of_a_few_steps', 16, list(range(1, 16))),
    (
      'of_no_multiple',
      26,
      [2, 3, 5, 6, 7, 9, 10, 11, 13, 14, 15, 16, 18, 19, 22],
    ),
  )
  def test_ac_dc_is_scaled_to_the_run(self, num_steps, boundaries):
    segments = _segments('ac-dc', epochs=num_steps / 40, sparsity=0.5)
    self.assertEqual([segment.steps for segment in segments], [num_steps])
    own = segments[0].method(None)
    tx, params = own.transform(optax.identity()), _params()
    zeros = jax.tree.map(jnp.zeros_like, params)
    state, update = tx.init(params), jax.jit(tx.update)
    sparsities = []
    for _ in range(num_steps):
      sparsities.append(masks.sparsity(state.mask))
      _, state = update(zeros, state, params)
    found = np.flatnonzero(np.diff([*sparsities, masks.sparsity(state.mask)]))
    self.assertEqual((found + 1).tolist(), boundaries)

  def test_ac_dc_needs_a_step_for_each_phase(self):
    with self.assertRaisesRegex(
      ValueError, '^`epochs` gives 15 steps, .* 16 phases. Train for at least'
    ):
      _segments('ac-dc', epochs=15 / 40)

  @parameterized.parameters((0.0, 0.2), (0.1, 0.3), (0.5, 0.7), (1.0, 1.0))
  def test_top_kast_trains_some_that_do_not_run(self, exploration, density):
    given = {'exploration': exploration, 'allocate': 'pooled'}
    segments = _segments('top-kast', given, sparsity=0.8)
    state = segments[0].method(None).transform(optax.sgd(0.1)).init(_params())
    self.assertAlmostEqual(masks.sparsity(state.mask), 0.8, places=2)
    found = masks.sparsity(state.inner_state.backward)
    self.assertAlmostEqual(1 - found, density, places=2)

  @parameterized.parameters(-0.1, 1.1, float('nan'))
  def test_top_kast_refuses_what_is_no_fraction(self, exploration):
    with self.assertRaisesRegex(ValueError, '^`exploration` must lie in'):
      _segments('top-kast', {'exploration': exploration})

  def test_every_line_is_whole(self):
    for name, entry in METHODS.items():
      self.assertNotIn('\n', entry.summary, name)
      self.assertTrue(entry.summary.endswith('.'), name)
      self.assertTrue(entry.source, name)

  def test_the_train_step_names_no_method(self):
    import pathlib
    import re

    source = pathlib.Path(__file__).parents[1] / 'experiments' / 'train.py'
    words = set(re.findall(r'[\w-]+', source.read_text()))
    self.assertEmpty(words & (set(METHODS) - {'dense', 'random'}))
    self.assertNotIn('METHODS', words)


if __name__ == '__main__':
  absltest.main()
