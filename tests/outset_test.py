import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from experiments import options, outset, plan
from experiments.config import Config
from experiments.recipes import once
from ong_jax import masks
from ong_jax.rescaling import rescale


def params(seed=0):
  key = jax.random.key(seed)
  return {
    'conv1': {'kernel': jax.random.normal(key, (3, 3, 4, 8))},
    'linear': {
      'kernel': jax.random.normal(key, (16, 10)),
      'bias': jnp.zeros(10),
    },
  }


def context(**fields):
  return plan.Run(
    Config(sparsity=0.8, **fields),
    steps_per_epoch=10,
    draw=lambda key: (params(seed=1), None),
  )


def pruned(**given):
  """What `magnitude` makes of the params: weights where kept, and the mask."""
  (segment,) = once.magnitude(context(), **given)
  found, mask = segment.prune(params(), None)
  return masks.apply_mask(found, mask), mask


class RecipeTest(parameterized.TestCase):
  def test_has_the_options_of_the_method_and_those_of_all(self):
    self.assertEqual(
      options.describe(once.random),
      ['allocate=erk', 'survivors=kept', 'shuffle=False', 'retraining=llr'],
    )
    self.assertStartsWith(once.random.__doc__, 'Prunes once, at random.')

  def test_kept_as_they_are(self):
    found, mask = pruned()
    chex.assert_trees_all_equal(found, masks.apply_mask(params(), mask))

  @parameterized.parameters('layer', 'filter')
  def test_scaled(self, per):
    for keep in 'rms', 'norm':
      found, mask = pruned(survivors=f'{per}-{keep}')
      chex.assert_trees_all_equal(mask, pruned()[1])
      wanted = rescale(params(), mask, keep=keep, per=per)
      chex.assert_trees_all_close(found, wanted, rtol=1e-6)

  def test_redrawn_under_the_mask_of_those_that_were_drawn(self):
    found, mask = pruned(survivors='redrawn')
    chex.assert_trees_all_equal(mask, pruned()[1])
    chex.assert_trees_all_equal(found, masks.apply_mask(params(1), mask))

  def test_shuffled_inside_each_layer(self):
    _, mask = pruned(shuffle=True)
    _, before = pruned()
    for a, b in zip(*map(jax.tree.leaves, (mask, before))):
      self.assertEqual(int(a.sum()), int(b.sum()))
      self.assertFalse(np.array_equal(a, b))

  def test_a_shuffled_mask_is_what_survivors_are_scaled_by(self):
    found, mask = pruned(shuffle=True, survivors='layer-norm')
    wanted = rescale(params(), mask, keep='norm')
    chex.assert_trees_all_close(found, wanted, rtol=1e-6)

  def test_dense_training_comes_first_and_its_weights_are_scaled(self):
    dense, sparse = once.magnitude(
      context(dense_epochs=2, epochs=3), survivors='layer-norm'
    )
    self.assertEqual((dense.steps, sparse.steps), (20, 30))
    found, mask = sparse.prune(params(2), None)
    wanted = rescale(params(2), mask, keep='norm')
    chex.assert_trees_all_close(found, wanted, rtol=1e-6)

  @parameterized.parameters(
    ({'survivors': 'layer-mean'}, {}, "nearest is 'layer-rms'"),
    ({'retraining': 'lr'}, {}, '`retraining` must be one of'),
    ({'survivors': 'redrawn'}, {'dense_epochs': 1}, 'would forget'),
  )
  def test_what_makes_no_sense_is_refused(self, given, fields, message):
    with self.assertRaisesRegex(ValueError, message):
      once.magnitude(context(**fields), **given)

  def test_every_way_has_a_name(self):
    self.assertLen(outset.SURVIVORS, 6)


class OngTest(parameterized.TestCase):
  """What the recipe of ONG passes on."""

  def mask(self, **given):
    (segment,) = once.ong(context(), **given)
    return segment.prune(params(), None)[1]

  def test_floor(self):
    # Of this key, a filter of the classifier is empty without.
    mask = self.mask(allocate='pooled', floor=3)
    for leaf in jax.tree.leaves(mask):
      kept = leaf.reshape(-1, leaf.shape[-1]).sum(0)
      self.assertGreaterEqual(int(kept.min()), 3)
    self.assertEqual(sum(int(x.sum()) for x in jax.tree.leaves(mask)), 90)

  @parameterized.parameters(
    {'start': 'nndsvd'},
    {'restarts': 3},
    {'rank': 1},
    {'solver': 'kl'},
    {'saliency': 'recon'},
    {'normalize': True},
  )
  def test_options_change_the_mask(self, **given):
    one, other = (
      np.concatenate([np.ravel(x) for x in jax.tree.leaves(m)])
      for m in (self.mask(), self.mask(**given))
    )
    self.assertEqual(one.sum(), other.sum())
    self.assertFalse(np.array_equal(one, other))

  @parameterized.parameters(
    ({'measure': 'gradient'}, '`measure` must be one of'),
    ({'start': 'svd'}, "nearest is 'nndsvd'"),
    ({'batches': 0}, '`batches` must be'),
  )
  def test_other_values_are_refused(self, given, message):
    with self.assertRaisesRegex(ValueError, message):
      self.mask(**given)


if __name__ == '__main__':
  absltest.main()
