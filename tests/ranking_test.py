import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from ong_jax import ranking

INF, NAN = np.inf, np.nan
TREES = {  # Few, as each is compiled for; leaf 'b' is not prunable.
  'float32': {'a': (3, 4), 'c': {'d': (2, 3, 2), 'e': (3, 4)}},
  'bfloat16': {'a': (3, 4), 'c': {'d': (2, 3, 2), 'e': (3, 4)}},
  'mixed': {'a': (3, 4), 'c': {'d': (2, 3, 2), 'e': (3, 4)}},
  'float16': {'a': (30,)},
}
MIXED = ('float16', 'bfloat16', 'float32')
NAMED_TREES = [(name, name) for name in TREES]


def draw(rng, size):
  """Values with ties, of many magnitudes, and the special ones."""
  kind = rng.integers(4)
  if kind == 0:
    return rng.integers(-2, 3, size)
  if kind == 1:
    return rng.normal(size=size)
  if kind == 2:  # Far apart, as a search over values likes least.
    return rng.choice([-1, 1], size) * np.exp(rng.uniform(-9, 9, size))
  special = [NAN, -NAN, INF, -INF, 0.0, -0.0, 1.0, -1.0, 6e-5, 6e4]
  return rng.choice(special, size)


def random_tree(name, seed):
  rng = np.random.default_rng(seed)
  dtypes = iter(MIXED) if name == 'mixed' else iter([name] * 3)
  return {'b': None} | jax.tree.map(
    lambda shape: jnp.asarray(draw(rng, shape), next(dtypes)),
    TREES[name],
    is_leaf=lambda x: isinstance(x, tuple),
  )


def keep(values, k):
  """The k highest of a vector, NaN lowest, of ties the first; by sorting."""
  values = np.asarray(values, np.float64)
  index, is_nan = np.arange(len(values)), np.isnan(values)
  order = np.lexsort((index, -values, is_nan))
  kept = np.zeros(len(values), bool)
  kept[order[:k]] = True
  return kept


def numpy_top_k(scores, counts):
  leaves, treedef = jax.tree.flatten(scores)
  flat = [np.asarray(x, np.float64).ravel() for x in leaves]
  if isinstance(counts, int):
    ends = np.cumsum([x.size for x in flat])[:-1]
    kept = np.split(keep(np.concatenate(flat), counts), ends)
  else:
    kept = map(keep, flat, jax.tree.leaves(counts))
  return treedef.unflatten(k.reshape(x.shape) for k, x in zip(kept, leaves))


class TopKTest(parameterized.TestCase):
  def test_ties_by_hand(self):
    scores = {
      'a': jnp.array([[1.0, 3.0], [2.0, 3.0]]),
      'b': None,
      'c': jnp.array([3.0, 1.0, 3.0]),
    }
    chex.assert_trees_all_equal(
      ranking.top_k(scores, 3),
      {
        'a': jnp.array([[False, True], [False, True]]),
        'b': None,
        'c': jnp.array([True, False, False]),
      },
    )
    chex.assert_trees_all_equal(
      ranking.top_k(scores, {'a': 1, 'b': None, 'c': 2}),
      {
        'a': jnp.array([[False, True], [False, False]]),
        'b': None,
        'c': jnp.array([True, False, True]),
      },
    )

  @parameterized.named_parameters(
    ('minus_zero_is_zero', [-0.0, 0.0, -0.0], 1, [True, False, False]),
    ('zero_beats_below', [-1e-30, -0.0, 0.0], 1, [False, True, False]),
    ('nan_is_below_all', [NAN, -INF, -NAN], 1, [False, True, False]),
    ('nan_if_all_are_asked_for', [NAN, -INF, -NAN], 2, [True, True, False]),
    ('infinity_is_above_all', [3e38, INF, 1.0], 1, [False, True, False]),
    ('one_bit', [1.0, 1.0 + 2**-23, 1.0], 1, [False, True, False]),
    ('below_zero', [-1.0, -3.0, -2.0], 2, [True, False, True]),
    ('none', [1.0, 2.0, NAN], 0, [False, False, False]),
    ('all', [NAN, -INF, 1.0], 3, [True, True, True]),
    # So small that they are not normal numbers, which some CPUs call zero.
    ('subnormal', [1e-40, 0.0, 2e-40], 1, [False, False, True]),
  )
  def test_values_by_hand(self, scores, k, expected):
    scores = jnp.array(scores, jnp.float32)
    np.testing.assert_array_equal(ranking.top_k(scores, k), expected)

  @parameterized.named_parameters(*NAMED_TREES)
  def test_agrees_with_sorting(self, name):
    for seed in range(40):
      scores = random_tree(name, seed)
      total = sum(x.size for x in jax.tree.leaves(scores))
      rng = np.random.default_rng(1000 + seed)
      each = jax.tree.map(
        lambda x, rng=rng: int(rng.integers(x.size + 1)), scores
      )
      for counts in (each, int(rng.integers(total + 1)), 0, total):
        with self.subTest(seed=seed, counts=counts):
          chex.assert_trees_all_equal(
            ranking.top_k(scores, counts), numpy_top_k(scores, counts)
          )

  def test_traced_counts_in_jit_and_scan(self):
    scores = random_tree('float32', 0)
    table = [0, 1, 7, 20, 36]

    @jax.jit
    def masks(scores, table):
      pooled, each = (
        jax.lax.scan(lambda _, k: (None, ranking.top_k(scores, k)), None, ks)[1]
        for ks in (table, jax.tree.map(lambda _: table // 3, scores))
      )
      return pooled, each

    pooled, each = masks(scores, jnp.array(table))
    for i, k in enumerate(table):
      chex.assert_trees_all_equal(
        jax.tree.map(lambda m, i=i: m[i], pooled), numpy_top_k(scores, k)
      )
      counts = jax.tree.map(lambda _, k=k: k // 3, scores)
      chex.assert_trees_all_equal(
        jax.tree.map(lambda m, i=i: m[i], each), numpy_top_k(scores, counts)
      )

  def test_other_counts_and_values_do_not_compile_again(self):
    scores = random_tree('float32', 0)
    traces = []

    @jax.jit
    def masks(scores, k):
      traces.append(k)
      return ranking.top_k(scores, k)

    for k in (0, 3, 36):
      masks(scores, k)
    self.assertLen(traces, 1)

  def test_float64_is_not_rounded(self):
    with jax.enable_x64(True):
      scores = {
        'a': jnp.array([1.0, 1.0 + 1e-15]),
        'b': jnp.array([1.0 + 1e-9]),
      }
      expected = {'a': [False, False], 'b': [True]}
      found = ranking.top_k(scores, 1)
      np.testing.assert_array_equal(found['a'], expected['a'])
      np.testing.assert_array_equal(found['b'], expected['b'])
      found = ranking.top_k(scores, {'a': 1, 'b': 0})
      np.testing.assert_array_equal(found['a'], [False, True])

  def test_counts_above_what_float32_can_count(self):
    size, k = 2**24 + 64, 2**24 + 3
    kept = ranking.top_k(jnp.ones(size, jnp.bfloat16), k)
    self.assertEqual(np.count_nonzero(kept), k)
    self.assertTrue(kept[:k].all())

  @parameterized.named_parameters(('int32', int), ('complex64', complex))
  def test_refuses_scores_that_are_no_floats(self, dtype):
    scores = {'a': jnp.ones(2), 'b': jnp.ones(2, dtype)}
    message = (
      '^`scores` must be floating-point numbers; got (int32|complex64).$'
    )
    with self.assertRaisesRegex(TypeError, message):
      ranking.top_k(scores, 1)

  def test_empty_trees(self):
    self.assertEqual(ranking.top_k({'a': None}, 0), {'a': None})
    self.assertEqual(ranking.top_k({}, {}), {})

  @parameterized.named_parameters(
    ('negative', -1, r"^`counts` of 'all' must lie in \[0, 4\], .* got -1.$"),
    ('above', 5, r"^`counts` of 'all' must lie in \[0, 4\], .* got 5.$"),
    (
      'leaf',
      {'fc': {'kernel': 4}, 'a': 1},
      r"^`counts` of 'fc/kernel' must lie in \[0, 3\], the number .* got 4.$",
    ),
    ('numpy', np.int64(5), r"^`counts` of 'all' must .* 4\], .* got 5.$"),
    ('jax', jnp.array(5), r"^`counts` of 'all' must .* 4\], .* got 5.$"),
    ('other_tree', {'a': 1}, 'fc'),
  )
  def test_refuses_counts_that_do_not_fit(self, counts, message):
    scores = {'a': jnp.ones(1), 'fc': {'kernel': jnp.ones(3)}}
    with self.assertRaisesRegex(ValueError, message):
      ranking.top_k(scores, counts)

  def test_refuses_a_count_that_is_no_integer(self):
    for counts in (1.0, {'a': 0.5}, jnp.array(1.5)):
      with self.assertRaises(TypeError):
        ranking.top_k({'a': jnp.ones(1)}, counts)

  def test_refuses_more_scores_than_int32_counts(self):
    huge = jax.ShapeDtypeStruct((2**20, 2**11), jnp.float32)
    message = "^'fc' has 2147483648 scores; at most 2147483647 are ranked toget"
    with self.assertRaisesRegex(ValueError, message):
      jax.eval_shape(lambda x: ranking.top_k({'fc': x}, {'fc': 1}), huge)
    half = jax.ShapeDtypeStruct((2**20, 2**10), jnp.float32)
    with self.assertRaisesRegex(ValueError, "^'all' has 2147483648 scores; "):
      jax.eval_shape(lambda x: ranking.top_k({'a': x, 'b': x}, 1), half)
    jax.eval_shape(lambda x: ranking.top_k([x, x], [1, 1]), half)


class ShardedTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    mesh = jax.make_mesh((8,), ('model',), axis_types=(AxisType.Auto,))
    rng = np.random.default_rng(0)
    specs = {
      'a': P(None, 'model'),
      'b': P('model'),
      'c': P(),
      'd': P('model', None),
    }
    self.scores = {  # With many ties; 'c' and 'd' are of one shape.
      'a': rng.integers(0, 5, (6, 16)).astype(np.float32),
      'b': rng.integers(0, 5, 24).astype(np.float32),
      'c': rng.integers(0, 5, (8, 5)).astype(np.float32),
      'd': rng.integers(0, 5, (8, 5)).astype(np.float32),
    }
    self.shardings = jax.tree.map(lambda s: NamedSharding(mesh, s), specs)
    self.sharded = jax.device_put(self.scores, self.shardings)

  @parameterized.named_parameters(
    ('pooled', 97), ('each', {'a': 45, 'b': 11, 'c': 20, 'd': 3})
  )
  def test_eight_devices_choose_what_one_does(self, counts):
    expected = numpy_top_k(self.scores, counts)
    found = ranking.top_k(self.sharded, counts)
    chex.assert_trees_all_equal(found, expected)
    jitted = jax.jit(lambda s: ranking.top_k(s, counts))
    chex.assert_trees_all_equal(jitted(self.sharded), expected)

  def test_scores_are_not_gathered_and_masks_lie_where_they_do(self):
    scores = {k: self.sharded[k] for k in 'ab'}
    top_k = jax.jit(lambda s: ranking.top_k(s, 60)).lower(scores).compile()
    self.assertIn('all-reduce', top_k.as_text())
    self.assertNotIn('all-gather', top_k.as_text())
    self.assertNotIn('all-to-all', top_k.as_text())
    for name, mask in top_k(scores).items():
      expected = self.shardings[name]
      self.assertTrue(mask.sharding.is_equivalent_to(expected, mask.ndim))
