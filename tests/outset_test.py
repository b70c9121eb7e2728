import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from experiments import calibration, options, plan
from experiments.config import Config
from experiments.recipes import calibrated, once
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
    (
      {'survivors': 'layer-rms', 'retraining': 'allr'},
      {'dense_epochs': 1},
      'Take llr',
    ),
  )
  def test_what_makes_no_sense_is_refused(self, given, fields, message):
    with self.assertRaisesRegex(ValueError, message):
      once.magnitude(context(**fields), **given)

  @parameterized.parameters(
    once.magnitude_nm, once.magnitude_blocks, calibrated.wanda
  )
  def test_patterns_and_what_moves_weights_are_not_compared_so(self, recipe):
    found = [text.split('=')[0] for text in options.describe(recipe)]
    self.assertIn('retraining', found)
    self.assertNoCommonElements(found, ['survivors', 'shuffle'])


class OngTest(parameterized.TestCase):
  """What the recipe of ONG passes on."""

  def mask(self, **given):
    (segment,) = once.ong(context(), **given)
    return segment.prune(params(), None)[1]

  def test_floor(self):
    def fewest(mask):
      counts = [
        leaf.reshape(-1, leaf.shape[-1]).sum(0)
        for leaf in jax.tree.leaves(mask)
      ]
      return min(int(x.min()) for x in counts)

    self.assertLess(fewest(self.mask()), 3)
    mask = self.mask(floor=3)
    self.assertEqual(fewest(mask), 3)
    self.assertEqual(sum(int(x.sum()) for x in jax.tree.leaves(mask)), 90)

  def test_floor_of_inputs(self):
    def fewest(mask):
      counts = [
        np.moveaxis(np.asarray(leaf), -2, 0).reshape(leaf.shape[-2], -1).sum(1)
        for leaf in jax.tree.leaves(mask)
      ]
      return min(int(x.min()) for x in counts)

    self.assertLess(fewest(self.mask()), 2)
    mask = self.mask(input_floor=2)
    self.assertEqual(fewest(mask), 2)
    self.assertEqual(sum(int(x.sum()) for x in jax.tree.leaves(mask)), 90)

  @parameterized.parameters('sensitivity', 'activations')
  def test_what_is_left_out_is_left_out_of_what_is_measured(self, measure):
    batches = [jax.random.normal(jax.random.key(i), (8, 4)) for i in range(3)]

    def logits(params, x):
      return (
        jnp.tanh(x @ params['conv1']['kernel']) @ params['linear']['kernel']
      )

    seen = []

    def first(num_batches):
      seen.append(num_batches)
      return batches[:num_batches]

    run = context()._replace(
      calibration=calibration.Calibration(
        first, lambda params, x: (logits(params, x) ** 2).mean(), logits, None
      )
    )
    weights = {
      'conv1': {'kernel': jax.random.normal(jax.random.key(0), (4, 16))},
      'linear': {'kernel': jax.random.normal(jax.random.key(1), (16, 10))},
    }
    given = {'saliency': 'residual', 'rank': 2, 'all_kernels': False}
    (segment,) = once.ong(run, measure=measure, batches=2, **given)
    _, mask = segment.prune(weights, None)
    self.assertIsNone(mask['linear']['kernel'])
    self.assertEqual(int(mask['conv1']['kernel'].sum()), 13)  # Of 64.
    self.assertEqual(seen, [2])
    (segment,) = once.ong(run, measure='weights', **given)
    _, other = segment.prune(weights, None)
    self.assertFalse(
      np.array_equal(mask['conv1']['kernel'], other['conv1']['kernel'])
    )

  @parameterized.parameters(
    {'start': 'nndsvd'},
    {'restarts': 3},
    {'rank': 1},
    {'solver': 'kl'},
    {'saliency': 'recon'},
    {'normalize': True},
  )
  def test_options_change_the_mask(self, **given):
    usual = {'saliency': 'residual', 'rank': 7}  # At rank 1 few of them do.
    one, other = (
      np.concatenate([np.ravel(x) for x in jax.tree.leaves(m)])
      for m in (self.mask(**usual), self.mask(**usual | given))
    )
    self.assertEqual(one.sum(), other.sum())
    self.assertFalse(np.array_equal(one, other))

  @parameterized.parameters(
    ({'measure': 'gradient'}, '`measure` must be one of'),
    ({'start': 'svd'}, "nearest is 'nndsvd'"),
    ({'batches': 0}, '`batches` must be'),
    ({'floor': -1}, '`floor` must be at least 0'),
    ({'input_floor': -1}, '`input_floor` must be at least 0'),
  )
  def test_other_values_are_refused(self, given, message):
    with self.assertRaisesRegex(ValueError, message):
      self.mask(**given)


if __name__ == '__main__':
  absltest.main()
