import math

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

import ong_jax
from experiments import metrics, models, operations

_BEFORE = {
  'a': {'kernel': np.array([[3.0, 4.0], [0.0, 12.0]]), 'bias': np.ones(2)},
}
_AFTER = {
  'a': {'kernel': np.array([[0.0, 0.0], [0.0, 12.0]]), 'bias': np.ones(2)},
}
_MASK = {'a': {'kernel': _AFTER['a']['kernel'] != 0, 'bias': None}}


class DropTest(parameterized.TestCase):
  def test_compares_kernels(self):
    drop = metrics.drop(_BEFORE, _AFTER)
    self.assertEqual(drop[:2], (3, 1))
    self.assertAlmostEqual(drop.fraction_pruned, 2 / 3)
    self.assertAlmostEqual(drop.norm_drop, 5)
    self.assertAlmostEqual(drop.relative_norm_drop, 5 / 13)

  def test_more_weights_than_before_are_a_change(self):
    drop = metrics.drop(_AFTER, _BEFORE)
    self.assertTrue(drop.changed)
    self.assertEqual(drop.fraction_pruned, 0)
    self.assertFalse(metrics.drop(_AFTER, _AFTER).changed)

  def test_what_has_diverged_is_not_a_change(self):
    network = {'kernel': np.array([[np.nan, np.inf]])}
    self.assertFalse(metrics.drop(network, network).changed)

  def test_of_nothing_is_nothing(self):
    zeros = {'kernel': np.zeros((2, 2))}
    drop = metrics.drop(zeros, zeros)
    self.assertEqual((drop.fraction_pruned, drop.relative_norm_drop), (0, 0))

  @parameterized.parameters(0.1, 0.5, 0.9)
  def test_magnitude_takes_no_more_norm_than_weights(self, sparsity):
    # rho / sqrt(p) <= 1, with equality if and only if all are of one size.
    weights = {'kernel': jax.random.normal(jax.random.key(0), (20, 30))}
    equal = jax.tree.map(lambda w: jnp.where(w > 0, 0.5, -0.5), weights)
    for params, below in ((weights, True), (equal, False)):
      mask = ong_jax.magnitude(sparsity=sparsity)(params)
      drop = metrics.drop(params, ong_jax.apply_mask(params, mask))
      ratio = drop.relative_norm_drop / math.sqrt(drop.fraction_pruned)
      if below:
        self.assertLess(ratio, 0.9)
      else:
        self.assertAlmostEqual(ratio, 1, places=12)


class NumbersTest(parameterized.TestCase):
  def test_stability(self):
    self.assertAlmostEqual(metrics.stability(0.9, 0.45), 0.5)
    self.assertEqual(metrics.stability(0.5, 0.5), 1)
    self.assertIsNone(metrics.stability(0.0, 0.1))

  def test_speedup_weighs_layers_by_their_cost(self):
    params = {
      'cheap': {'kernel': np.array([[1.0, 0.0]])},
      'dear': {'kernel': np.array([[1.0, 1.0, 1.0, 0.0]])},
    }
    macs = {'cheap/kernel': 100, 'dear/kernel': 300}
    self.assertAlmostEqual(metrics.speedup(params, macs), 400 / (50 + 225))
    empty = jax.tree.map(np.zeros_like, params)
    self.assertIsNone(metrics.speedup(empty, macs))

  @parameterized.parameters(
    ('resnet56', 10, 125_485_696),
    ('resnet18', 10, 555_422_720),
    ('resnet34', 100, 1_159_402_496 + 46_080),
  )
  def test_dense_networks_have_the_known_cost_and_no_speedup(
    self, name, num_classes, total
  ):
    model = models.create(name, num_classes)
    macs = operations.macs(model)
    self.assertEqual(sum(macs.values()), total)
    images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    variables = jax.eval_shape(
      lambda x: model.init(jax.random.key(0), x, train=False), images
    )
    ones = jax.tree.map(lambda x: np.ones(x.shape), variables['params'])
    self.assertAlmostEqual(metrics.speedup(ones, macs), 1, places=12)

  def test_describe(self):
    found = metrics.describe(_AFTER, _MASK, {'a/kernel': 8})
    self.assertEqual(found['sparsity'], 0.75)
    self.assertEqual(found['speedup'], 4)
    self.assertAlmostEqual(found['distance_to_origin'], math.sqrt(146))
    self.assertEqual(found['layer_sparsity'], {'a/kernel': 0.75})

  def test_measure_counts_weights_not_the_mask(self):
    params = {'a': {'kernel': _BEFORE['a']['kernel'], 'bias': np.ones(2)}}
    everything = {'a': {'kernel': np.ones((2, 2), bool), 'bias': None}}
    found = metrics.measure(params, everything, {'a/kernel': 8})
    self.assertEqual((found['kept'], found['mask_kept']), (3, 4))
    self.assertAlmostEqual(found['sparsity_all'], 1 / 6)
    (layer,) = found['layers']
    self.assertEqual(layer['kept'], 3)
    self.assertEqual((layer['macs'], layer['dense_macs']), (6, 8))
    self.assertEqual((found['macs'], found['dense_macs']), (6, 8))
    self.assertEqual(found['not_finite'], [])

  def test_divergence_is_named(self):
    params = {'a': {'kernel': np.full((2, 2), np.nan), 'bias': np.ones(2)}}
    found = metrics.measure(params, _MASK, {'a/kernel': 8})
    self.assertEqual(found['not_finite'], ['a/kernel'])
    self.assertIsNone(found['distance_to_origin'])


if __name__ == '__main__':
  absltest.main()
