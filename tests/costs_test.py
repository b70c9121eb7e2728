import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized
from jax.sharding import PartitionSpec as P

from ong_jax import costs
from ong_jax.costs import Costs, LayerCost

# 'a' feeds 'b', and 'b' a layer without a group of outputs.
SHARED = Costs(
  {'a': 4, 'b': 2},
  [
    LayerCost(None, 'a', np.array([[0, 3, 5]])),
    LayerCost('a', 'b', np.array([[0, 0, 0, 0], [0, 2, 3, 4], [0, 4, 6, 9]])),
    LayerCost('b', None, np.array([[0], [1], [2], [7]])),
  ],
  rest=100,
)


class TotalTest(chex.TestCase):
  @chex.variants(with_jit=True, without_jit=True)
  def test_total(self):
    total = self.variant(lambda left: costs.total(SHARED, left))
    self.assertEqual(total({'a': 2, 'b': 3}), 100 + 5 + 9 + 7)
    self.assertEqual(total({'a': 1, 'b': 2}), 100 + 3 + 3 + 2)
    self.assertEqual(total({'a': 2, 'b': 0}), 100 + 5)

  def test_num_blocks(self):
    self.assertEqual(costs.num_blocks(SHARED), {'a': 2, 'b': 3})


class KernelsTest(parameterized.TestCase):
  NAMES = {
    'conv1': {'kernel': P(None, None, None, 'a')},
    'bn1': {'scale': P('a')},
    'conv2': {'kernel': P(None, None, 'a', 'b')},
    'linear': {'kernel': P('b', None), 'bias': P(None)},
    'other': {'kernel': P(None, None)},
  }
  PARAMS = jax.eval_shape(
    lambda: {
      'conv1': {'kernel': jnp.zeros((3, 3, 3, 4))},
      'bn1': {'scale': jnp.zeros(4)},
      'conv2': {'kernel': jnp.zeros((1, 5, 4, 6))},
      'linear': {'kernel': jnp.zeros((6, 10)), 'bias': jnp.zeros(10)},
      'other': {'kernel': jnp.zeros((7, 11))},
    }
  )

  def test_weights(self):
    ours = costs.weights_cost(self.NAMES, self.PARAMS, {'a': 2, 'b': 3})
    self.assertEqual(ours.rest, 77)
    expected = [
      (None, 'a', [[0, 54, 108]]),
      ('a', 'b', [[0, 0, 0], [0, 30, 60], [0, 60, 120]]),
      ('b', None, [[0], [30], [60]]),
    ]
    found = [(x.inputs, x.outputs, x.table.tolist()) for x in ours.layers]
    self.assertEqual(found, expected)
    self.assertEqual(costs.total(ours, {'a': 2, 'b': 2}), 108 + 120 + 60 + 77)

  def test_macs(self):
    positions = {'conv1/kernel': 100, 'conv2/kernel': 25, 'other/kernel': 2}
    ours = costs.macs_cost(self.NAMES, self.PARAMS, {'a': 2, 'b': 3}, positions)
    self.assertEqual(
      costs.total(ours, {'a': 1, 'b': 2}), 54 * 100 + 60 * 25 + 60 + 77 * 2
    )

  @parameterized.named_parameters(
    (
      'missing',
      {'a': 2},
      "`blocks` must have the groups ['a', 'b'], got ['a'].",
    ),
    (
      'size',
      {'a': 2, 'b': 4},
      "`blocks` of 'b' must divide its 6 channels, got 4.",
    ),
  )
  def test_bad_blocks(self, blocks, message):
    with self.assertRaisesRegex(ValueError, re.escape(message)):
      costs.weights_cost(self.NAMES, self.PARAMS, blocks)

  def test_groups_of_inputs_and_outputs_only(self):
    with self.assertRaisesRegex(ValueError, "^Leaf 'kernel' has groups"):
      costs.weights_cost(
        {'kernel': P('a', None, None)},
        {'kernel': jax.ShapeDtypeStruct((2, 3, 4), jnp.float32)},
        {'a': 1},
      )


class ErrorTest(parameterized.TestCase):
  def test_rising(self):
    table = np.array([[5, 4, 6], [3, 7, 2]])
    expected = [[5, 5, 6], [5, 7, 7]]
    np.testing.assert_array_equal(costs.rising(table), expected)
    with self.assertRaisesRegex(ValueError, 'negative, got -1'):
      costs.rising(np.array([[1, -1]]))

  def test_capacity(self):
    costs.check_capacity(SHARED, 106)
    message = (
      '`capacity` must be at least 106, the cost of what always stays, one '
      'block of each group if nothing else is said (the whole network costs '
      '121); got 105.'
    )
    with self.assertRaisesRegex(ValueError, f'^{re.escape(message)}$'):
      costs.check_capacity(SHARED, 105)
    without = SHARED._replace(least=dict.fromkeys(SHARED.blocks, 0))
    costs.check_capacity(without, SHARED.rest)
    for least in ({'a': -1}, {'a': 100}, {'z': 0}):
      with self.assertRaisesRegex(ValueError, '^`least` has'):
        costs.check_capacity(SHARED._replace(least=least), 121)

  def test_too_dear(self):
    with self.assertRaisesRegex(ValueError, 'Take a larger unit'):
      costs.check_capacity(SHARED._replace(rest=2**31 - 21), 2**31)

  @parameterized.named_parameters(
    ('no_group', LayerCost(None, None, np.array([[1]])), {}, 'no group'),
    ('unknown', LayerCost('c', None, np.array([[1]])), {}, "got ['a', 'b']"),
    (
      'length',
      LayerCost('b', None, np.array([[1], [2]])),
      {},
      "A layer has 1 blocks of group 'b', but one before it has 3.",
    ),
    ('unused', LayerCost(None, 'a', np.array([[0, 3, 5]])), {'c': 1}, "'c']"),
  )
  def test_bad_costs(self, layer, blocks, message):
    bad = SHARED._replace(
      layers=[*SHARED.layers, layer], blocks=SHARED.blocks | blocks
    )
    with self.assertRaisesRegex(ValueError, re.escape(message)):
      costs.num_blocks(bad)
