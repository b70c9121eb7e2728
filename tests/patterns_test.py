import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from jax.sharding import PartitionSpec as P

from ong_jax import allocation, patterns, scores
from ong_jax.costs import Costs, LayerCost


def _scores(*shape):
  values = np.random.default_rng(0).integers(0, 6, shape)  # With ties.
  return jnp.asarray(values, jnp.float32)


class UnstructuredTest(parameterized.TestCase):
  @parameterized.named_parameters(
    ('by_leaf', allocation.uniform, [12, 12], [9, 9]),
    ('pooled', allocation.pooled, None, [18]),
  )
  def test_keeps_what_the_budget_and_the_cut_leave(
    self, allocate, whole, after
  ):
    ranked = {'a': _scores(4, 6), 'b': _scores(6, 4), 'c': None}
    pattern = patterns.unstructured(0.5, allocate)

    @jax.jit
    def choose(row):
      return pattern.choose(ranked, [0.28, 0.0], row)

    kept = choose(1)
    self.assertIsNone(kept['c'])
    counts = [int(x.sum()) for x in jax.tree.leaves(kept)]
    cut = [int(x.sum()) for x in jax.tree.leaves(choose(0))]
    if whole is None:
      counts, cut, whole = [sum(counts)], [sum(cut)], [24]
    self.assertEqual((counts, cut), (whole, after))

  def test_what_must_stay_stays_and_what_must_not_does_not(self):
    inf = jnp.inf
    ranked = {'a': jnp.array([-inf, 5.0, inf, 1.0, -inf, 3.0])}
    kept = patterns.unstructured(0.5).choose(ranked)['a']
    np.testing.assert_array_equal(kept, [0, 1, 1, 0, 0, 1])

  def test_a_floor_saves_a_leaf_that_ranks_low(self):
    ranked = {'a': jnp.arange(20.0), 'b': jnp.arange(100.0, 180.0)}
    pattern = patterns.unstructured(0.8, allocation.pooled, floor=0.06)
    kept = pattern.choose(ranked)
    np.testing.assert_array_equal(np.flatnonzero(kept['a']), [18, 19])
    self.assertEqual(int(kept['b'].sum()), 18)
    forbidden = ranked | {'a': jnp.full(20, -jnp.inf)}
    self.assertFalse(pattern.choose(forbidden)['a'].any())
    with self.assertRaisesRegex(ValueError, r'`floor` must lie in \[0, 0.1\]'):
      patterns.unstructured(0.8, floor=0.11)

  def test_a_floor_must_outlast_the_cuts(self):
    pattern = patterns.unstructured(0.8, allocation.pooled, floor=0.09)
    with self.assertRaisesRegex(ValueError, 'a cut of 0.7 leaves of the 0.2'):
      pattern.choose({'a': jnp.arange(20.0)}, [0.7, 0.0])


class NOfMTest(parameterized.TestCase):
  def test_nan_is_the_lowest(self):
    ranked = {'a': jnp.array([[jnp.nan], [3.0], [jnp.nan], [-9.0]])}
    kept = patterns.n_of_m(2, 4).choose(ranked)['a'][:, 0]
    np.testing.assert_array_equal(kept, [0, 1, 0, 1])

  @parameterized.product(shape=[(8, 3), (3, 3, 4, 5), (10, 2)], n=[1, 2, 3])
  def test_keeps_the_best_of_every_group(self, shape, n):
    ranked = _scores(*shape)
    kept = patterns.n_of_m(n, 4).choose({'a': ranked})['a']
    rows = np.asarray(ranked).reshape(-1, shape[-1])
    expected = np.zeros(rows.shape, bool)
    for column in range(shape[-1]):
      for top in range(0, len(rows), 4):
        group = rows[top : top + 4, column]
        best = np.argsort(-group, kind='stable')[:n]
        expected[top + best, column] = True
    np.testing.assert_array_equal(kept, expected.reshape(shape))

  def test_a_cut_takes_the_lowest_of_what_the_groups_keep(self):
    ranked = {'a': jnp.array([[1.0, 9.0, 8.0, 7.0, 4.0, 3.0, 2.0, 0.0]]).T}
    kept = patterns.n_of_m(2, 4).choose(ranked, [0.25])['a'][:, 0]
    np.testing.assert_array_equal(kept, [0, 1, 1, 0, 1, 0, 0, 0])

  def test_is_jitted_alike(self):
    ranked = {'a': _scores(12, 3), 'b': None}
    pattern = patterns.n_of_m(2, 4)
    chex.assert_trees_all_equal(
      jax.jit(lambda s: pattern.choose(s, [0.3, 0.0], 0))(ranked),
      pattern.choose(ranked, [0.3, 0.0], 0),
    )

  @parameterized.parameters((0, 4), (4, 4), (2, 2.5))
  def test_refuses(self, n, m):
    with self.assertRaisesRegex(ValueError, '`[nm]`'):
      patterns.n_of_m(n, m)

  def test_groups_lie_along_the_inputs(self):
    ranked = {'query': {'kernel': _scores(8, 3, 4)}}
    kept = patterns.n_of_m(2, 4).choose(ranked)['query']['kernel']
    np.testing.assert_array_equal(kept.reshape(2, 4, 12).sum(1), 2)
    along_heads = patterns.n_of_m(1, 3, inputs=lambda path, leaf: 2)
    kept = along_heads.choose(ranked, [0.25])['query']['kernel']
    self.assertEqual(int(kept.sum()), 24)
    self.assertLessEqual(int(kept.reshape(8, 3, 4).sum(1).max()), 1)

  def test_two_of_four_are_the_best_of_six_choices(self):
    weights = np.random.default_rng(1).normal(size=(3, 3, 4, 8))
    ranked = scores.magnitude({'a': jnp.asarray(weights, jnp.float32)})
    kept = np.asarray(patterns.n_of_m(2, 4).choose(ranked)['a'])
    groups = np.abs(weights).astype(np.float32).reshape(9, 4, 8)
    kept = kept.reshape(9, 4, 8)
    np.testing.assert_array_equal(kept.sum(1), 2)
    choices = [
      groups[:, list(pair)].sum(1)
      for pair in itertools.combinations(range(4), 2)
    ]
    self.assertLen(choices, 6)
    np.testing.assert_array_equal(
      np.where(kept, groups, 0).sum(1), np.max(choices, 0)
    )


class PerOutputTest(parameterized.TestCase):
  @parameterized.product(sparsity=[0.0, 0.3, 0.5, 0.77, 0.93])
  def test_outputs_keep_as_many_of_their_best(self, sparsity):
    ranked = {
      'conv': _scores(3, 2, 2, 5).at[0, 0, 0].set(jnp.nan),
      'out': {'kernel': _scores(2, 3, 4)},
      'query': {'kernel': _scores(6, 2, 3)},
      'rest': None,
    }
    pattern = patterns.per_output(sparsity)
    kept = pattern.choose(ranked)
    chex.assert_trees_all_equal(jax.jit(pattern.choose)(ranked), kept)
    self.assertEqual(
      sum(int(x.sum()) for x in jax.tree.leaves(kept)),
      120 - round(sparsity * 120),
    )
    counts = allocation.uniform(ranked, sparsity)
    for shape, s, found, count in zip(
      [(12, 5), (6, 4), (6, 6)], *map(jax.tree.leaves, (ranked, kept, counts))
    ):
      rows = np.nan_to_num(np.asarray(s), nan=-np.inf).reshape(shape)
      each, more = divmod(count, shape[1])
      expected = np.zeros(shape, bool)
      for j in range(shape[1]):
        best = np.argsort(-rows[:, j], kind='stable')[: each + (j < more)]
        expected[best, j] = True
      np.testing.assert_array_equal(found.reshape(shape), expected)

  def test_a_cut_is_of_every_output(self):
    ranked = {'a': _scores(8, 4)}
    kept = jax.jit(
      lambda row: patterns.per_output(0.5).choose(ranked, [0.3, 0.0], row)
    )
    np.testing.assert_array_equal(kept(0)['a'].sum(0), [3, 3, 3, 3])
    np.testing.assert_array_equal(kept(1)['a'].sum(0), [4, 4, 4, 4])
    self.assertFalse((kept(0)['a'] & ~kept(1)['a']).any())

  def test_inputs_are_what_is_said(self):
    ranked = {'a': _scores(4, 3, 2)}
    by_first = patterns.per_output(0.5, inputs=lambda path, leaf: 1)
    np.testing.assert_array_equal(by_first.choose(ranked)['a'].sum(0), 2)

  def test_minus_zero_is_zero(self):
    kept = patterns.per_output(0.5).choose({'a': jnp.array([[-0.0], [0.0]])})
    np.testing.assert_array_equal(kept['a'], [[True], [False]])


class ChannelsTest(parameterized.TestCase):
  def test_sums_scores_of_weights_in_float32(self):
    names = {'a': P(None, 'x'), 'b': P('x', None), 'c': P(None, 'x')}
    weights = {
      'a': jnp.full((1000, 2), 100, jnp.float16),
      'b': jnp.ones((2, 7), jnp.float16),
      'c': jnp.ones((1, 2), jnp.float16),
    }
    found = patterns.per_channel(names, scores.magnitude)(weights)
    np.testing.assert_array_equal(found['x'], 100_001)

  def test_refuses_a_capacity_below_what_always_stays(self):
    table = LayerCost(None, 'x', np.array([[0, 5, 10]]))
    costs = Costs({'x': 1}, [table], rest=1)
    with self.assertRaisesRegex(ValueError, '^`capacity` must be at least 6'):
      patterns.whole_channels({}, costs, 5)
    pattern = patterns.whole_channels({}, costs, 6)
    with self.assertRaisesRegex(ValueError, '^After a cut of 0.3: `capacity`'):
      pattern.choose({'x': jnp.ones(2)}, [0.3])
    kept = patterns.whole_channels({}, costs, 2**40).choose({'x': jnp.ones(2)})
    self.assertTrue(kept['x'].all())


if __name__ == '__main__':
  absltest.main()
