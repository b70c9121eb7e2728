import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from ong_jax import nmf, ranking, saliency, scores, starts
from tests.collectives import holding_whole

KEY = jax.random.key(0)


def normal(seed, *shape):
  values = np.random.default_rng(seed).normal(size=shape)
  return jnp.asarray(values, jnp.float32)


def constant(leaf):
  """A score that is `leaf`, whatever the weights."""
  return lambda weights: {'kernel': jnp.asarray(leaf)}


class SimpleScoresTest(parameterized.TestCase):
  def test_magnitude(self):
    weights = {'a': {'kernel': jnp.array([[-2.0, 0.5]])}, 'b': None}
    expected = {'a': {'kernel': jnp.array([[2.0, 0.5]])}, 'b': None}
    chex.assert_trees_all_equal(scores.magnitude(weights), expected)

  def test_random_is_uniform(self):
    drawn = scores.random(KEY)({'kernel': jnp.zeros((50, 40)), 'bias': None})
    self.assertIsNone(drawn['bias'])
    drawn = np.sort(drawn['kernel'].ravel())
    self.assertEqual(drawn.dtype, np.float32)
    expected = (np.arange(2000) + 0.5) / 2000
    np.testing.assert_allclose(drawn, expected, atol=0.05)

  def test_random_draws_by_key_and_path(self):
    a, b = jnp.zeros((50, 40)), jnp.ones((50, 40))
    drawn = scores.random(KEY)({'a': a, 'b': b})
    self.assertFalse(jnp.any(drawn['a'] == drawn['b']))
    alone = scores.random(jax.random.key(0))({'b': a})
    chex.assert_trees_all_equal(alone['b'], drawn['b'])
    other = scores.random(jax.random.key(1))({'b': b})
    self.assertFalse(jnp.any(other['b'] == drawn['b']))

  def test_random_is_float32_in_x64_mode_too(self):
    weights = {'kernel': jnp.zeros((50, 40))}
    drawn = scores.random(KEY)(weights)
    with jax.enable_x64(True):
      chex.assert_trees_all_equal(scores.random(KEY)(weights), drawn)

  def test_average(self):
    score = scores.average([constant([[1.0, 2.0]]), constant([[3.0, 8.0]])])
    chex.assert_trees_all_equal(score({}), {'kernel': jnp.array([[2.0, 5.0]])})


class OngTest(parameterized.TestCase):
  @parameterized.named_parameters(
    ('convolution', (3, 2, 4, 6)), ('dense', (12, 8))
  )
  def test_a_score_returns_to_its_own_weight(self, shape):
    kernel = 1 + jnp.arange(np.prod(shape), dtype=jnp.float32).reshape(shape)
    score = scores.ong(KEY, saliency=lambda v, w, h: v, max_sweeps=1)
    chex.assert_trees_all_equal(score({'a': -kernel, 'b': None})['a'], kernel)
    matrix = saliency.as_matrix(-kernel)  # [fan_in, features].
    chex.assert_shape(matrix, (np.prod(shape[:-1]), shape[-1]))
    np.testing.assert_array_equal(
      matrix[:, 2], np.moveaxis(kernel, -1, 0)[2].ravel()
    )

  def test_attention_is_factorized_as_its_inputs_by_its_outputs(self):
    query, out = normal(0, 12, 4, 5), normal(1, 4, 5, 12)
    weights = {'query': {'kernel': query}, 'out': {'kernel': out}}
    factors = saliency.factorize(KEY, weights, 3)
    chex.assert_shape(factors['query']['kernel'].w, (12, 3))
    chex.assert_shape(factors['query']['kernel'].h, (3, 20))
    chex.assert_shape(factors['out']['kernel'].w, (20, 3))
    # What the same numbers score as a matrix, under the same path and key.
    score = scores.ong(KEY, saliency=saliency.residual, rank=3)
    flat = {'query': {'kernel': query.reshape(12, 20)}}
    chex.assert_trees_all_close(
      score(weights)['query']['kernel'].reshape(12, 20),
      score(flat)['query']['kernel'],
      atol=1e-5,
    )
    as_others = saliency.factorize(KEY, weights, 3, lambda path, leaf: 2)
    chex.assert_shape(as_others['query']['kernel'].w, (48, 2))

  def test_each_kernel_gets_its_own_factors(self):
    weights = {
      'a': normal(0, 12, 8),
      'b': {'kernel': normal(1, 3, 4, 8), 'bias': None},
      'c': normal(2, 12, 8),
    }
    factors = saliency.factorize(KEY, weights, 4)
    score = scores.ong(KEY, saliency=saliency.residual, rank=4)
    residuals = score(weights)
    self.assertIsNone(factors['b']['bias'])
    chex.assert_trees_all_equal_shapes(residuals, weights)
    for weight, f, residual in (
      (weights['a'], factors['a'], residuals['a']),
      (
        weights['b']['kernel'],
        *(x['b']['kernel'] for x in (factors, residuals)),
      ),
      (weights['c'], factors['c'], residuals['c']),
    ):
      v = jnp.abs(weight).reshape(12, 8)
      loss = 0.5 * jnp.sum(jnp.square(v - f.w @ f.h))
      np.testing.assert_allclose(f.loss, loss, 1e-4)
      expected = jnp.abs(v - f.w @ f.h).reshape(weight.shape)
      np.testing.assert_allclose(residual, expected, atol=1e-5)
    # A kernel gets the same without the others, as its key is of its path.
    alone = saliency.factorize(KEY, {'b': weights['b']}, 4)
    chex.assert_trees_all_close(alone['b'], factors['b'], rtol=1e-3, atol=1e-5)

  @parameterized.named_parameters(
    ('small_kernel', (12, 8), 7, 4),
    ('large_kernel', (16, 20), 7, 7),
    ('function', (16, 20), saliency.rank_ratio(0.2), 4),
    ('smallest', (3, 20), 7, 1),
    ('row', (1, 20), 7, 1),
  )
  def test_rank_stays_below_half_the_smaller_side(self, shape, rank, expected):
    factors = jax.eval_shape(
      lambda w: saliency.factorize(KEY, {'kernel': w}, rank), jnp.ones(shape)
    )
    chex.assert_shape(factors['kernel'].w, (shape[0], expected))
    chex.assert_shape(factors['kernel'].h, (expected, shape[1]))

  def test_refuses_a_rank_below_one(self):
    with self.assertRaisesRegex(ValueError, '^`rank` must be .* 1; got 0.$'):
      scores.ong(KEY, rank=0)
    with self.assertRaisesRegex(ValueError, '^`rank` must be .*; got 2.5.$'):
      scores.ong(KEY, rank=2.5)

  @parameterized.named_parameters(('row', (1, 6)), ('column', (2, 3, 1)))
  def test_a_single_row_or_column_is_scored_by_magnitude(self, shape):
    kernel = normal(0, *shape)
    found = scores.ong(KEY)({'kernel': kernel})['kernel']
    chex.assert_trees_all_equal(found, jnp.abs(kernel))

  def test_options_reach_the_factorization(self):
    weights = {'kernel': normal(0, 12, 8)}
    factors = saliency.factorize(
      KEY,
      weights,
      2,
      solver=nmf.kl,
      start=starts.nndsvda,
      max_sweeps=3,
      tol=0.0,
    )['kernel']
    v = jnp.abs(weights['kernel'])
    expected = nmf.nmf(
      KEY, v, 2, solver=nmf.kl, start=starts.nndsvda, max_sweeps=3, tol=0.0
    )
    self.assertEqual(factors.sweeps, 3)
    np.testing.assert_allclose(factors.loss, expected.loss, 1e-4)

  def test_residual_finds_planted_spikes_where_magnitude_does_not(self):
    rng = np.random.default_rng(0)
    low_rank = rng.exponential(size=(64, 3)) @ rng.exponential(size=(3, 576))
    spikes = np.zeros(low_rank.size, bool)
    spikes[rng.choice(low_rank.size, 300, replace=False)] = True
    spikes = spikes.reshape(low_rank.shape)
    weights = {'kernel': jnp.asarray(low_rank + 5 * spikes, jnp.float32)}

    def share_found(score):
      kept = ranking.top_k(score(weights), 300)['kernel']
      return np.mean(kept[spikes])

    score = scores.ong(KEY, saliency=saliency.residual, rank=3)
    self.assertEqual(share_found(score), 1)
    self.assertLess(share_found(scores.magnitude), 0.5)


class ScoresOfScoresTest(parameterized.TestCase):
  def test_normalized_by_hand(self):
    weights = {  # The first has root mean square 5.
      'a': jnp.array([[1.0, -7.0]]),
      'b': jnp.zeros((2, 1)),
      'c': None,
    }
    found = scores.normalized(scores.magnitude)(weights)
    chex.assert_trees_all_close(found['a'], jnp.array([[0.2, 1.4]]))
    chex.assert_trees_all_equal(found['b'], jnp.zeros((2, 1)))
    self.assertIsNone(found['c'])

  def test_lamp_by_hand(self):
    # Squares 1, 9, 4, 4: tails 18, 9, 17 and 17, as ties share theirs.
    found = scores.lamp(constant([[1.0, 3.0], [2.0, 2.0]]))({})['kernel']
    expected = jnp.array([[1 / 18, 1.0], [4 / 17, 4 / 17]])
    chex.assert_trees_all_close(found, expected, rtol=1e-6)

  def test_lamp_of_zeros_is_zero(self):
    found = scores.lamp(constant([0.0, 2.0, 0.0]))({})['kernel']
    chex.assert_trees_all_equal(found, jnp.array([0.0, 1.0, 0.0]))
    found = scores.lamp(constant([0.0, 0.0]))({})['kernel']
    chex.assert_trees_all_equal(found, jnp.zeros(2))

  @parameterized.named_parameters(
    ('normalized', scores.normalized), ('lamp', scores.lamp)
  )
  def test_half_precision_neither_overflows_nor_vanishes(self, make):
    for scale in (300, 1e-4):
      s = scale * np.arange(1.0, 5.0)
      found = make(constant(s.astype(np.float16)))({})['kernel']
      expected = make(constant(s.astype(np.float32)))({})['kernel']
      np.testing.assert_allclose(found, expected, 5e-3)

  @parameterized.parameters(2e-38, 1e-30, 1e30, 3e37)
  def test_squares_neither_overflow_nor_vanish(self, scale):
    weights = jnp.array([1.0, 3.0, 1.0]) * scale
    found = scores.lamp(scores.magnitude)({'kernel': weights})['kernel']
    np.testing.assert_allclose(found, [1 / 11, 1, 1 / 11], rtol=1e-5)
    found = scores.normalized(scores.magnitude)({'kernel': weights})['kernel']
    expected = np.array([1, 3, 1]) / np.sqrt(11 / 3)
    np.testing.assert_allclose(found, expected, rtol=1e-5)

  def test_an_average_of_half_precision_does_not_overflow(self):
    weights = {'kernel': jnp.array([6e4, 5e4], jnp.float16)}
    average = scores.average([scores.magnitude, scores.magnitude])
    np.testing.assert_allclose(
      average(weights)['kernel'], [6e4, 5e4], rtol=1e-3
    )

  def test_at_least_by_hand(self):
    s, inf = jnp.array([[9.0, 1.0], [8.0, 3.0], [7.0, 2.0]]), jnp.inf
    expected = [[inf, 1], [inf, inf], [7, inf]]
    found = scores.at_least(constant(s), 2)({})['kernel']
    chex.assert_trees_all_equal(found, jnp.array(expected))

  @parameterized.named_parameters(('off', 0, 0), ('all', 5, 12))
  def test_at_least_none_or_more_than_a_filter_has(self, num, expected):
    found = scores.at_least(constant(normal(0, 3, 1, 4)), num)({})['kernel']
    self.assertEqual(jnp.isinf(found).sum(), expected)

  def test_at_least_counts_where_scores_are_minus_infinite(self):
    s = constant(jnp.full((4, 3), -jnp.inf).at[1, 0].set(2.0))
    found = scores.at_least(s, 2)({})['kernel']
    expected = jnp.array([2, 2, 2])
    chex.assert_trees_all_equal(jnp.isposinf(found).sum(0), expected)

  def test_at_least_of_input_channels(self):
    s, inf = jnp.array([[9.0, 1.0], [3.0, 8.0], [7.0, 2.0]]), jnp.inf
    found = scores.at_least(constant(s), 1, axis=-2)({})['kernel']
    expected = [[inf, 1], [3, inf], [inf, 2]]
    chex.assert_trees_all_equal(found, jnp.array(expected))
    s = normal(0, 3, 3, 5, 4)
    found = scores.at_least(constant(s), 2, axis=-2)({})['kernel']
    raised = jnp.isinf(found)
    chex.assert_trees_all_equal(raised.sum((0, 1, 3)), jnp.full(5, 2))
    lowest = jnp.where(raised, s, jnp.inf).min((0, 1, 3))
    highest = jnp.where(raised, -jnp.inf, s).max((0, 1, 3))
    self.assertTrue((lowest > highest).all())
    one_channel = scores.at_least(constant([1.0, 3.0, 2.0]), 1, axis=-2)
    found = one_channel({})['kernel']
    chex.assert_trees_all_equal(found, jnp.array([1, inf, 2]))

  def test_a_floor_of_a_floor_counts_what_is_raised(self):
    s, inf = constant([[1.0, 9.0, 3.0], [4.0, 5.0, 6.0]]), jnp.inf
    both = scores.at_least(scores.at_least(s, 1), 1, axis=-2)
    expected = [[1, inf, 3], [inf, 5, inf]]
    chex.assert_trees_all_equal(both({})['kernel'], jnp.array(expected))

  def test_refuses_at_once_what_makes_no_sense(self):
    for axis in (0, -1.0):
      with self.assertRaisesRegex(ValueError, '^`axis` must be -1 or -2; got'):
        scores.at_least(scores.magnitude, 1, axis=axis)
    message = '^`num_weights` must be an integer of at least 0; got {}.$'
    for num in (-1, 1.5):
      with self.assertRaisesRegex(ValueError, message.format(num)):
        scores.at_least(scores.magnitude, num)
    with self.assertRaisesRegex(ValueError, '^`scores` must have at least one'):
      scores.average([])

  def test_a_floor_goes_around_what_rescales(self):
    s = constant([[1.0, 9.0], [2.0, 8.0]])
    found = scores.at_least(scores.lamp(s), 1)({})['kernel']
    expected = jnp.array([[1 / 150, jnp.inf], [jnp.inf, 64 / 145]])
    chex.assert_trees_all_close(found, expected, rtol=1e-6)


class ShardedTest(parameterized.TestCase):
  @parameterized.named_parameters(
    (
      'residual',
      scores.ong(KEY, saliency=saliency.residual, rank=2, max_sweeps=20),
    ),
    ('normalized', scores.normalized(scores.magnitude)),
    ('lamp', scores.lamp(scores.magnitude)),
    ('at_least', scores.at_least(scores.magnitude, 3)),
    ('of_inputs', scores.at_least(scores.magnitude, 3, axis=-2)),
  )
  def test_eight_devices_score_bit_for_bit_as_one_does(self, score):
    mesh = jax.make_mesh((8,), ('model',), axis_types=(AxisType.Auto,))
    weights = {'kernel': normal(0, 64, 48)}
    sharding = NamedSharding(mesh, P(None, 'model'))
    divided = jax.device_put(weights, sharding)
    chex.assert_trees_all_equal(score(divided), score(weights))

  @parameterized.parameters(-1, -2)
  def test_floors_leave_a_split_convolution_where_it_is(self, axis):
    mesh = jax.make_mesh((8,), ('model',), axis_types=(AxisType.Auto,))
    weights = {'kernel': normal(0, 3, 3, 8, 16)}
    sharding = NamedSharding(mesh, P(None, None, None, 'model'))
    divided = jax.device_put(weights, sharding)
    score = jax.jit(scores.at_least(scores.magnitude, 2, axis))
    compiled = score.lower(divided).compile()
    self.assertEmpty(holding_whole(compiled, divided))
    chex.assert_trees_all_equal(compiled(divided), score(weights))
