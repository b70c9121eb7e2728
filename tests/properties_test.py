"""Laws of ranking, budgets and masks, in 2,293 cases; `zeros_test` has 486."""

import functools

import chex
import drawn
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import ong_jax
from ong_jax import allocation, controls, masks, patterns, ranking, scores

SHAPES = {'a': (4, 6), 'b': (2, 3, 8), 'c': (4, 6), 'vector': (5,)}
PRUNABLE = {name: shape for name, shape in SHAPES.items() if len(shape) > 1}
TOTAL = sum(int(np.prod(shape)) for shape in PRUNABLE.values())
DTYPES = {name: (name,) for name in drawn.FLOATS} | {
  'mixed': tuple(drawn.FLOATS)
}
# Up to three of the 96 weights, one for each leaf; the ends more often.
SPARSITIES = st.one_of(
  st.sampled_from([0.0, 0.5, 0.9, 1 / 3, (TOTAL - 3) / TOTAL]),
  st.floats(0, (TOTAL - 3) / TOTAL),
)
KEY = jax.random.key(0)


def prunable(path, leaf):
  return leaf.ndim > 1


def kind(path, leaf):
  names = {'a': patterns.NofM(1, 4), 'b': patterns.Block((2, 2))}
  return names.get(path[-1].key)


def one_shot(score, **options):
  return lambda s: ong_jax.one_shot(score, s, prunable=prunable, **options)


def by_pattern(make):
  return lambda s: ong_jax.one_shot(
    scores.magnitude, pattern=make(s), prunable=prunable
  )


ALLOCATIONS = {
  'pooled': allocation.pooled,
  'uniform': allocation.uniform,
  'erk': allocation.erk,
}
PRUNERS = {
  'magnitude': lambda s: ong_jax.magnitude(sparsity=s, prunable=prunable),
  'lamp': lambda s: ong_jax.lamp(sparsity=s, prunable=prunable),
  'random': lambda s: ong_jax.random(KEY, sparsity=s, prunable=prunable),
  'ong': lambda s: ong_jax.ong(
    KEY,
    sparsity=s,
    saliency=ong_jax.saliency.residual,
    rank=7,
    max_sweeps=3,
    prunable=prunable,
  ),
  'ong_erk': lambda s: ong_jax.ong(
    KEY,
    sparsity=s,
    saliency=ong_jax.saliency.recon_mag,
    rank=1,
    allocate=allocation.erk,
    max_sweeps=3,
    prunable=prunable,
  ),
  'identity': one_shot(scores.identity, allocate=allocation.uniform),
  'normalized': one_shot(
    scores.normalized(scores.magnitude), allocate=allocation.pooled
  ),
  'average': one_shot(scores.average([scores.magnitude, scores.identity])),
  'shuffled': lambda s: (
    lambda params: controls.shuffle(
      KEY, ong_jax.magnitude(sparsity=s, prunable=prunable)(params)
    )
  ),
  'own': one_shot(
    scores.magnitude,
    allocate=allocation.with_own(lambda path, leaf: None, allocation.erk),
  ),
  'unstructured': by_pattern(patterns.unstructured),
  'one_ranking': by_pattern(
    lambda s: patterns.unstructured(s, allocation.pooled)
  ),
  'per_output': by_pattern(patterns.per_output),
}


def named(table):
  return parameterized.named_parameters((name, name) for name in table)


def split_by_count(x, k):
  """The k highest of a vector, NaN lowest, of ties the first; by sorting."""
  x = np.asarray(x, np.float64)
  order = np.argsort(np.where(np.isnan(x), np.inf, -x), kind='stable')
  # What is NaN and what is -inf share a place above; NaN is behind.
  order = order[np.argsort(np.isnan(x[order]), kind='stable')]
  kept = np.zeros(x.size, bool)
  kept[order[:k]] = True
  return kept


@functools.partial(jax.jit, static_argnums=0)
def top_k(pooled, tree, counts):
  return ranking.top_k(tree, counts if not pooled else counts['a'])


class TopKTest(parameterized.TestCase):
  """Against sorting, bit by bit: 4 x 2 x 60 cases."""

  @parameterized.product(dtypes=list(DTYPES), pooled=[True, False])
  def test_agrees_with_a_stable_sort(self, dtypes, pooled):
    @settings(max_examples=60)
    @given(drawn.trees(SHAPES, DTYPES[dtypes], wild=True), st.data())
    def check(tree, data):
      flat = [np.asarray(x, np.float64).ravel() for x in tree.values()]
      if pooled:
        size = sum(x.size for x in flat)
        k = data.draw(st.integers(0, size))
        counts = dict.fromkeys(tree, k)
        ends = np.cumsum([x.size for x in flat])[:-1]
        expected = np.split(split_by_count(np.concatenate(flat), k), ends)
      else:
        counts = {n: data.draw(st.integers(0, x.size)) for n, x in tree.items()}
        expected = list(map(split_by_count, flat, counts.values()))
      found = top_k(pooled, tree, counts)
      for name, e in zip(tree, expected):
        np.testing.assert_array_equal(found[name], e.reshape(SHAPES[name]))

    check()


class BudgetTest(parameterized.TestCase):
  """Counts are exact: 3 x 100 trees of shapes, 13 pruners x 40 of values, 5 x
  30 of groups, 3 x 30 of blocks, 60 of all in one.
  """

  @named(ALLOCATIONS)
  def test_of_any_shapes(self, name):
    shapes = st.lists(st.integers(1, 40), min_size=1, max_size=4).map(tuple)

    @settings(max_examples=100)
    @given(st.lists(shapes, min_size=1, max_size=6), st.floats(0, 1))
    def check(shapes, sparsity):
      tree = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
      total = sum(x.size for x in tree)
      kept = drawn.round_kept(total, sparsity)
      if sparsity == 1 or kept < len(tree):
        with self.assertRaisesRegex(ValueError, '^`sparsity`'):
          ALLOCATIONS[name](tree, sparsity)
        return
      counts = jax.tree.leaves(ALLOCATIONS[name](tree, sparsity))
      self.assertEqual(sum(counts), kept)
      if name != 'pooled':
        for leaf, count in zip(tree, counts):
          self.assertBetween(count, 0, leaf.size)

    check()

  @named(PRUNERS)
  def test_of_any_values(self, name):
    @settings(max_examples=40)
    @given(st.data(), SPARSITIES)
    def check(data, sparsity):
      dtypes = DTYPES[data.draw(st.sampled_from(list(DTYPES)))]
      params = data.draw(drawn.trees(SHAPES, dtypes))
      try:
        mask = PRUNERS[name](sparsity)(params)
      except ValueError as error:  # Products of weights as large as that.
        self.assertIn(name, ('ong', 'ong_erk', 'average'))
        self.assertRegex(str(error), '^(Leaf .* NaN scores|Floors ask)')
        self.assertGreater(max(np.abs(x).max() for x in params.values()), 1e15)
        return
      self.assertIsNone(mask['vector'])
      found = {n: int(np.asarray(mask[n]).sum()) for n in PRUNABLE}
      expected = drawn.round_kept(TOTAL, sparsity)
      self.assertEqual(sum(found.values()), expected)

    check()

  @parameterized.parameters((1, 2), (2, 4), (3, 4), (1, 5), (2, 8))
  def test_of_groups(self, n, m):
    prune = by_pattern(lambda _: patterns.n_of_m(n, m))(0)

    @settings(max_examples=30)
    @given(drawn.trees(SHAPES, DTYPES['mixed']))
    def check(params):
      mask = prune(params)
      for name, shape in PRUNABLE.items():
        rows = np.asarray(mask[name]).reshape(-1, shape[-1])
        for start in range(0, len(rows), m):
          group = rows[start : start + m]
          self.assertEqual(set(group.sum(0)), {min(n, len(group))})

    check()

  @parameterized.parameters(((2, 2),), ((1, 4),), ((4, 4),))
  def test_of_blocks(self, block):
    @settings(max_examples=30)
    @given(drawn.trees(SHAPES, DTYPES['mixed']), SPARSITIES)
    def check(params, sparsity):
      prune = by_pattern(lambda s: patterns.blocks(block, s))(sparsity)
      kept = sum(int(np.asarray(prune(params)[n]).sum()) for n in PRUNABLE)
      budget = drawn.round_kept(TOTAL, sparsity)
      self.assertLessEqual(kept, budget)
      self.assertLess(budget - kept, block[0] * block[1])

    check()

  @settings(max_examples=60)
  @given(drawn.trees(SHAPES, DTYPES['mixed']), st.floats(0.3, 0.7))
  def test_of_a_pattern_for_each_layer(self, params, sparsity):
    # 6 of a stay; c is of single weights, which fill up what blocks leave.
    prune = by_pattern(lambda s: patterns.mixed(kind, s))(sparsity)
    mask = prune(params)
    kept = sum(int(np.asarray(mask[n]).sum()) for n in PRUNABLE)
    self.assertEqual(kept, drawn.round_kept(TOTAL, sparsity))
    self.assertEqual(int(mask['a'].sum()), 6)


class RefusedTest(parameterized.TestCase):
  """What would hide a fault is refused by its leaf's name: 160 cases."""

  @settings(max_examples=100)
  @given(
    drawn.trees(SHAPES, DTYPES['mixed']),
    st.sampled_from(sorted(PRUNABLE)),
    st.sampled_from([np.nan, np.inf, -np.inf]),
    st.sampled_from(sorted(PRUNERS)),
  )
  def test_weights_that_are_not_finite(self, params, leaf, value, name):
    params[leaf] = params[leaf].copy()
    params[leaf].flat[3] = value
    with self.assertRaisesRegex(ValueError, f"Leaf '{leaf}' .* not finite"):
      PRUNERS[name](0.5)(params)

  @settings(max_examples=60)
  @given(
    drawn.trees(SHAPES), st.sampled_from(sorted(PRUNABLE)), st.integers(1, 24)
  )
  def test_scores_that_are_nan(self, params, leaf, num_bad):
    def score(weights):
      bad = np.arange(np.size(params[leaf])) < num_bad
      bad = bad.reshape(SHAPES[leaf])
      return {**weights, leaf: jnp.where(bad, jnp.nan, weights[leaf])}

    with self.assertRaisesRegex(
      ValueError, f"^Leaf '{leaf}' has {num_bad} NaN scores"
    ):
      one_shot(score)(0.5)(params)


_MESHES = {
  devices: jax.make_mesh(
    (devices,),
    ('model',),
    axis_types=(AxisType.Auto,),
    devices=jax.devices()[:devices],
  )
  for devices in (2, 8)
}
_WIDE = {'a': (4, 8), 'b': (2, 3, 8), 'c': (4, 8)}
_SPLIT = {
  devices: {
    name: NamedSharding(mesh, P(*[None] * (len(shape) - 1), 'model'))
    for name, shape in _WIDE.items()
  }
  for devices, mesh in _MESHES.items()
}


class DevicesTest(parameterized.TestCase):
  """A mask is that of one device: 7 pruners x 19, 60 of `top_k`, 4 x 25."""

  @named(
    [
      'magnitude',
      'lamp',
      'random',
      'ong',
      'normalized',
      'shuffled',
      'per_output',
    ]
  )
  def test_eight_and_one_agree(self, name):
    prune = PRUNERS[name](0.6)

    @settings(max_examples=19)
    @given(drawn.trees(_WIDE))
    def check(params):
      # Not so large that a product of two overflows.
      params = jax.tree.map(lambda x: jnp.clip(x, -1e15, 1e15), params)
      split = jax.device_put(params, _SPLIT[8])
      chex.assert_trees_all_equal(prune(params), prune(split))

    check()

  @settings(max_examples=60)
  @given(drawn.trees(_WIDE, wild=True), st.integers(0, 104))
  def test_ranking_on_eight_two_and_one(self, tree, k):
    counts = dict.fromkeys(tree, k)
    alone = top_k(True, tree, counts)
    chex.assert_trees_all_equal(alone, ranking.top_k(tree, k))
    for devices in _SPLIT:
      split = top_k(True, jax.device_put(tree, _SPLIT[devices]), counts)
      chex.assert_trees_all_equal(alone, split)

  @parameterized.parameters('magnitude', 'lamp', 'normalized', 'per_output')
  def test_pruners_in_jit(self, name):
    prune = PRUNERS[name](0.6)
    jitted = jax.jit(prune)

    @settings(max_examples=25)
    @given(drawn.trees(SHAPES))
    def check(params):
      chex.assert_trees_all_equal(prune(params), jitted(params))

    check()


class MaskTest(parameterized.TestCase):
  """What a mask does and says, against NumPy: 4 x 60 cases."""

  @settings(max_examples=60)
  @given(drawn.trees(SHAPES, DTYPES['mixed'], wild=True), drawn.masks(PRUNABLE))
  def test_apply_mask_keeps_every_bit_or_none(self, tree, mask):
    found = masks.apply_mask(tree, mask | {'vector': None})
    for name, x in tree.items():
      kept = mask.get(name, np.ones_like(x, bool))
      expected = np.where(kept, drawn.bits(x), 0)
      self.assertEqual(found[name].dtype, x.dtype)
      np.testing.assert_array_equal(drawn.bits(found[name]), expected)

  @settings(max_examples=60)
  @given(drawn.masks(PRUNABLE))
  def test_summarize_and_sparsity_count(self, mask):
    kept = sum(int(m.sum()) for m in mask.values())
    summary = ong_jax.summarize(mask | {'vector': None})
    self.assertEqual(masks.sparsity(mask), (TOTAL - kept) / TOTAL)
    self.assertEqual((summary.kept, summary.prunable), (kept, TOTAL))
    self.assertEqual(summary.sparsity, masks.sparsity(mask))
    self.assertEqual(
      {x.path: x.kept for x in summary.layers},
      {name: int(m.sum()) for name, m in mask.items()},
    )
    self.assertEqual(
      summary.empty_filters,
      sum((~m.reshape(-1, m.shape[-1]).any(0)).sum() for m in mask.values()),
    )
    self.assertEqual(
      summary.empty_layers, sum(not m.any() for m in mask.values())
    )

  @settings(max_examples=60)
  @given(drawn.masks(SHAPES))
  @example({name: np.ones(shape, bool) for name, shape in SHAPES.items()})
  def test_packed_masks_come_back(self, mask):
    bits = ong_jax.pack(mask)
    for name, m in mask.items():
      np.testing.assert_array_equal(bits[name], np.packbits(m))
    chex.assert_trees_all_equal(ong_jax.unpack(bits, mask), mask)

  @settings(max_examples=60)
  @given(drawn.trees(SHAPES, wild=True), drawn.masks(SHAPES), st.data())
  def test_a_mask_that_does_not_fit_names_its_leaf(self, tree, mask, data):
    name = data.draw(st.sampled_from(sorted(SHAPES)))
    shape = (*SHAPES[name], 1) if data.draw(st.booleans()) else SHAPES[name][1:]
    bad = mask | {name: np.ones(shape, bool)}
    with self.assertRaisesRegex(ValueError, f"^Mask leaf '{name}' has shape"):
      masks.apply_mask(tree, bad)
    bad = mask | {name: mask[name].astype(np.uint8)}
    with self.assertRaisesRegex(TypeError, f"^Mask leaf '{name}' must be bool"):
      masks.apply_mask(tree, bad)


if __name__ == '__main__':
  absltest.main()
