import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ong_jax import allocation, patterns
from ong_jax.moves import grow_or_prune, replace

_INF, _NAN = jnp.inf, jnp.nan


def _move(scores, kept, grows, sparsity=0.5, cuts=(0.0,)):
  move = grow_or_prune(patterns.unstructured(sparsity), grows, cuts)
  return move({'a': jnp.array(scores)}, {'a': jnp.array(kept, bool)})['a']


class MoveTest(parameterized.TestCase):
  @parameterized.named_parameters(
    ('prunes', [1.0, 9, 3, 4, 9, 9], [1, 0, 1, 1, 0, 0], False, [0, 0, 1, 1]),
    ('grows', [1.0, 2, 3, 9, 5, 8], [1, 0, 0, 0, 0, 1], True, [1, 0, 0, 1]),
    (
      'nan_goes',
      [_NAN, 9, 3, 4, 9, 9],
      [1, 0, 1, 1, 0, 0],
      False,
      [0, 0, 1, 1],
    ),
    ('nan_stays', [_NAN, _NAN, 3, 2, 1, 0], [1] + [0] * 5, True, [1, 0, 1, 1]),
    (
      'inf_stays',
      [_INF, 9, 3, 4, 9, 9],
      [1, 0, 1, 1, 0, 0],
      False,
      [1, 0, 0, 1],
    ),
    ('inf_comes', [0.0, _INF, 3, 2, 1, 0], [1] + [0] * 5, True, [1, 1, 1, 0]),
  )
  def test_only_what_competes_moves(self, scores, kept, grows, expected):
    cuts = (0.0,) if grows else (1 / 3,)
    found = _move(scores, kept, grows, cuts=cuts)
    np.testing.assert_array_equal(found[:4], expected)
    self.assertEqual(int(found.sum()), 3 if grows else 2)

  @parameterized.named_parameters(
    ('pruning_does_not_grow', [0, 0, 0, 0, 0, 1], False, [0, 0, 0, 0, 0, 1]),
    ('growing_does_not_prune', [0, 1, 1, 1, 1, 1], True, [0, 1, 1, 1, 1, 1]),
  )
  def test_where_the_budget_is_not_met(self, kept, grows, expected):
    np.testing.assert_array_equal(_move([1.0] * 6, kept, grows), expected)

  def test_refuses_scores_of_something_else(self):
    move = grow_or_prune(patterns.unstructured(0.5, allocation.pooled), True)
    with self.assertRaisesRegex(
      ValueError, r"it ranks \['a', 'b'\], the mask has \['a'\]"
    ):
      move({'a': jnp.ones(2), 'b': jnp.ones(2)}, {'a': jnp.ones(2, bool)})
    with self.assertRaisesRegex(TypeError, 'must return floats; got int32'):
      move({'a': jnp.ones(2, jnp.int32)}, {'a': jnp.ones(2, bool)})


def _replace(sizes, gains, kept, cut, pattern=None, seed=0):
  pattern = pattern or patterns.unstructured(1 - sum(kept) / len(kept))
  move = replace(jax.random.key(seed), pattern, [0.0, cut], 1)
  trees = [{'a': jnp.array(x)} for x in (sizes, gains)]
  found = jax.jit(move)(*trees, {'a': jnp.array(kept, bool)})['a']
  return np.asarray(found)


class ReplaceTest(parameterized.TestCase):
  @parameterized.named_parameters(
    (
      'the_smallest_by_the_highest',
      [5.0, 2, 4, 3, 9, 9, 9, 9],
      [9.0, 9, 9, 9, 1, 4, 2, 3],
      0.5,
      [1, 0, 1, 0, 0, 1, 0, 1],
    ),
    (
      'rounded_down',
      [5.0, 2, 4, 3, 9, 9, 9, 9],
      [9.0, 9, 9, 9, 1, 4, 2, 3],
      0.49,
      [1, 0, 1, 1, 0, 1, 0, 0],
    ),
    (
      'of_equal_gains_the_first',
      [5.0, 2, 4, 3, 9, 9, 9, 9],
      [9.0, 9, 9, 9, 1, 2, 2, 2],
      0.5,
      [1, 0, 1, 0, 0, 1, 1, 0],
    ),
    (
      'what_is_not_finite_comes_last',
      [5.0, 2, 4, 3, 9, 9, 9, 9],
      [9.0, 9, 9, 9, _NAN, 0.0, _INF, 1e-30],
      0.5,
      [1, 0, 1, 0, 0, 1, 0, 1],
    ),
    (
      'but_before_what_was_dropped',
      [5.0, 2, 4, 3, 9, 9, 9, 9],
      [9.0, 9, 9, 9, _NAN, _NAN, _INF, _INF],
      0.99,
      [1, 0, 0, 0],
    ),
    ('nan_is_dropped', [5.0, _NAN, 4, 3], [0.0] * 4 + [2, 1], 0.3, [1, 0, 1]),
    (
      'of_too_few_all_come_and_the_largest_stay',
      [1e-5, 5.0, 0.03, 0.01, 0.02, 7, 7],
      [9.0, 9, 9, 9, 9, 0, 1],
      0.8,
      [0, 1, 1, 0, 1, 1, 1],
    ),
    ('where_all_are_kept', [2.0, 1, 3], [9.0, 9, 9], 0.7, [1, 1, 1]),
  )
  def test_by_hand(self, sizes, gains, cut, expected):
    num = {6: 4, 7: 5, 8: 4, 3: 3}[len(gains)]
    kept = [1] * num + [0] * (len(gains) - num)
    sizes = sizes + [0.0] * (len(gains) - len(sizes))
    found = _replace(sizes, gains, kept, cut)
    np.testing.assert_array_equal(found[: len(expected)], expected)
    self.assertEqual(found.sum(), num)

  def test_no_gain_is_drawn_and_not_the_first(self):
    kept = np.arange(1000) < 500
    sizes = np.where(kept, np.arange(1000.0), 0)
    gains = np.zeros(1000)
    gains[[700, 999]] = 1e-37, 1e-36  # However little, it decides.
    first, again, other = (
      _replace(sizes, gains, kept, 0.2, seed=seed) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    self.assertTrue(np.any(first != other))
    for found in (first, other):
      np.testing.assert_array_equal(found[:500], np.arange(500) >= 100)
      self.assertEqual(found[500:].sum(), 100)
      self.assertTrue(found[700] and found[999])
      middle = np.flatnonzero(found[500:]).mean()
      self.assertBetween(middle, 200, 300)  # Of 0 ... 499: the first give 50.

  def test_groups_keep_their_number(self):
    pattern = patterns.n_of_m(2, 4)
    rng = np.random.default_rng(0)
    kept = np.zeros((4, 6, 5), bool)
    kept[:2] = True
    kept = rng.permuted(kept, axis=0).transpose(1, 0, 2).reshape(24, 5)
    sizes = kept * rng.uniform(1, 2, kept.shape)
    gains = rng.uniform(size=kept.shape)
    found = _replace(sizes, gains, kept, 0.4, pattern)
    np.testing.assert_array_equal(found.reshape(6, 4, 5).sum(1), 2)
    dropped, grown = kept & ~found, found & ~kept
    self.assertEqual((dropped.sum(), grown.sum()), (24, 24))
    self.assertLess(sizes[dropped].max(), sizes[kept & found].min())
    for group in range(6):  # Of each, the highest of what was not kept.
      rows = slice(4 * group, 4 * group + 4)
      for g, new, old in zip(gains[rows].T, grown[rows].T, kept[rows].T):
        if new.sum():
          self.assertGreaterEqual(g[new].min(), g[~old & ~new].max(initial=0))

  def test_one_ranking_of_all_keeps_the_total(self):
    pattern = patterns.unstructured(0.5, allocation.pooled)
    kept = {'a': jnp.arange(8) < 4, 'b': jnp.arange(8) < 4}
    sizes = {'a': jnp.ones(8), 'b': 2 * jnp.ones(8)}
    gains = {'a': 2 * jnp.ones(8), 'b': 3 * jnp.ones(8)}
    move = replace(jax.random.key(0), pattern, [0.5])
    found = move(sizes, gains, kept)
    np.testing.assert_array_equal(found['a'], [0] * 8)
    np.testing.assert_array_equal(found['b'], [1] * 8)


if __name__ == '__main__':
  absltest.main()
