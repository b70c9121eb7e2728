import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized

from ong_jax import summary

MASK = {
  'conv': {
    'kernel': jnp.zeros((1, 2, 3, 4), bool).at[0, :, 1, (0, 2)].set(True),
    'bias': None,
  },
  'fc': {'kernel': jnp.zeros((1000, 2), bool)},
  'out': {'kernel': jnp.ones((2, 3), bool)},
}


class SummarizeTest(parameterized.TestCase):
  def test_layers_by_hand(self):
    found = summary.summarize(MASK)
    self.assertEqual(
      found.layers,
      (
        summary.Layer('conv/kernel', (1, 2, 3, 4), 4, 1 - 4 / 24, 2),
        summary.Layer('fc/kernel', (1000, 2), 0, 1.0, 2),
        summary.Layer('out/kernel', (2, 3), 6, 0.0, 0),
      ),
    )
    self.assertEqual(
      found[1:],
      (10, 2030, 1 - 10 / 2030, 1, 4),
    )

  def test_table(self):
    self.assertEqual(
      str(summary.summarize(MASK)).splitlines(),
      [
        'layer                     shape        kept  sparsity  empty',
        'conv/kernel             1x2x3x4           4    83.33%      2',
        'fc/kernel                1000x2           0   100.00%      2',
        'out/kernel                  2x3           6     0.00%       ',
        '10 of 2,030 weights kept, sparsity 99.5074%; empty: 1 layers, '
        '4 filters',
      ],
    )

  def test_vectors_and_scalars_have_one_weight_a_filter(self):
    mask = [np.array([True, False, False]), np.array(False)]
    layers = summary.summarize(mask).layers
    self.assertEqual([x.empty_filters for x in layers], [2, 1])
    self.assertEqual([x.path for x in layers], ['0', '1'])

  def test_a_leaf_without_weights(self):
    found = summary.summarize({'a': np.ones((0, 3), bool)})
    self.assertEqual(found.layers, (summary.Layer('a', (0, 3), 0, 0.0, 3),))

  def test_nothing_prunable(self):
    found = summary.summarize({'bias': None})
    self.assertEqual(found, ((), 0, 0, 0.0, 0, 0))
    self.assertLen(str(found).splitlines(), 2)
