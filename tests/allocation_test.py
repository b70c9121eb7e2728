import itertools

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized

from ong_jax import allocation

SPARSITIES = (0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995)


def shaped(tree):
  """Scores without values, as an allocation must not look at them."""
  return jax.tree.map(
    lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32),
    tree,
    is_leaf=lambda x: isinstance(x, tuple),
  )


class AllocationTest(parameterized.TestCase):
  @parameterized.named_parameters(
    ('dense', 0, 272), ('half', 0.5, 136), ('high', 0.95, 14)
  )
  def test_pooled_is_one_count(self, sparsity, expected):
    scores = shaped({'a': (4, 4), 'b': (16, 16), 'c': None})
    self.assertEqual(allocation.pooled(scores, sparsity), expected)
    self.assertIsInstance(allocation.pooled(scores, sparsity), int)

  @parameterized.named_parameters(
    ('dense', 0, {'a': (2, 2), 'b': (3,)}, {'a': 4, 'b': 3}),
    ('divides', 0.5, {'a': (4, 4), 'b': (16, 16)}, {'a': 8, 'b': 128}),
    # Of 8 kept 2.4, 2.4 and 3.2: the one left goes to the first of the equal.
    ('tie', 0.2, {'a': (3,), 'b': (3,), 'c': (4,)}, {'a': 3, 'b': 2, 'c': 3}),
    # Of 4 kept 1.6, 0.8, 0.8 and 0.8: the three left go to the last three.
    (
      'largest_remainder',
      0.6,
      {'a': (4,), 'b': (2, 1), 'c': (2,), 'd': (1, 2)},
      {'a': 1, 'b': 1, 'c': 1, 'd': 1},
    ),
  )
  def test_uniform_by_hand(self, sparsity, shapes, expected):
    counts = allocation.uniform(shaped(shapes), sparsity)
    self.assertEqual(counts, expected)

  @parameterized.named_parameters(
    # Of 136 kept, 8 : 32 would give the first 27.2, and it has but 16.
    ('one_dense', 0.5, [(4, 4), (16, 16)], [16, 120]),
    # Of 45 kept, 15 : 8 : 8 is 21.8, 11.6 and 11.6.
    ('none_dense', 0.5, [(3, 2, 10), (4, 4), (3, 5)], [22, 12, 11]),
    # Of 120 kept, 3 : 9 : 43 would give the first 6.5, the second 19.6 of 20;
    # once the first is dense, 9 : 43 of the 118 left would be 20.4 for it.
    ('one_after_the_other', 0.75, [(1, 2), (4, 5), (20, 23)], [2, 20, 98]),
    ('all_dense', 0, [(4, 4), (16, 16), (2, 3)], [16, 256, 6]),
    ('tie', 0.5, [(5, 1), (5, 1)], [3, 2]),
    ('scalars', 0, [(), ()], [1, 1]),
  )
  def test_erk_by_hand(self, sparsity, shapes, expected):
    self.assertEqual(allocation.erk(shaped(shapes), sparsity), expected)

  @parameterized.named_parameters(
    ('uniform', allocation.uniform), ('erk', allocation.erk)
  )
  def test_counts_are_exact_and_fit(self, allocate):
    rng = np.random.default_rng(0)
    for _, sparsity in itertools.product(range(20), SPARSITIES):
      shapes = [
        tuple(map(int, rng.integers(1, 12, rng.integers(1, 4))))
        for _ in range(rng.integers(1, 8))
      ]
      scores = shaped(shapes + [(40, 50)])
      counts = allocate(scores, sparsity)
      total = sum(x.size for x in scores)
      self.assertEqual(sum(counts), total - round(sparsity * total))
      for count, leaf in zip(counts, scores):
        self.assertIsInstance(count, int)
        self.assertBetween(count, 0, leaf.size)

  def test_erk_densities_follow_the_rule(self):
    shapes = [(3, 3, 64, 64), (3, 3, 64, 128), (1, 1, 64, 128), (512, 100)]
    counts = allocation.erk(shaped(shapes), 0.9)
    sizes, sums = np.array([(np.prod(s), sum(s)) for s in shapes]).T
    eps = counts / sums  # One for all that are not kept whole.
    self.assertTrue(np.all(counts < sizes))
    np.testing.assert_allclose(eps, eps[0], rtol=1e-2)

  @parameterized.parameters(
    (0.8, [1, 0.321074, 0.158104, 1]), (0.9, [1, 0.150747, 0.074231, 1])
  )
  def test_erk_agrees_with_known_densities(self, sparsity, expected):
    shapes = [(3, 3, 3, 64), (3, 3, 64, 128), (3, 3, 128, 256), (256, 10)]
    kernels = [jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes]
    counts = allocation.erk(kernels, sparsity)
    found = [n / kernel.size for n, kernel in zip(counts, kernels)]
    np.testing.assert_allclose(found, expected, atol=2e-5)

  def test_counts_beyond_float_precision(self):
    scores = shaped([(2**20, 2**12), (2**20, 2**12)])
    total = 2**33
    self.assertEqual(
      sum(allocation.uniform(scores, 0.1)), total - round(0.1 * total)
    )
    self.assertEqual(allocation.erk(scores, 0), [2**32, 2**32])

  @parameterized.named_parameters(
    ('pooled', allocation.pooled),
    ('uniform', allocation.uniform),
    ('erk', allocation.erk),
  )
  def test_refuses_impossible_budgets(self, allocate):
    scores = shaped({'a': (5,), 'b': (5,)})
    with self.assertRaisesRegex(ValueError, '^`sparsity` must be a number in'):
      allocate(scores, 1)
    with self.assertRaisesRegex(ValueError, '^`sparsity`=0.9 keeps 1 of 10 '):
      allocate(scores, 0.9)

  @parameterized.named_parameters(
    ('pooled', allocation.pooled, 0),
    ('uniform', allocation.uniform, {'a': None}),
    ('erk', allocation.erk, {'a': None}),
  )
  def test_holes_stay_and_nothing_is_nothing(self, allocate, expected):
    self.assertEqual(allocate({'a': None}, 0.5), expected)

  @parameterized.parameters(
    *itertools.product((0.5, 0.8, 0.95), ('uniform', 'erk'))
  )
  def test_leaves_with_their_own_are_made_up_for(self, sparsity, name):
    sizes = {'first': (3, 3, 3, 16), 'mid': (3, 3, 16, 32), 'last': (64, 10)}
    own = {'first': 0.0, 'last': 0.75}
    allocate = allocation.with_own(
      lambda path, leaf: own.get(path[0].key), getattr(allocation, name)
    )
    scores = shaped(sizes | {'none': None})
    total = 432 + 4608 + 640
    kept = total - round(sparsity * total)
    if kept <= 432 + 160:
      with self.assertRaisesRegex(
        ValueError, r'must lie in \[0.08450\d*, 0.89559\d*\]; got 0.95, .* 592,'
      ):
        allocate(scores, sparsity)
      return
    counts = allocate(scores, sparsity)
    self.assertEqual(counts['first'], 432)
    self.assertEqual(counts['last'], 160)
    self.assertEqual(counts['mid'], kept - 592)
    self.assertIsNone(counts['none'])

  def test_own_sparsities_are_refused_where_all_are_ranked_together(self):
    allocate = allocation.with_own(
      lambda path, leaf: 0.0 if path[0].key == 'a' else None, allocation.pooled
    )
    with self.assertRaisesRegex(ValueError, '`allocate` must split'):
      allocate(shaped({'a': (4, 4), 'b': (16, 16)}), 0.5)
    with self.assertRaisesRegex(ValueError, '`sparsity` must be a number'):
      allocation.with_own(lambda path, leaf: 1.5)(shaped({'a': (4, 4)}), 0.5)
