import pathlib

import made_up
import numpy as np
import scipy.stats
from absl.testing import absltest

from experiments import dots, paired, rows


class PairedTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    self.out = pathlib.Path(self.create_tempdir().full_path)

  def finish(self, method, accuracies, **fields):
    for seed, accuracy in accuracies.items():
      made_up.finish(self.out, accuracy, method=method, seed=seed, **fields)

  def row(self, accuracies):
    self.finish('ong', dict(enumerate(accuracies)))
    return self.section().rows[0]

  def section(self):
    (section,) = rows.sections(rows.read([str(self.out)])[0])
    return section

  def test_is_the_paired_test_of_scipy(self):
    ours, theirs = [0.61, 0.64, 0.60, 0.66], [0.60, 0.62, 0.59, 0.62]
    self.finish('ong', dict(enumerate(theirs)))
    self.finish('random', dict(enumerate(ours)))
    (found,) = paired.against(self.section(), 'ong')
    wanted = scipy.stats.ttest_rel(ours, theirs).confidence_interval(0.95)
    for half in found.alone, found.jointly:  # It is the only one.
      self.assertAlmostEqual(found.mean - half, 100 * wanted.low)
      self.assertAlmostEqual(found.mean + half, 100 * wanted.high)
    self.assertLen(found.points, 4)

  def test_all_at_once_share_their_deviation(self):
    self.finish('ong', {0: 0.50, 1: 0.50, 2: 0.50})
    self.finish('random', {0: 0.60, 1: 0.62})  # Squares: 2 of 1 freedom.
    self.finish('snip', {0: 0.40, 1: 0.43, 2: 0.46})  # 18 of 2.
    self.finish('lamp', {0: 0.70})
    found = paired.against(self.section(), 'ong')
    self.assertEqual(
      [x.row.config.method for x in found], ['lamp', 'random', 'snip']
    )
    quantile = scipy.stats.t.ppf(1 - 0.025 / 3, 3)
    for x, num in zip(found, (1, 2, 3)):
      wanted = quantile * ((2 + 18) / 3 / num) ** 0.5
      self.assertAlmostEqual(x.jointly, wanted)

  def test_of_many_that_are_alike_one_report_in_twenty_misses(self):
    rng, misses = np.random.default_rng(0), 0
    row = self.row
    reference = row(rng.normal(0.5, 0.01, 3))
    for _ in range(400):
      noise = [rng.normal(0, 1, 3) for _ in range(20)]
      rows_ = [paired.Difference(reference, tuple(x)) for x in noise]
      misses += any(abs(x.mean) > x.jointly for x in paired._sure(rows_))
    self.assertBetween(misses / 400, 0.015, 0.065)

  def test_dense_is_compared_with_at_every_sparsity_and_not_with_others(self):
    self.finish('dense', {0: 0.9}, sparsity=0)
    self.finish('ong', {0: 0.5}, sparsity=0.8)
    self.finish('random', {0: 0.4}, sparsity=0.9)
    found = paired.against(self.section(), 'dense')
    self.assertSequenceAlmostEqual([x.mean for x in found], [-40, -50])
    self.assertEmpty(paired.against(self.section(), 'ong'))

  def test_one_label_of_two_rows_is_refused(self):
    self.finish('ong', {0: 0.5})
    self.finish('ong', {0: 0.6}, options={'retraining': 'ft'})
    section = self.section()
    same = section._replace(
      rows=tuple(
        row._replace(config=section.rows[0].config) for row in section.rows
      )
    )
    with self.assertRaisesRegex(ValueError, "'ong.*' is the label of several"):
      paired.against(same, section.label(section.rows[0]))

  def test_how_often_a_run_was_evaluated_makes_no_other_row(self):
    self.finish('ong', {0: 0.5, 1: 0.6})
    self.finish('ong', {1: 0.6, 2: 0.7}, evaluate_every=0)
    runs, problems = rows.read([str(self.out)])
    (row,) = rows.sections(runs)[0].rows
    self.assertLen(row.runs, 3)
    self.assertRegex(problems[0], 'repeats a run')

  def test_only_seeds_that_both_have_are_pairs(self):
    self.finish('ong', {0: 0.5, 2: 0.6})
    self.finish('random', {2: 0.7, 3: 0.1})
    self.finish('snip', {4: 0.7})
    (found,) = paired.against(self.section(), 'ong')
    self.assertEqual(found.row.config.method, 'random')
    self.assertAlmostEqual(found.mean, 10)
    self.assertLen(found.points, 1)
    self.assertEqual((found.alone, found.jointly), (None, None))

  def test_each_sparsity_has_its_own_reference(self):
    for sparsity in 0.8, 0.9:
      self.finish('ong', {0: sparsity / 2}, sparsity=sparsity)
      self.finish('random', {0: 0.5}, sparsity=sparsity)
    self.finish('snip', {0: 0.6}, sparsity=0.99)
    self.finish('dense', {0: 0.9}, sparsity=0)
    found = paired.against(self.section(), 'ong')
    self.assertEqual([x.row.config.sparsity for x in found], [0.8, 0.9])
    self.assertAlmostEqual(found[0].mean, 10)
    self.assertAlmostEqual(found[1].mean, 5)

  def test_the_best_first_and_options_are_rows_of_their_own(self):
    self.finish('ong', {0: 0.5})
    self.finish('ong', {0: 0.6}, options={'rank': 2})
    self.finish('random', {0: 0.7})
    section = self.section()
    found = paired.against(section, 'ong (rank=2)')
    self.assertEqual([section.label(x.row) for x in found], ['random', 'ong'])
    self.assertEmpty(paired.against(section, 'lamp'))

  def test_an_unknown_label_is_refused(self):
    self.finish('ong', {0: 0.5})
    with self.assertRaisesRegex(ValueError, "`against` .* nearest is 'ong'"):
      paired.check([self.section()], 'ogn')


class DotsTest(absltest.TestCase):
  """What is drawn of it."""

  def setUp(self):
    super().setUp()
    self.out = self.create_tempdir().full_path
    made_up.study(self.out)
    (self.section,) = rows.sections(rows.read([self.out])[0])

  def labels(self, panel):
    return [label.get_text() for label in panel.get_yticklabels()]

  def test_a_line_for_each_row_with_its_seeds(self):
    figure = dots.accuracies(self.section)
    self.assertEqual(
      [panel.get_title(loc='left') for panel in figure.axes],
      [f'{x} % removed' for x in (0, 80, 90, 95, 99)],
    )
    dense, panel, *_ = figure.axes
    self.assertEqual(self.labels(dense), ['dense'])
    self.assertEqual(self.labels(panel), ['rigl', 'random', 'magnitude', 'ong'])
    seeds, mean, *_ = panel.lines
    self.assertSequenceAlmostEqual(seeds.get_xdata(), [88, 90])
    self.assertSequenceAlmostEqual(mean.get_xdata(), [89])

  def test_differences_are_full_where_they_are_sure(self):
    made_up.finish(self.out, 0.853, method='snip', sparsity=0.8, seed=0)
    made_up.finish(self.out, 0.869, method='snip', sparsity=0.8, seed=1)
    (section,) = rows.sections(rows.read([self.out])[0])
    found = paired.against(section, 'ong')
    panel = dots.differences(section, found).axes[0]
    self.assertEqual(
      self.labels(panel), ['rigl', 'random', 'magnitude', 'snip']
    )
    faces = [line.get_markerfacecolor() for line in panel.lines]
    faces = [
      face for face, line in zip(faces, panel.lines) if line.get_marker() == 'o'
    ]
    self.assertEqual(faces[-1], 'white')
    self.assertNotIn('white', faces[:-1])
    low, high = panel.get_ylim()
    self.assertGreater(low, high)  # The first is on top.


if __name__ == '__main__':
  absltest.main()
