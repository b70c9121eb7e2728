from typing import Any, NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized
from flax import nnx
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from ong_jax import (
  allocation,
  masks,
  nmf,
  patterns,
  pruners,
  saliency,
  scores,
  starts,
)

KEY = jax.random.key(0)
SHAPES = {  # 2 * 288 + 153 = 729 prunable weights.
  'conv': {'kernel': (3, 3, 4, 8), 'bias': (8,)},
  'deep': [{'conv': {'kernel': (3, 3, 4, 8)}}, {'scale': (8,)}],
  'embed': {'embedding': (5, 4)},
  'fc': {'kernel': (17, 9), 'bias': (9,)},
}
MASK_SHAPES = {
  'conv': {'kernel': (3, 3, 4, 8), 'bias': None},
  'deep': [{'conv': {'kernel': (3, 3, 4, 8)}}, {'scale': None}],
  'embed': {'embedding': None},
  'fc': {'kernel': (17, 9), 'bias': None},
}
SPARSITIES = (0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995)
NUM_KEPT = (729, 365, 146, 73, 36, 15, 7, 4)  # 729 - round(sparsity * 729).


def normal(shapes):
  """Params of the given shapes."""
  rng = np.random.default_rng(0)
  return jax.tree.map(
    lambda shape: jnp.asarray(rng.normal(size=shape), jnp.float32),
    shapes,
    is_leaf=lambda x: isinstance(x, tuple),
  )


PARAMS = normal(SHAPES)
TIED = jax.tree.map(jnp.ones_like, PARAMS)
KERNEL = PARAMS['conv']['kernel']


def corner(key, v, rank):
  """A start that compiles fast, and scales with the matrix."""
  root = jnp.sqrt(v.mean())
  return v[:, :rank] / root, v[:rank] / root


def ong(saliency=saliency.residual, **options):
  return scores.ong(
    KEY, saliency=saliency, rank=7, start=corner, max_sweeps=20, **options
  )


SCORES = {
  'tied': lambda weights: jax.tree.map(jnp.zeros_like, weights),
  'magnitude': scores.magnitude,
  'random': scores.random(KEY),
  'normalized': scores.normalized(scores.magnitude),
  'lamp': scores.lamp(scores.magnitude),
  'average': scores.average([scores.magnitude, scores.random(KEY)]),
  'residual': ong(),
  'recon': ong(saliency=saliency.recon),
  'recon_mag': ong(saliency=saliency.recon_mag),
  'tempered': ong(saliency=saliency.tempered),
  'signed_residual': ong(saliency=saliency.signed_residual),
  'rel_residual': ong(saliency=saliency.rel_residual),
  'component': ong(saliency=saliency.component),
  'kl': ong(solver=nmf.kl),
  'multiplicative': ong(solver=nmf.multiplicative),
}
PRUNERS = {  # (key, sparsity) -> pruner
  'ong': lambda key, s: pruners.ong(key, sparsity=s),
  'reconstructed': lambda key, s: pruners.ong(
    key, sparsity=s, saliency=saliency.residual, rank=7
  ),
  'magnitude': lambda key, s: pruners.magnitude(sparsity=s),
  'random': lambda key, s: pruners.random(key, sparsity=s),
  'lamp': lambda key, s: pruners.one_shot(SCORES['lamp'], s),
  'normalized': lambda key, s: pooled('normalized', s),
  'by_pattern': lambda key, s: pruners.one_shot(
    scores.magnitude, pattern=patterns.unstructured(s)
  ),
}


def pooled(name, sparsity):
  return pruners.one_shot(SCORES[name], sparsity, allocate=allocation.pooled)


def named(names):
  return parameterized.named_parameters((name, name) for name in names)


def num_true(mask):
  return sum(np.count_nonzero(m) for m in jax.tree.leaves(mask))


class LawsTest(parameterized.TestCase):
  @named(SCORES)
  def test_exact_count(self, name):
    for sparsity, kept in zip(SPARSITIES, NUM_KEPT):
      self.assert_exact(name, sparsity, kept, PARAMS)

  @named(SCORES)
  def test_exact_count_if_all_weights_tie(self, name):
    self.assert_exact(name, 0.9, 73, TIED)

  def assert_exact(self, name, sparsity, kept, params):
    self.assertEqual(num_true(pooled(name, sparsity)(params)), kept)
    for allocate in (allocation.uniform, allocation.erk):
      prune = pruners.one_shot(SCORES[name], sparsity, allocate=allocate)
      mask = prune(params)
      self.assertEqual(num_true(mask), kept)
      found = jax.tree.map(np.count_nonzero, mask)
      self.assertEqual(found, allocate(mask, sparsity))

  @named(PRUNERS)
  def test_mask_is_bool_and_none_where_not_prunable(self, name):
    mask = PRUNERS[name](KEY, 0.5)(PARAMS)
    self.assertEqual(jax.tree.map(jnp.shape, mask), MASK_SHAPES)
    self.assertEqual({m.dtype.name for m in jax.tree.leaves(mask)}, {'bool'})

  @named(PRUNERS)
  def test_sparsity_zero_keeps_all(self, name):
    mask = PRUNERS[name](KEY, 0)(PARAMS)
    self.assertEqual(num_true(mask), 729)
    chex.assert_trees_all_equal(masks.apply_mask(PARAMS, mask), PARAMS)

  @named(PRUNERS)
  def test_same_mask_jitted(self, name):
    prune = PRUNERS[name](KEY, 0.9)
    chex.assert_trees_all_equal(jax.jit(prune)(PARAMS), prune(PARAMS))

  @named(PRUNERS)
  def test_same_weights_and_key_give_the_same_mask(self, name):
    # At a sparsity at which scores are dense: factorizations from other keys
    # may end close to each other.
    mask = PRUNERS[name](KEY, 0.5)(PARAMS)
    again = PRUNERS[name](jax.random.key(0), 0.5)(normal(SHAPES))
    chex.assert_trees_all_equal(again, mask)
    other = PRUNERS[name](jax.random.key(1), 0.5)(PARAMS)
    differs = jax.tree.map(lambda a, b: bool(np.any(a != b)), mask, other)
    uses_key = name in ('reconstructed', 'random')
    self.assertEqual(any(jax.tree.leaves(differs)), uses_key)

  @named(['magnitude', 'random', 'normalized', 'lamp', 'residual'])
  def test_pooled_masks_are_nested(self, name):
    found = [pooled(name, sparsity)(PARAMS) for sparsity in SPARSITIES]
    for larger, smaller in zip(found, found[1:]):
      both = jax.tree.map(jnp.logical_and, larger, smaller)
      chex.assert_trees_all_equal(both, smaller)

  def test_defaults(self):
    mask = pruners.ong(KEY, sparsity=0.9)(PARAMS)
    score = scores.ong(KEY, saliency=saliency.tempered, rank=1)
    prune = pruners.one_shot(score, 0.9, allocate=allocation.pooled)
    chex.assert_trees_all_equal(mask, prune(PARAMS))
    for prune, allocate in (
      (pruners.random(KEY, sparsity=0.9), allocation.erk),
      (pruners.one_shot(scores.magnitude, 0.9), allocation.uniform),
    ):
      counts = jax.tree.map(np.count_nonzero, prune(PARAMS))
      self.assertEqual(counts, allocate(mask, 0.9))
    chex.assert_trees_all_equal(
      pruners.magnitude(sparsity=0.9)(PARAMS), pooled('magnitude', 0.9)(PARAMS)
    )

  def test_eight_devices_prune_as_one_does(self):
    mesh = jax.make_mesh((8,), ('model',), axis_types=(AxisType.Auto,))
    params = {'kernel': KERNEL, 'fc': {'kernel': PARAMS['fc']['kernel']}}
    specs = {'kernel': P(None, None, None, 'model'), 'fc': {'kernel': P()}}
    sharded = jax.device_put(
      params, jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)
    )
    for name in ('magnitude', 'residual'):
      prune = pooled(name, 0.9)
      chex.assert_trees_all_equal(prune(sharded), prune(params))


class InvarianceTest(parameterized.TestCase):
  @named(['magnitude', 'residual', 'recon', 'kl'])
  def test_signs_do_not_matter(self, name):
    signs = jnp.asarray(np.random.default_rng(1).choice([-1.0, 1], 153))
    flipped = jax.tree.map(lambda w: w * jnp.resize(signs, w.shape), PARAMS)
    prune = pooled(name, 0.9)
    chex.assert_trees_all_equal(prune(flipped), prune(PARAMS))

  @named(['magnitude', 'residual'])
  def test_scale_of_a_layer_matters_to_a_pooled_ranking_only(self, name):
    conv, fc = PARAMS['conv'], PARAMS['fc']
    rescaled = PARAMS | {
      'conv': conv | {'kernel': 16 * conv['kernel']},
      'fc': fc | {'kernel': fc['kernel'] / 4},
    }
    normalized = scores.normalized(SCORES[name])
    for prune in (
      pruners.one_shot(SCORES[name], 0.9),
      pruners.one_shot(normalized, 0.9, allocate=allocation.pooled),
    ):
      chex.assert_trees_all_equal(prune(rescaled), prune(PARAMS))
    prune = pooled(name, 0.9)
    common = jax.tree.map(lambda w: 4 * w, PARAMS)
    chex.assert_trees_all_equal(prune(common), prune(PARAMS))
    self.assertNotEqual(
      np.count_nonzero(prune(rescaled)['fc']['kernel']),
      np.count_nonzero(prune(PARAMS)['fc']['kernel']),
    )

  @parameterized.named_parameters(
    ('rank_one', {'rank': 1}),
    ('nndsvd', {'rank': 7, 'start': starts.nndsvd}),
  )
  def test_permuted_filters_and_rows_permute_the_mask(self, options):
    filters, rows = np.array([5, 0, 7, 2, 4, 1, 6, 3]), np.array([2, 0, 1])
    prune = pruners.ong(
      KEY, sparsity=0.9, saliency=saliency.residual, tol=0.0, **options
    )
    mask = prune({'kernel': KERNEL})['kernel']
    permuted = prune({'kernel': KERNEL[rows][..., filters]})['kernel']
    chex.assert_trees_all_equal(permuted, mask[rows][..., filters])

  def test_residual_of_uniform_weights_is_two_sided(self):
    w = np.random.default_rng(0).uniform(-0.02, 0.02, (3, 3, 256, 256))
    below = np.abs(w) < np.median(np.abs(w))

    def share_below(prune):
      mask = prune({'kernel': jnp.asarray(w, jnp.float32)})['kernel']
      return np.mean(below[np.asarray(mask)])

    ong = pruners.ong(
      KEY,
      sparsity=0.9,
      saliency=saliency.residual,
      rank=1,
      start=corner,
    )
    self.assertBetween(share_below(ong), 0.48, 0.52)
    self.assertEqual(share_below(pruners.magnitude(sparsity=0.9)), 0)

  @parameterized.named_parameters(
    ('pooled', allocation.pooled), ('uniform', allocation.uniform)
  )
  def test_floors_are_kept_and_paid_for(self, allocate):
    def fewest_and_sum(score):
      mask = pruners.one_shot(score, 0.8, allocate=allocate)(skewed)
      filters = jax.tree.map(lambda m: m.reshape(-1, m.shape[-1]).sum(0), mask)
      return min(map(min, jax.tree.leaves(filters))), num_true(mask)

    skewed = jax.tree.map(lambda w: w * jnp.arange(w.shape[-1]) ** 2, PARAMS)
    floor = scores.at_least(scores.magnitude, 3)
    self.assertEqual(fewest_and_sum(scores.magnitude), (0, 146))
    self.assertEqual(fewest_and_sum(floor), (3, 146))


class Linen(nn.Module):
  @nn.compact
  def __call__(self, tokens):
    x = nn.Conv(8, (3,))(nn.Embed(5, 4)(tokens))
    x = nn.BatchNorm(use_running_average=True)(x)
    return nn.Dense(4)(x)


class Nnx(nnx.Module):
  def __init__(self, rngs):
    self.embed = nnx.Embed(5, 4, rngs=rngs)
    self.conv = nnx.Conv(4, 8, (3,), rngs=rngs)
    self.norm = nnx.BatchNorm(8, rngs=rngs)
    self.fc = nnx.Linear(8, 4, rngs=rngs)


class Linear(NamedTuple):
  """Keeps its kernel as Equinox does, [out, in] and named `weight`."""

  weight: Any
  bias: Any


def linen_params():
  tokens = jnp.zeros((1, 6), int)
  return jax.eval_shape(Linen().init, jax.random.key(0), tokens)['params']


def nnx_params():
  return nnx.eval_shape(lambda: nnx.state(Nnx(nnx.Rngs(0)), nnx.Param))


class TreesTest(parameterized.TestCase):
  @parameterized.named_parameters(('linen', linen_params), ('nnx', nnx_params))
  def test_flax(self, make):
    params = jax.tree.map(lambda x: normal(x.shape), make())
    mask = pruners.magnitude(sparsity=0.75)(params)
    self.assertEqual(num_true(mask), 32)  # Of 3 * 4 * 8 + 8 * 4.
    pruned = masks.apply_mask(params, mask)
    chex.assert_trees_all_equal_structs(pruned, params)
    changed = jax.tree.map(lambda x, y: np.sum(x != y), pruned, params)
    self.assertEqual(sum(jax.tree.leaves(changed)), 96)

  def test_another_predicate_leaves_the_rest_bit_identical(self):
    model = [
      Linear(normal((6, 4)), normal((6,))),
      {'weight': normal((2, 3)), 'head': Linear(normal((3, 6)), None)},
    ]

    def prunable(path, leaf):
      return getattr(path[-1], 'name', '') == 'weight' and leaf.ndim > 1

    mask = pruners.magnitude(sparsity=0.5, prunable=prunable)(model)
    self.assertEqual(num_true(mask), 21)  # Of 24 + 18.
    self.assertEqual((mask[0].bias, mask[1]['weight']), (None, None))
    pruned = masks.apply_mask(model, mask)
    chex.assert_trees_all_equal(pruned[0].bias, model[0].bias)
    chex.assert_trees_all_equal(pruned[1]['weight'], model[1]['weight'])
    np.testing.assert_array_equal(pruned[0].weight != 0, mask[0].weight)

  def test_empty_trees(self):
    for make in PRUNERS.values():
      self.assertEqual(make(KEY, 0.5)({}), {})


def never(weights):
  raise AssertionError('Scores were computed.')


class ErrorsTest(parameterized.TestCase):
  @parameterized.named_parameters(
    ('one_shot', lambda s: pruners.one_shot(never, s)),
    ('ong', lambda s: pruners.ong(KEY, sparsity=s)),
    ('magnitude', lambda s: pruners.magnitude(sparsity=s)),
    ('random', lambda s: pruners.random(KEY, sparsity=s)),
  )
  def test_refuses_a_sparsity_out_of_range_at_once(self, make):
    for sparsity in (-0.1, 1, 95, np.nan):
      message = rf'^`sparsity` must be .* \[0, 1\), .*; got {sparsity}.$'
      with self.assertRaisesRegex(ValueError, message):
        make(sparsity)

  @parameterized.named_parameters(
    (
      'nan',
      {'fc': {'kernel': jnp.array([[1.0, jnp.nan]])}},
      "^Leaf 'fc/kernel' has weights that are not finite; pruning would hide "
      'it. Look at how they were trained or loaded.$',
    ),
    (
      'infinite',
      {'kernel': -jnp.full((2, 2), jnp.inf, jnp.bfloat16)},
      "^Leaf 'kernel' has weights that are not finite; ",
    ),
    (
      'no_kernel',
      {'weight': jnp.ones((2, 2))},
      r"^No leaf is prunable among \['weight'\]. Pass another `prunable`.$",
    ),
    (
      'small_budget',
      [{'kernel': jnp.ones((1, 1))}, {'kernel': jnp.ones((1, 2))}],
      '^`sparsity`=0.5 keeps 1 of 3 weights, fewer than the 2 prunable leaves. '
      'With these params it can be 0.333333.$',
    ),
  )
  def test_refuses_params_before_it_scores(self, params, message):
    for allocate in (allocation.pooled, allocation.uniform, allocation.erk):
      with self.assertRaisesRegex(ValueError, message):
        pruners.one_shot(never, 0.5, allocate=allocate)(params)

  def test_refuses_other_than_real_floats_before_it_scores(self):
    message = "^Leaf 'kernel' is prunable, but its dtype is int32; "
    with self.assertRaisesRegex(TypeError, message):
      pruners.one_shot(never, 0.5)({'kernel': jnp.ones((2, 2), int)})

  def test_refuses_counts_that_are_no_integers(self):
    def halves(scores, sparsity):
      return jax.tree.map(lambda s: s.size / 2, scores)

    with self.assertRaises(TypeError):
      pruners.one_shot(never, 0.5, allocate=halves)(PARAMS)

  def test_of_a_pattern_refuses_what_is_none_and_what_is_not_finite(self):
    with self.assertRaisesRegex(TypeError, '^`pattern` must be .*; got 0.5.$'):
      pruners.one_shot(never, pattern=0.5)
    for both in ({}, {'sparsity': 0.5, 'pattern': patterns.n_of_m(1, 2)}):
      with self.assertRaisesRegex(ValueError, '^One of `sparsity` and `pat'):
        pruners.one_shot(never, **both)
    prune = pruners.one_shot(never, pattern=patterns.n_of_m(1, 2))
    with self.assertRaisesRegex(ValueError, "^Leaf 'kernel' .* not finite"):
      prune({'kernel': jnp.array([[1.0], [jnp.nan]])})

  def test_refuses_nan_scores(self):
    params = {'a': {'kernel': jnp.array([[-2.0, 1.0], [-1.0, 3.0]])}}
    prune = pruners.one_shot(lambda w: jax.tree.map(jnp.log, w), 0.5)
    message = "^Leaf 'a/kernel' has 2 NaN scores. Look at the score, and "
    with self.assertRaisesRegex(ValueError, message):
      prune(params)

  def test_refuses_a_budget_below_the_floors(self):
    params = {
      'a': {'kernel': jnp.ones((2, 6))},
      'b': {'kernel': jnp.ones((9, 2))},
    }
    score = scores.at_least(scores.magnitude, 1)
    message = (
      "^Floors ask for 8 weights of 'all leaves', but only 6 are kept. Lower "
      'the floor or `sparsity`.$'
    )
    with self.assertRaisesRegex(ValueError, message):
      pruners.one_shot(score, 0.8, allocate=allocation.pooled)(params)
    message = "^Floors ask for 6 weights of 'a/kernel', but only 5 are kept. L"
    with self.assertRaisesRegex(ValueError, message):
      pruners.one_shot(score, 0.6)(params)

  def test_jitted_it_cannot_see_values(self):
    params = {'kernel': jnp.array([[1.0, jnp.nan], [jnp.inf, 2.0]])}
    mask = jax.jit(pruners.magnitude(sparsity=0.5))(params)['kernel']
    np.testing.assert_array_equal(mask, [[False, False], [True, True]])
