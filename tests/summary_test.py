import xml.etree.ElementTree

import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

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
      (10, 2030, 1 - 10 / 2030, 1, 4, None, None),
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
    self.assertEqual(found, ((), 0, 0, 0.0, 0, 0, None, None))
    self.assertLen(str(found).splitlines(), 2)


MACS = {
  'conv/kernel': 24 * 100,
  'fc/kernel': 2000,
  'out/kernel': 6,
  'dense/kernel': 594,  # Has no mask, and costs what it costs.
}


class MacsTest(parameterized.TestCase):
  def test_a_layer_keeps_the_share_of_its_weights(self):
    found = summary.summarize(MASK, MACS)
    self.assertEqual([x.macs for x in found.layers], [400, 0, 6])
    self.assertEqual([x.dense_macs for x in found.layers], [2400, 2000, 6])
    self.assertEqual((found.macs, found.dense_macs), (1000, 5000))

  def test_table(self):
    self.assertEqual(
      str(summary.summarize(MASK, MACS)).splitlines(),
      [
        'layer                     shape        kept  sparsity  empty'
        '      MACs left',
        'conv/kernel             1x2x3x4           4    83.33%      2'
        '            400',
        'fc/kernel                1000x2           0   100.00%      2'
        '              0',
        'out/kernel                  2x3           6     0.00%       '
        '              6',
        '10 of 2,030 weights kept, sparsity 99.5074%; empty: 1 layers, '
        '4 filters',
        '1,000 of 5,000 multiply-accumulates (MACs) left, 20.0000%',
      ],
    )

  def test_a_leaf_without_weights(self):
    found = summary.summarize({'a': np.ones((0, 3), bool)}, {'a': 0})
    self.assertEqual((found.macs, found.layers[0].macs), (0, 0))
    self.assertIn('0 of 0 multiply-accumulates', str(found))

  def test_refuses_macs_that_lack_a_layer(self):
    with self.assertRaisesRegex(
      ValueError, r"nothing for mask leaf 'out/kernel', only for \['conv/kernel"
    ):
      summary.summarize(MASK, {'conv/kernel': 1, 'fc/kernel': 2})

  @parameterized.parameters(-1, 0.5, None)
  def test_refuses_what_is_no_count(self, count):
    with self.assertRaisesRegex(ValueError, r"`macs` of 'a' must be an int"):
      summary.summarize({'a': np.ones((1, 3), bool)}, {'a': count})


class HtmlTest(parameterized.TestCase):
  def parsed(self, found):
    return xml.etree.ElementTree.fromstring(
      f'<div>{found._repr_html_().replace("<br>", "<br/>")}</div>'
    )

  @parameterized.parameters((None, 6), (MACS, 7))
  def test_has_the_cells_of_the_table(self, macs, columns):
    rows = self.parsed(summary.summarize(MASK, macs)).findall('table/tr')
    self.assertLen(rows, 4)
    cells = [[cell.text or '' for cell in row] for row in rows]
    self.assertEqual({len(row) for row in cells}, {columns})
    self.assertEqual(cells[0][-1], 'density')
    self.assertEqual(cells[1][:3], ['conv/kernel', '1x2x3x4', '4'])

  def test_bars_are_as_long_as_a_layer_is_dense(self):
    rows = self.parsed(summary.summarize(MASK)).findall('table/tr')[1:]
    bars = [row.find('td/div/div').get('style') for row in rows]
    for bar, width in zip(bars, ('16.7%', '0.0%', '100.0%')):
      self.assertIn(f'width: {width};', bar)

  def test_names_are_text(self):
    found = summary.summarize({'<b>&': np.ones((1, 3), bool)})
    row = self.parsed(found).findall('table/tr')[1]
    self.assertEqual(row[0].text, '<b>&')

  def test_needs_nothing_from_elsewhere(self):
    page = summary.summarize(MASK, MACS)._repr_html_()
    self.assertNotRegex(page, r'http|src=|<script|<link|class=')


if __name__ == '__main__':
  absltest.main()
