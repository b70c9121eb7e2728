"""Blocks, and patterns that differ by layer under one budget."""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from toy_problem import PARAMS, train

import ong_jax
from ong_jax import allocation, patterns, scores, selection
from ong_jax.moves import grow_or_prune
from ong_jax.patterns import Block, NofM

_INF, _NAN = np.inf, np.nan
_ALLOCATIONS = (
  ('uniform', allocation.uniform),
  ('erk', allocation.erk),
  ('pooled', allocation.pooled),
)


def _scores(seed, *shape, ties=False):
  rng = np.random.default_rng(seed)
  values = rng.integers(0, 3, shape) if ties else rng.normal(size=shape)
  return jnp.asarray(values, jnp.float32)


def _total(kept):
  return sum(int(x.sum()) for x in jax.tree.leaves(kept))


def _block_slices(shape, block):
  """All blocks over the trailing axes, in order, as tuples of slices."""
  block = (1,) * (len(shape) - len(block)) + tuple(block)[-len(shape) :]
  starts = [range(0, d, b) for d, b in zip(shape, block)]
  return [
    tuple(slice(i, i + b) for i, b in zip(start, block))
    for start in itertools.product(*starts)
  ]


def _best_blocks(ranked, block, count):
  """One leaf, by NumPy: the best blocks in order, until one does not fit."""
  ranked = np.asarray(ranked, np.float64)
  where = _block_slices(ranked.shape, block)
  order = np.argsort([-ranked[w].mean() for w in where], kind='stable')
  kept = np.zeros(ranked.shape, bool)
  for i in order:
    if kept.sum() + ranked[where[i]].size > count:
      break
    kept[where[i]] = True
  return kept


class BlocksTest(parameterized.TestCase):
  @parameterized.product(
    case=[
      ((8, 12), (4, 4)),
      ((7, 10), (4, 4)),  # Smaller ones at the edges.
      ((3, 3, 4, 6), (2, 3)),
      ((3, 3, 4, 6), (3, 3, 1, 1)),
      ((6, 5), (3, 3, 1, 1)),
      ((2, 3), (16, 16)),
    ],
    sparsity=[0.0, 0.35, 0.7, 0.9],
    ties=[False, True],
  )
  def test_keeps_the_best_that_fit(self, case, sparsity, ties):
    shape, block = case
    ranked = _scores(0, *shape, ties=ties)
    budget = ranked.size - round(sparsity * ranked.size)
    pattern = patterns.blocks(block, sparsity)
    kept = np.asarray(pattern.choose({'a': ranked})['a'])
    if ties:  # Means of twelfths are not exact, and so not compared.
      for where in _block_slices(shape, block):
        self.assertLen(np.unique(kept[where]), 1)
    else:
      np.testing.assert_array_equal(kept, _best_blocks(ranked, block, budget))
    self.assertLessEqual(kept.sum(), budget)
    block = [min(pair) for pair in zip(shape[::-1], block[::-1])]
    size = np.prod(block)
    self.assertLess(budget - kept.sum(), size)
    if all(d % b == 0 for d, b in zip(shape[::-1], block)):
      self.assertEqual(kept.sum(), budget // size * size)

  def test_of_equal_blocks_the_first_stay(self):
    ranked = {'a': _scores(0, 8, 8, ties=True)}
    for sparsity in (0.1, 0.3, 0.6):
      kept = patterns.blocks((2, 2), sparsity).choose(ranked)['a']
      expected = _best_blocks(ranked['a'], (2, 2), 64 - round(64 * sparsity))
      np.testing.assert_array_equal(kept, expected)

  @parameterized.product(
    allocate=[a for _, a in _ALLOCATIONS],
    sparsity=[0.0, 0.3, 0.62, 0.9],
    block=[(1, 1), (1,)],
  )
  def test_of_one_weight_is_unstructured(self, allocate, sparsity, block):
    ranked = {
      'a': _scores(0, 3, 3, 2, 4, ties=True).at[0, 0, 0, 0].set(_NAN),
      'b': _scores(1, 6, 5).at[0, 0].set(-_INF).at[1, 1].set(_INF),
      'c': None,
    }
    for cut in (0.0, 0.3):
      chex.assert_trees_all_equal(
        patterns.blocks(block, sparsity, allocate).choose(ranked, [cut]),
        patterns.unstructured(sparsity, allocate).choose(ranked, [cut]),
      )

  @parameterized.named_parameters(*_ALLOCATIONS)
  def test_all_leaves_together_are_less_than_a_block_below(self, allocate):
    ranked = {'a': _scores(0, 9, 8), 'b': _scores(1, 3, 3, 6, 7), 'c': None}
    for sparsity in np.linspace(0.02, 0.97, 20):
      pattern = patterns.blocks((4, 3), sparsity, allocate)
      kept = pattern.choose(ranked)
      budget = 450 - round(450 * sparsity)
      self.assertBetween(_total(kept), budget - 11, budget)
      for name in 'ab':
        for where in _block_slices(ranked[name].shape, (4, 3)):
          self.assertLen(np.unique(kept[name][where]), 1)

  def test_one_ranking_of_all(self):
    ranked = {
      'a': jnp.array([[5.0, 3, 0, 0]]),
      'b': jnp.array([[9.0, 0, 3, 2]]),
    }
    pattern = patterns.blocks((1, 2), 0.5, allocation.pooled)
    kept = pattern.choose(ranked)
    np.testing.assert_array_equal(kept['a'], [[1, 1, 0, 0]])
    np.testing.assert_array_equal(kept['b'], [[1, 1, 0, 0]])
    kept = pattern.choose(ranked | {'b': ranked['b'] / 4})
    np.testing.assert_array_equal(kept['a'], [[1, 1, 0, 0]])
    np.testing.assert_array_equal(kept['b'], [[1, 1, 0, 0]])
    kept = pattern.choose(ranked, [0.5])
    self.assertEqual([int(x.sum()) for x in kept.values()], [0, 2])

  @parameterized.named_parameters(
    ('overflow', [3e38] * 4 + [1.0] * 4 + [2.0] * 4, [1, 0, 0]),
    ('overflow_is_no_must', [3e38] * 4 + [1.0] * 4 + [_INF] * 4, [0, 0, 1]),
    ('nan', [9.0, 9, 9, _NAN] + [1.0] * 4 + [0.0] * 4, [0, 1, 0]),
    ('must_not', [9.0, 9, 9, -_INF] + [1.0] * 4 + [0.0] * 4, [0, 1, 0]),
    ('must', [9.0] * 4 + [1.0] * 4 + [-9.0, -9, -9, _INF], [0, 0, 1]),
    ('both', [9.0] * 4 + [1.0] * 4 + [-_INF, -9, -9, _INF], [0, 0, 1]),
  )
  def test_means_that_are_not_finite(self, row, expected):
    kept = patterns.blocks((1, 4), 2 / 3).choose({'a': jnp.array([row])})['a']
    np.testing.assert_array_equal(kept[0, ::4], expected)

  def test_nan_stays_where_all_does(self):
    ranked = {'a': jnp.array([[1.0, _NAN, 3.0, 4.0, _NAN]])}
    self.assertEqual(_total(patterns.blocks((1, 2), 0.0).choose(ranked)), 5)

  @parameterized.parameters(((0, 4),), ((2.5, 4),))
  def test_refuses(self, shape):
    with self.assertRaisesRegex(
      ValueError, r'^`shape\[0\]` must be an integer'
    ):
      patterns.blocks(shape, 0.5)


def _params(ties=False):
  return {
    'attention': {
      'query': {'kernel': _scores(0, 10, 2, 4, ties=ties), 'bias': None},
      'out': {'kernel': _scores(1, 2, 4, 10, ties=ties)},
    },
    'conv': {'kernel': _scores(2, 3, 3, 5, 6, ties=ties)},
    'fc': {'kernel': _scores(3, 14, 9, ties=ties)},
    'head': {'kernel': _scores(4, 9, 4, ties=ties)},
  }


_SIZE = 80 + 80 + 270 + 126 + 36


def _kind(path, leaf):
  name = selection.name_of(path)
  if 'attention' in name:
    return NofM(2, 4)
  if 'conv' in name:
    return Block((2, 3))
  return Block((4, 4)) if 'fc' in name else None


def _without_head(path, leaf):
  return Block((3, 3)) if 'head' in selection.name_of(path) else _kind(path, 0)


# Of ten inputs of `query` 2 + 2 + 2 are kept, of eight of `out` 2 + 2.
_N_OF_M = 6 * 8 + 4 * 10


class MixedTest(parameterized.TestCase):
  @parameterized.product(
    allocate=[a for _, a in _ALLOCATIONS], ties=[False, True]
  )
  def test_the_total_is_exact_and_every_leaf_of_its_kind(self, allocate, ties):
    ranked = _params(ties)
    lowest, highest = (160 - _N_OF_M) / _SIZE, (_SIZE - _N_OF_M - 3) / _SIZE
    for sparsity in [lowest, *np.linspace(0.15, 0.8, 11), highest]:
      kept = patterns.mixed(_kind, sparsity, allocate).choose(ranked)
      self.assertEqual(_total(kept), _SIZE - round(sparsity * _SIZE))
      query = np.asarray(kept['attention']['query']['kernel'])
      chex.assert_trees_all_equal(
        kept['attention'],
        patterns.n_of_m(2, 4).choose(ranked['attention']),
      )
      np.testing.assert_array_equal(query.reshape(10, 8)[:4].sum(0), 2)
      for name, block in (('conv', (2, 3)), ('fc', (4, 4))):
        kernel = np.asarray(kept[name]['kernel'])
        for where in _block_slices(kernel.shape, block):
          self.assertLen(np.unique(kernel[where]), 1)

  def test_leaves_keep_their_best(self):
    ranked = _params()
    pattern = patterns.mixed(_kind, 0.55)
    kept = pattern.choose(ranked)
    rest = {k: ranked[k] for k in ('conv', 'fc', 'head')}
    left = _SIZE - round(0.55 * _SIZE) - _N_OF_M
    counts = allocation.uniform(rest, 1 - left / 432)
    for name, block in (('conv', (2, 3)), ('fc', (4, 4))):
      expected = _best_blocks(
        rest[name]['kernel'], block, counts[name]['kernel']
      )
      np.testing.assert_array_equal(kept[name]['kernel'], expected)
      left -= expected.sum()
    self.assertGreater(left, counts['head']['kernel'])  # Some was left over.
    head = np.asarray(ranked['head']['kernel']).ravel()
    expected = np.argsort(np.argsort(-head)) < left
    np.testing.assert_array_equal(kept['head']['kernel'].ravel(), expected)

  def test_blocks_and_weights_in_one_ranking(self):
    ranked = {
      'a': jnp.array([[9.0, 1, 4, 4, 0, 0]]),
      'b': jnp.array([7.0, 4.5, 3, 2]),
    }

    def kind(path, leaf):
      return Block((1, 2)) if leaf.ndim == 2 else None

    for kept, a, b in (
      (2, [0, 0, 0], [1, 1, 0, 0]),  # A block of 5 would not fit.
      (3, [1, 0, 0], [1, 0, 0, 0]),
      (4, [1, 0, 0], [1, 1, 0, 0]),
      (5, [1, 0, 0], [1, 1, 1, 0]),
      (6, [1, 1, 0], [1, 1, 0, 0]),
      (8, [1, 1, 0], [1, 1, 1, 1]),
      (9, [1, 1, 1], [1, 1, 1, 0]),  # No weight is left for the ninth.
    ):
      found = patterns.mixed(kind, 1 - kept / 10, allocation.pooled)
      found = found.choose(ranked)
      np.testing.assert_array_equal(found['a'][0, ::2], a, str(kept))
      np.testing.assert_array_equal(found['b'], b, str(kept))

  @parameterized.named_parameters(*_ALLOCATIONS)
  def test_whole_blocks_alone_come_near(self, allocate):
    ranked = _params()
    for sparsity in np.linspace(0.13, 0.83, 8):
      kept = patterns.mixed(_without_head, sparsity, allocate).choose(ranked)
      budget = _SIZE - round(sparsity * _SIZE)
      self.assertBetween(_total(kept), budget - 15, budget)

  @parameterized.named_parameters(*_ALLOCATIONS)
  def test_kinds_of_one_weight_are_unstructured(self, allocate):
    ranked = _params(ties=True)
    chex.assert_trees_all_equal(
      patterns.mixed(lambda path, leaf: None, 0.7, allocate).choose(ranked),
      patterns.unstructured(0.7, allocate).choose(ranked),
    )

  @parameterized.named_parameters(
    ('uniform', allocation.uniform, _kind),
    ('erk', allocation.erk, _kind),
    ('pooled', allocation.pooled, _kind),
    ('blocks_alone', allocation.uniform, _without_head),
  )
  def test_moves_stay_within_the_budget(self, allocate, kind):
    pattern = patterns.mixed(kind, 0.6, allocate)
    budget = _SIZE - round(0.6 * _SIZE)

    @jax.jit
    def step(scores, kept, grows, row):
      move = grow_or_prune(pattern, grows, [0.01, 0.1, 0.5, 0.0], row)
      return move(scores, kept)

    def assert_holds(big, small):
      self.assertFalse(
        any(
          jax.tree.leaves(jax.tree.map(lambda b, s: (s & ~b).any(), big, small))
        )
      )

    kept = pattern.choose(_params(ties=True))
    for seed, row in enumerate([0, 1, 2, 0, 3, 1]):
      scores = jax.tree.map(lambda k, s=seed: _scores(s, *k.shape), kept)
      if seed == 4:  # Nothing is cut.
        scores = _params(ties=True)
      pruned = step(scores, kept, False, row)
      assert_holds(kept, pruned)
      if row == 2:
        self.assertLess(_total(pruned), 0.6 * budget)
      grown = step(scores, pruned, True, 3)
      assert_holds(grown, pruned)
      full = all(np.all(x) for x in jax.tree.leaves(grown['head']))
      unused = budget - _total(grown)
      self.assertBetween(unused, 0, 15 if full or kind is not _kind else 0)
      if row == 3:
        chex.assert_trees_all_equal(pruned, kept)
        chex.assert_trees_all_equal(grown, kept)
      kept = grown

  def test_eight_devices_and_jit_choose_what_one_does(self):
    ranked = {'conv': _scores(0, 3, 3, 11, 16), 'head': _scores(3, 16, 8)}
    ranked['query'] = {'kernel': _scores(2, 8, 4, 8)}

    def kind(path, leaf):
      name = selection.name_of(path)
      kinds = {'conv': Block((3, 3, 2, 5)), 'query/kernel': NofM(2, 4)}
      return kinds.get(name)

    pattern = patterns.mixed(kind, 0.6, allocation.pooled)
    expected = pattern.choose(ranked, [0.2])
    mesh = jax.make_mesh((8,), ('x',), axis_types=(AxisType.Auto,))
    divided = jax.tree.map(
      lambda s: jax.device_put(
        s, NamedSharding(mesh, P(*[None] * (s.ndim - 1), 'x'))
      ),
      ranked,
    )
    jitted = jax.jit(lambda s, row: pattern.choose(s, [0.0, 0.2], row))
    chex.assert_trees_all_equal(jitted(ranked, 1), expected)
    chex.assert_trees_all_equal(jitted(divided, 1), expected)
    chex.assert_trees_all_equal(pattern.choose(divided, [0.2]), expected)

  @parameterized.parameters(0.1, 0.12, 0.86, 0.999)
  def test_says_which_sparsity_is_possible(self, sparsity):
    with self.assertRaisesRegex(
      ValueError,
      r'^`sparsity` must lie in \[0.121621622, 0.846283784\]; got .* of 592 '
      'weights. Leaves that have their own keep 88, and the 3 others from 3 to '
      '432.$',
    ):
      patterns.mixed(_kind, sparsity).choose(_params())
    for possible in (0.121621622, 0.846283784):
      kept = patterns.mixed(_kind, possible).choose(_params())
      self.assertEqual(_total(kept), 592 - round(possible * 592))

  def test_what_must_not_stay_does_not(self):
    ranked = {
      'a': jnp.array([[-_INF, 9, 4, 4, 2, 2]]),
      'b': jnp.array([7.0, -_INF, 3, -_INF]),
    }

    def kind(path, leaf):
      return Block((1, 2)) if leaf.ndim == 2 else None

    for allocate in (allocation.uniform, allocation.pooled):
      for kept in (7, 10):  # There are six that may stay.
        pattern = patterns.mixed(kind, 1 - kept / 10, allocate)
        found = pattern.choose(ranked)
        np.testing.assert_array_equal(found['a'], [[0, 0, 1, 1, 1, 1]])
        np.testing.assert_array_equal(found['b'], [1, 0, 1, 0])

  def test_groups_alone_have_one_sparsity(self):
    ranked = {'a': _scores(0, 8, 6)}
    pattern = patterns.mixed(lambda path, leaf: NofM(1, 4), 0.75)
    self.assertEqual(_total(pattern.choose(ranked)), 12)
    self.assertEqual(_total(pattern.choose(ranked, [0.5])), 6)
    pattern = patterns.mixed(lambda path, leaf: NofM(1, 4), 0.7)
    with self.assertRaisesRegex(ValueError, r'lie in \[0.75, 0.75\]; got 0.7'):
      pattern.choose(ranked)

  @parameterized.named_parameters(
    ('name', '2:4', TypeError, "of leaf 'a' must be a `NofM`, a `Block` or N"),
    ('n_of_m', NofM(4, 2), ValueError, '`n`=4 must be below `m`=2'),
    ('block', Block((4, 0)), ValueError, r'`shape\[1\]` must be an integer'),
  )
  def test_refuses_a_kind(self, kind, error, message):
    pattern = patterns.mixed(lambda path, leaf: kind, 0.5)
    with self.assertRaisesRegex(error, message):
      pattern.choose({'a': jnp.ones((4, 4))})


class IeeTest(parameterized.TestCase):
  def test_explores_under_a_mixed_pattern(self):
    def kind(path, leaf):
      return Block((2, 2)) if 'a' in selection.name_of(path) else None

    pattern = patterns.mixed(kind, 0.5)
    first = pattern.choose(scores.magnitude(selection.select(PARAMS)))
    method = ong_jax.iee(
      first, pattern, fractions=[0.5, 0.3], estimate=2, improve=1, explore=2
    )
    _, states = train(method, PARAMS, 12)
    masks = ong_jax.state_of(states).mask
    blocks = np.asarray(masks['a']['kernel']).reshape(12, 2, 2, 3, 2)
    blocks = blocks.sum((2, 4))
    self.assertContainsSubset(np.unique(blocks).tolist(), [0, 4])
    total = blocks.sum((1, 2)) + np.asarray(masks['b']['kernel']).sum((1, 2))
    np.testing.assert_array_equal(total[[0, 4, 5, 9, 11]], 18)
    self.assertLess(total[1], 18)
    self.assertTrue((blocks[0] != blocks[-1]).any())


if __name__ == '__main__':
  absltest.main()
