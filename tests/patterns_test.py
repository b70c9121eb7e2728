import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ong_jax import allocation, patterns


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
    scores = {'a': _scores(4, 6), 'b': _scores(6, 4), 'c': None}
    pattern = patterns.unstructured(0.5, allocate)

    @jax.jit
    def choose(row):
      return pattern.choose(scores, [0.28, 0.0], row)

    kept = choose(1)
    self.assertIsNone(kept['c'])
    counts = [int(x.sum()) for x in jax.tree.leaves(kept)]
    cut = [int(x.sum()) for x in jax.tree.leaves(choose(0))]
    if whole is None:
      counts, cut, whole = [sum(counts)], [sum(cut)], [24]
    self.assertEqual((counts, cut), (whole, after))

  def test_what_must_stay_stays_and_what_must_not_does_not(self):
    inf = jnp.inf
    scores = {'a': jnp.array([-inf, 5.0, inf, 1.0, -inf, 3.0])}
    kept = patterns.unstructured(0.5).choose(scores)['a']
    np.testing.assert_array_equal(kept, [0, 1, 1, 0, 0, 1])

  def test_a_floor_saves_a_leaf_that_ranks_low(self):
    scores = {'a': jnp.arange(20.0), 'b': jnp.arange(100.0, 180.0)}
    pattern = patterns.unstructured(0.8, allocation.pooled, floor=0.06)
    kept = pattern.choose(scores)
    np.testing.assert_array_equal(np.flatnonzero(kept['a']), [18, 19])
    self.assertEqual(int(kept['b'].sum()), 18)
    forbidden = scores | {'a': jnp.full(20, -jnp.inf)}
    self.assertFalse(pattern.choose(forbidden)['a'].any())
    with self.assertRaisesRegex(ValueError, r'`floor` must lie in \[0, 0.1\]'):
      patterns.unstructured(0.8, floor=0.11)


class NOfMTest(parameterized.TestCase):
  @parameterized.product(shape=[(8, 3), (3, 3, 4, 5), (10, 2)], n=[1, 2, 3])
  def test_keeps_the_best_of_every_group(self, shape, n):
    scores = _scores(*shape)
    kept = patterns.n_of_m(n, 4).choose({'a': scores})['a']
    rows = np.asarray(scores).reshape(-1, shape[-1])
    expected = np.zeros(rows.shape, bool)
    for column in range(shape[-1]):
      for top in range(0, len(rows), 4):
        group = rows[top : top + 4, column]
        best = np.argsort(-group, kind='stable')[:n]
        expected[top + best, column] = True
    np.testing.assert_array_equal(kept, expected.reshape(shape))

  def test_a_cut_takes_the_lowest_of_what_the_groups_keep(self):
    scores = {'a': jnp.array([[1.0, 9.0, 8.0, 7.0, 4.0, 3.0, 2.0, 0.0]]).T}
    kept = patterns.n_of_m(2, 4).choose(scores, [0.25])['a'][:, 0]
    np.testing.assert_array_equal(kept, [0, 1, 1, 0, 1, 0, 0, 0])

  def test_is_jitted_alike(self):
    scores = {'a': _scores(12, 3), 'b': None}
    pattern = patterns.n_of_m(2, 4)
    chex.assert_trees_all_equal(
      jax.jit(lambda s: pattern.choose(s, [0.3, 0.0], 0))(scores),
      pattern.choose(scores, [0.3, 0.0], 0),
    )

  @parameterized.parameters((0, 4), (4, 4), (2, 2.5))
  def test_refuses(self, n, m):
    with self.assertRaisesRegex(ValueError, '`[nm]`'):
      patterns.n_of_m(n, m)


if __name__ == '__main__':
  absltest.main()
