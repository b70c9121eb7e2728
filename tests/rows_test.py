import pathlib

import made_up
from absl.testing import absltest

from experiments import commands, rows


class RowsTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    self.out = pathlib.Path(self.create_tempdir().full_path)

  def sections(self):
    return rows.sections(rows.read([str(self.out)])[0])

  def test_seeds_are_one_row(self):
    for seed, accuracy in enumerate((0.5, 0.6, 0.7)):
      made_up.finish(self.out, accuracy, method='ong', seed=seed)
    (section,) = self.sections()
    (row,) = section.rows
    self.assertLen(row.runs, 3)
    self.assertAlmostEqual(row.mean('test_accuracy'), 0.6)
    self.assertAlmostEqual(row.deviation('test_accuracy'), 0.1)
    self.assertIsNone(row.mean('no such thing'))

  def test_what_was_asked_for_is_repeated_not_what_was_reached(self):
    for seed, reached in enumerate((0.61, 0.65)):
      finish = {'seed': seed, 'reached': reached, 'sparsity': 0.6}
      made_up.finish(self.out, 0.5, method='iee-channels', **finish)
    (row,) = self.sections()[0].rows
    self.assertAlmostEqual(row.sparsity, 0.63)
    self.assertIn('--sparsity=0.6 ', commands.command(row.config))

  def test_of_one_seed_there_is_no_deviation(self):
    made_up.finish(self.out, 0.5)
    self.assertIsNone(self.sections()[0].rows[0].deviation('test_accuracy'))

  def test_what_differs_is_another_row_and_in_its_label(self):
    for fields in (
      {'options': {'rank': 1}},
      {'options': {'rank': 2}},
      {'learning_rate': 0.01},
    ):
      made_up.finish(self.out, 0.5, method='ong', weight_decay=0.0, **fields)
    (section,) = self.sections()
    self.assertCountEqual(
      map(section.label, section.rows),
      ['ong', 'ong (rank=2)', 'ong (learning_rate=0.01)'],
    )
    self.assertEqual(section.common, {'weight_decay': 0.0})

  def test_only_equal_budgets_are_together(self):
    same = {'method': 'gmp', 'epochs': 1.5, 'dense_epochs': 0.5}
    made_up.finish(self.out, 0.5, method='ong')
    made_up.finish(self.out, 0.5, **same)
    for other in (
      {'epochs': 3.0},
      {'batch_size': 64},
      {'model': 'resnet20'},
      {'init_from': 'there'},
    ):
      made_up.finish(self.out, 0.5, **other)
    found = self.sections()
    self.assertCountEqual([len(s.rows) for s in found], [2, 1, 1, 1, 1])

  def test_the_best_of_a_sparsity_comes_first_and_dense_before_all(self):
    made_up.finish(self.out, 0.5, method='ong', sparsity=0.9)
    made_up.finish(self.out, 0.6, method='random', sparsity=0.9)
    made_up.finish(self.out, 0.4, method='ong', sparsity=0.8)
    made_up.finish(self.out, 0.1, method='dense', sparsity=0.99)
    found = [
      (row.config.method, row.sparsity) for row in self.sections()[0].rows
    ]
    self.assertEqual(
      found, [('dense', 0), ('ong', 0.8), ('random', 0.9), ('ong', 0.9)]
    )

  def test_says_what_it_leaves_out(self):
    made_up.finish(self.out, 0.5)
    damaged = made_up.finish(self.out, 0.5, seed=1) / 'result.json'
    damaged.write_text(damaged.read_text()[:-30])
    nan = made_up.finish(self.out, 0.5, seed=2) / 'result.json'
    nan.write_text(nan.read_text().replace('0.5', 'NaN'))
    (made_up.finish(self.out, 0.5, seed=3) / 'result.json').unlink()
    made_up.finish(self.out / 'copy', 0.5)
    runs, problems = rows.read([str(self.out)])
    self.assertLen(runs, 1)
    self.assertLen(problems, 4)
    for word in 'repeats', 'damaged', 'is nan', 'not finished':
      self.assertLen(
        [x for x in problems if word in x], 1 + (word == 'damaged'), word
      )
    self.assertEqual([len(run.lines) for run in runs], [2])

  def test_nothing_to_read_is_an_error(self):
    with self.assertRaisesRegex(ValueError, 'There is no finished run in'):
      rows.read([str(self.out)])


if __name__ == '__main__':
  absltest.main()
