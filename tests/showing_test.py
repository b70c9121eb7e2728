import base64
import html
import json
import sys
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import treescope
from absl.testing import absltest, parameterized

from ong_jax import showing


def drawn(value):
  """What treescope is told to draw."""
  figure = showing.picture(value).display_object
  page = html.unescape(treescope.render_to_html(figure, compressed=False))
  start = page.index('{"info"')
  return json.JSONDecoder().raw_decode(page[start:])[0]


def axes(config, which):
  return [axis['label'] for axis in config[f'{which}AxisSpecs']]


class PictureTest(parameterized.TestCase):
  @parameterized.named_parameters(
    ('dense', (5, 4), ['input: 5'], ['filter: 4']),
    (
      'convolution',
      (2, 3, 5, 4),
      ['width: 3', 'input: 5'],
      ['height: 2', 'filter: 4'],
    ),
    ('of_one_dimension', (2, 5, 4), ['axis 0: 2', 'input: 5'], ['filter: 4']),
    (
      'of_three_dimensions',
      (6, 2, 3, 5, 4),
      ['axis 2: 3', 'input: 5'],
      ['axis 1: 2', 'axis 0: 6', 'filter: 4'],
    ),
  )
  def test_filters_are_rows_and_inputs_columns(self, shape, columns, rows):
    found = drawn(np.ones(shape, bool))
    self.assertEqual(axes(found, 'x'), columns)  # The innermost first.
    self.assertEqual(axes(found, 'y'), rows)

  @parameterized.parameters(np.asarray, jnp.asarray)
  def test_kept_weights_are_where_they_are_and_dark(self, as_array):
    mask = np.random.default_rng(0).random((2, 3, 5, 4)) < 0.3
    found = drawn(as_array(mask))
    values = np.frombuffer(base64.b64decode(found['arrayBase64']), np.int32)
    np.testing.assert_array_equal(values.reshape(mask.shape), mask)
    pruned, kept = found['colormapConfig']['cmapData']
    self.assertGreater(sum(pruned), 3 * sum(kept))

  def test_a_large_leaf_loses_its_middle_and_no_other_does(self):
    whole = drawn(np.ones((3, 3, 64, 64), bool))
    for axis in whole['xAxisSpecs'] + whole['yAxisSpecs']:
      self.assertNotIn('trunc', json.dumps(axis).lower())
    self.assertLen(base64.b64decode(whole['arrayBase64']), 4 * 9 * 64 * 64)
    large = drawn(np.ones((3, 3, 512, 512), bool))
    self.assertLess(len(base64.b64decode(large['arrayBase64'])), 4 * 45_000)
    self.assertEqual(axes(large, 'x'), ['width: 3', 'input: 512'])

  @parameterized.parameters(
    (np.ones((2, 2)),),
    (np.ones(3, bool),),
    (np.ones((0, 3), bool),),
    (np.bool_(True),),
    (None,),
    ('text',),
  )
  def test_leaves_all_else_alone(self, value):
    self.assertIsNone(showing.picture(value))

  def test_leaves_what_is_traced_alone(self):
    jax.eval_shape(
      lambda m: self.assertIsNone(showing.picture(m)), jnp.ones((2, 2), bool)
    )


class ShowTest(parameterized.TestCase):
  def test_shows_every_leaf_open(self):
    mask = {f'layer{i}': {'kernel': np.ones((3, 3), bool)} for i in range(40)}
    page = showing.html(mask, compressed=False)
    self.assertIn('layer39', page)
    # The tree, its layers, and their pictures: nothing is folded.
    self.assertGreaterEqual(page.count('toggle" checked'), 1 + 40 + 40)
    self.assertIsNone(treescope.active_autovisualizer.get())  # As before.

  def test_a_picture_belongs_to_its_leaf(self):
    tree = {'kernel': np.ones((2, 2), bool), 'bias': None}
    self.assertGreater(
      len(showing.html(tree)), len(showing.html({'kernel': None})) + 500
    )

  def test_displays_a_page(self):
    with mock.patch('IPython.display.display') as display:
      showing.show({'kernel': np.ones((2, 2), bool)})
    (page,) = display.call_args.args
    self.assertIn('treescope', page._repr_html_())

  def test_setup_outside_of_a_notebook_changes_nothing(self):
    with self.assertRaises((RuntimeError, AttributeError)):
      showing.setup()
    self.assertIsNone(treescope.active_autovisualizer.get())

  def test_setup_lets_a_cell_show_its_mask(self):
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell.instance()
    self.addCleanup(InteractiveShell.clear_instance)
    self.addCleanup(treescope.active_autovisualizer.set_globally, None)
    showing.setup()
    self.assertIs(treescope.active_autovisualizer.get(), showing.picture)
    mask = {'kernel': np.ones((2, 2), bool)}
    data, _ = shell.display_formatter.format(mask)
    self.assertIn('treescope', data['text/html'])

  def test_says_which_package_is_missing(self):
    with (
      mock.patch.dict(sys.modules, treescope=None),
      self.assertRaisesRegex(ImportError, r"treescope.*'\.\[show\]'"),
    ):
      showing.html({})


if __name__ == '__main__':
  absltest.main()
