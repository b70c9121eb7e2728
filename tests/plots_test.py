import math
import statistics

import jax.numpy as jnp
import matplotlib
import numpy as np
from absl.testing import absltest, parameterized

matplotlib.use('Agg')
from matplotlib import pyplot as plt

from ong_jax import plots
from ong_jax.plots import drawing, runs


class PlotTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.addCleanup(plt.close, 'all')

  def draw(self, ax):
    """Draws for good: errors of matplotlib come late."""
    ax.figure.canvas.draw()
    return ax


class DrawingTest(PlotTest):
  def test_a_cell_has_what_a_filter_has_for_an_input(self):
    kernel = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    flat = drawing.spread_out(kernel)
    self.assertEqual(flat.shape, (5 * 2, 4 * 3))
    for filter_ in range(5):
      for input_ in range(4):
        np.testing.assert_array_equal(
          flat[2 * filter_ : 2 * filter_ + 2, 3 * input_ : 3 * input_ + 3],
          kernel[:, :, input_, filter_],
        )

  @parameterized.parameters(
    ([3.0, 1.0, 2.0], 1.0, [3.0, 1.0, 2.0]),
    ([0.0, 0.0, 10.0], 2.0, [-1.0, 1.0, 10.0]),
    # The third is pushed against the others and moves them on.
    ([0.0, 0.5, 1.0], 1.0, [-0.5, 0.5, 1.5]),
  )
  def test_labels_keep_their_order_and_distance(self, levels, gap, expected):
    found = drawing._apart(levels, gap)
    np.testing.assert_allclose(found, expected)

  def test_shares_of_squares_that_are_not_of_one_size(self):
    _, ax = plt.subplots()
    flat = np.zeros((5, 4), bool)
    flat[2:, :2] = True
    flat[0, 2] = True
    drawing.shares(ax, flat, 2, {})
    np.testing.assert_allclose(
      ax.images[0].get_array(), [[0, 25], [100, 0]], atol=1e-6
    )


class KernelTest(PlotTest):
  def test_a_weight_is_where_its_filter_and_input_are(self):
    mask = np.zeros((3, 3, 4, 5), bool)
    mask[2, 0, 1, 3] = True
    ax = self.draw(plots.kernel(jnp.asarray(mask)))
    image = np.asarray(ax.images[0].get_array())
    dark = np.argwhere(image.sum(-1) < 1)
    self.assertEqual(dark.tolist(), [[3 * 3 + 2, 3 * 1 + 0]])
    # Filters without a weight have another color than what is pruned.
    self.assertFalse(np.array_equal(image[0, 0], image[9, 0]))
    np.testing.assert_array_equal(image[0, 0], image[14, 11])
    self.assertEqual(ax.get_xlabel(), 'input (3 x 3 weights each)')
    self.assertEqual(ax.get_title(), '1 of 180 weights kept (0.556 %)')
    # Ticks count inputs and filters.
    self.assertEqual(ax.get_xlim(), (-0.5, 3.5))
    self.assertEqual(ax.get_ylim(), (4.5, -0.5))

  def test_a_large_kernel_is_drawn_as_shares(self):
    mask = np.zeros((300, 20), bool)
    mask[:150, :10] = True
    image = self.draw(plots.kernel(mask)).images[0].get_array()
    self.assertEqual(image.shape, (20, 128))
    np.testing.assert_allclose(np.mean(image), 25, atol=0.3)

  @parameterized.parameters((300, 2), (2, 300), (1, 1), (2, 3, 4))
  def test_any_shape(self, *shape):
    self.draw(plots.kernel(np.ones(shape, bool)))

  def test_refuses_what_is_no_mask(self):
    with self.assertRaisesRegex(TypeError, 'mask_leaf.*must be bool'):
      plots.kernel(np.ones((2, 2)))
    for bad in (np.ones(3, bool), np.ones((0, 3), bool)):
      with self.assertRaisesRegex(ValueError, 'must have axes'):
        plots.kernel(bad)


def _mask(**kernels):
  return {
    name: {'kernel': None if m is None else np.asarray(m, bool), 'bias': None}
    for name, m in kernels.items()
  }


class MasksTest(PlotTest):
  def test_densities_of_two_masks_of_other_layers(self):
    a = _mask(one=[[1, 0]], two=[[1, 1, 1, 0]])
    b = _mask(one=None, two=[[0, 0, 1, 0]])
    ax = self.draw(plots.densities(a, b, labels=['a', 'b']))
    bars = [(bar.get_width(), bar.get_y()) for bar in ax.patches]
    self.assertEqual([width for width, _ in bars], [50, 75, 25])
    np.testing.assert_allclose([y for _, y in bars], [-0.4, 0.6, 1.0])
    names = [text.get_text() for text in ax.get_yticklabels()]
    self.assertEqual(names, ['one', 'two'])
    self.assertGreater(*ax.get_ylim())  # The first layer is on top.
    legend = [text.get_text() for text in ax.get_legend().get_texts()]
    self.assertEqual(legend, ['a', 'b'])

  def test_densities_of_one_mask_need_no_label(self):
    ax = self.draw(plots.densities(_mask(one=[[1, 0]])))
    self.assertIsNone(ax.get_legend())
    with self.assertRaisesRegex(ValueError, '`labels` must name each of the 2'):
      plots.densities(_mask(one=[[1]]), _mask(one=[[1]]))
    with self.assertRaisesRegex(ValueError, 'must have a layer'):
      plots.densities({'bias': None})
    with self.assertRaisesRegex(TypeError, "'one/kernel' must be bool"):
      plots.densities({'one': {'kernel': np.ones((2, 2))}})

  def test_overlap_by_hand(self):
    a = _mask(one=[[1, 1, 0, 0]], two=[[1, 0]], three=[[0, 0]])
    b = _mask(one=[[0, 1, 1, 0]], two=[[1, 0]], three=[[0, 0]])
    ax = self.draw(plots.overlap(a, b))
    found = dict(
      zip(
        [text.get_text() for text in ax.get_yticklabels()],
        zip([bar.get_width() for bar in ax.patches], ax.lines[0].get_xdata()),
      )
    )
    # Two halves share a quarter of all by chance, and cover three quarters.
    np.testing.assert_allclose(found['one'], (100 / 3, 100 / 3))
    np.testing.assert_allclose(found['two'], (100, 100 / 3))
    np.testing.assert_allclose(found['three'], (100, 100))

  def test_chance_is_what_random_masks_have(self):
    rng = np.random.default_rng(0)
    a, b = (_mask(one=rng.random((300, 300)) < p) for p in (0.1, 0.3))
    ax = plots.overlap(a, b)
    np.testing.assert_allclose(
      ax.patches[0].get_width(), ax.lines[0].get_xdata()[0], rtol=0.05
    )

  def test_overlap_refuses_masks_of_two_networks(self):
    with self.assertRaisesRegex(ValueError, "'one/kernel' has shape"):
      plots.overlap(_mask(one=[[1]]), _mask(one=[[1, 0]]))
    with self.assertRaisesRegex(ValueError, 'must have the same layers'):
      plots.overlap(_mask(one=[[1]], two=[[1]]), _mask(one=[[1]], two=None))


class ChurnTest(PlotTest):
  def test_draws_what_there_is(self):
    ax = self.draw(
      plots.churn(
        [
          {'epoch': 1, 'test_accuracy': 0.5, 'churn': None},
          {'pruned_to': 0.9},  # Another kind of line.
          {'epoch': 2, 'test_accuracy': 0.6, 'churn': 0.25},
          {'epoch': 3, 'test_accuracy': None, 'churn': 0.125},
        ]
      )
    )
    (changed,) = ax.lines
    self.assertEqual(changed.get_xydata().tolist(), [[2, 25], [3, 12.5]])
    right = ax.figure.axes[1]
    (accuracy,) = right.lines
    self.assertEqual(accuracy.get_xydata().tolist(), [[1, 50], [2, 60]])
    self.assertEqual(right.get_ylabel(), 'test accuracy (%)')
    legend = [text.get_text() for text in ax.get_legend().get_texts()]
    self.assertEqual(legend, ['changed', 'test accuracy (right)'])

  def test_takes_an_iterator(self):
    lines = ({'epoch': i, 'churn': 0, 'ever_active': 1} for i in (1, 2))
    self.assertLen(plots.churn(lines).lines, 2)

  @parameterized.parameters(([],), ([{'churn': 0.1}],), ([{'epoch': 1}],))
  def test_refuses_what_has_nothing_to_draw(self, lines):
    with self.assertRaisesRegex(ValueError, "`lines` must have 'epoch' and"):
      plots.churn(lines)


def _row(method, sparsity, accuracy):
  return {
    'method': method,
    'sparsity': sparsity,
    'test_accuracy': accuracy,
  }


class AccuracyTest(PlotTest):
  def test_means_and_deviations_of_runs(self):
    seeds = (0.5, 0.6, 0.9)
    rows = [_row('ong', 0.9, x) for x in seeds] + [_row('ong', 0.99, 0.25)]
    dense, sparse = runs._points(rows)
    self.assertAlmostEqual(dense.density, 0.1)
    self.assertAlmostEqual(dense.mean, 100 * statistics.fmean(seeds))
    self.assertAlmostEqual(dense.std, 100 * statistics.stdev(seeds))
    self.assertEqual((dense.runs, sparse.runs, sparse.std), (3, 1, 0))
    ax = self.draw(plots.accuracy(rows))
    self.assertIn('deviation of 1 to 3 runs', ax.get_title(loc='left'))
    # A bar for three runs; none for one, whose deviation nobody knows.
    (bars,) = ax.collections
    ends = [path.vertices[:, 1] for path in bars.get_paths()]
    height = [y[1] - y[0] for y in ends if len(y) and not math.isnan(y[0])]
    np.testing.assert_allclose(height, 200 * statistics.stdev(seeds))

  def test_nearly_equal_densities_are_one_point(self):
    rows = [_row('iee', x, 0.5) for x in (0.95, 0.951, 0.953, 0.96)]
    self.assertEqual([x.runs for x in runs._points(rows)], [3, 1])

  def test_sparsities_that_halve_the_density_are_equally_far(self):
    rows = [_row('ong', x, 0.5) for x in (0.8, 0.9, 0.95, 0.99)]
    ax = self.draw(plots.accuracy(rows))
    labels = [text.get_text() for text in ax.get_xticklabels()]
    self.assertEqual(labels, ['80', '90', '95', '98', '99'])
    place = {
      text: ax.transData.transform((tick, 1))[0]
      for text, tick in zip(labels, ax.get_xticks())
    }
    gap = place['90'] - place['80']
    self.assertGreater(gap, 20)  # Pixels: it rises to the right.
    self.assertAlmostEqual(place['95'] - place['90'], gap, delta=1)
    self.assertAlmostEqual(place['99'] - place['98'], gap, delta=1)

  def test_names_stand_beside_the_data_and_apart(self):
    names = ('ong', 'a longer name', 'third')
    rows = [_row(n, s, 0.5) for n in names for s in (0.9, 0.99)]
    rows.append(_row('dense', 0.0, 0.51))
    ax = self.draw(plots.accuracy(rows))
    extent = matplotlib.text.Text.get_window_extent  # Without the line to it.
    boxes = {t.get_text(): extent(t) for t in ax.texts}
    self.assertEqual(boxes.keys(), {*names, 'dense'})
    last = max(
      ax.transData.transform(line.get_xydata())[:, 0].max()
      for line in ax.lines
      if line.get_linestyle() != 'None'  # Not the ends of bars.
    )
    whole = ax.get_window_extent()
    for box in boxes.values():
      self.assertGreater(box.x0, last)
      self.assertLess(box.x1, whole.x1 + 2)
    by_height = sorted(boxes.values(), key=lambda box: box.y0)
    for low, high in zip(by_height, by_height[1:]):
      self.assertGreater(high.y0 + high.y1, low.y0 + low.y1 + 10)

  def test_dense_is_a_line_across(self):
    rows = [_row('ong', 0.9, 0.5), _row('dense', 0.0, 0.75)]
    ax = self.draw(plots.accuracy(rows))
    across = [x for x in ax.lines if set(x.get_ydata()) == {75}]
    self.assertLen(across, 1)
    self.assertLess(across[0].get_xdata()[1], 0.09)  # Past the other point.
    self.draw(plots.accuracy(rows[1:]))  # Nothing else, too.
    rows.append(_row('dense', 0.0, 0.65))
    band = plots.accuracy(rows).collections[-1].get_paths()[0].vertices[:, 1]
    spread = 200 * statistics.stdev([0.75, 0.65])
    self.assertAlmostEqual(band.max() - band.min(), spread)

  def test_lines_by_another_key(self):
    rows = [_row('ong', 0.9, 0.5) | {'rank': r} for r in (1, 7)]
    ax = self.draw(plots.accuracy(rows, by='rank'))
    self.assertEqual([t.get_text() for t in ax.texts], ['1', '7'])

  def test_refuses_rows_it_cannot_place(self):
    with self.assertRaisesRegex(ValueError, 'is empty'):
      plots.accuracy([])
    with self.assertRaisesRegex(ValueError, "Row 1 .* has no 'test_accuracy'"):
      plots.accuracy([_row('ong', 0.9, 0.5), {'sparsity': 0.9}])
    with self.assertRaisesRegex(ValueError, 'Row 0 .* sparsity 1.0'):
      plots.accuracy([_row('ong', 1.0, 0.1)])


class AxesTest(PlotTest):
  @parameterized.named_parameters(
    ('kernel', lambda ax: plots.kernel(np.ones((2, 3), bool), ax=ax)),
    ('densities', lambda ax: plots.densities(_mask(a=[[1]]), ax=ax)),
    (
      'overlap',
      lambda ax: plots.overlap(_mask(a=[[1]]), _mask(a=[[1]]), ax=ax),
    ),
    ('churn', lambda ax: plots.churn([{'epoch': 1, 'churn': 0.1}], ax=ax)),
    ('accuracy', lambda ax: plots.accuracy([_row('ong', 0.9, 0.5)], ax=ax)),
  )
  def test_draws_where_it_is_told_and_leaves_pyplot_alone(self, draw):
    from matplotlib.figure import Figure

    ax = Figure().add_subplot()
    self.assertIs(draw(ax), ax)
    self.assertEmpty(plt.get_fignums())
    self.draw(ax)
    for text in [*ax.get_xticklabels(), *ax.get_yticklabels(), ax.xaxis.label]:
      self.assertGreaterEqual(text.get_fontsize(), 8)  # Points, on paper.
    self.assertIsNot(draw(None), ax)
    self.assertLen(plt.get_fignums(), 1)


if __name__ == '__main__':
  absltest.main()
