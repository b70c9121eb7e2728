import pathlib

from absl.testing import absltest, parameterized

from experiments import studies

PLAN = """
model = 'resnet8'
dataset = 'synthetic'
epochs = 2
sparsity = [0.8, 0.9]
seed = [5, 3]
options = {rank = 2}

[[row]]
method = 'ong'
options = {solver = ['hals', 'kl']}

[[row]]
method = 'dense'
sparsity = 0
options = {}
"""


class StudiesTest(parameterized.TestCase):
  def read(self, text):
    path = pathlib.Path(self.create_tempdir().full_path, 'plan.toml')
    path.write_text(text)
    return studies.read(str(path))

  def test_goes_through_all_lists_seed_by_seed(self):
    configs = self.read(
      PLAN.replace('options = {}', '').replace('options = {rank = 2}\n', '')
    )
    found = [
      (c.seed, c.method, c.sparsity, c.options.get('solver')) for c in configs
    ]
    self.assertEqual(
      found,
      [
        (seed, *rest)
        for seed in (5, 3)
        for rest in (
          ('ong', 0.8, 'hals'),
          ('ong', 0.8, 'kl'),
          ('ong', 0.9, 'hals'),
          ('ong', 0.9, 'kl'),
          ('dense', 0, None),
        )
      ],
    )

  def test_options_of_all_and_of_a_row_are_one(self):
    configs = self.read(
      'options = {rank = 2}\nsparsity = 0.5\n[[row]]\n'
      "method = 'ong'\noptions = {solver = 'kl'}\n"
    )
    self.assertEqual(configs[0].options, {'rank': 2, 'solver': 'kl'})

  def test_a_plan_without_rows_is_one(self):
    self.assertLen(self.read('seed = [0, 1]'), 2)

  def test_a_name_does_not_depend_on_the_order_of_options(self):
    one, other = (
      self.read(f"method = 'ong'\noptions = {{{text}}}\n")
      for text in ("rank = 2, solver = 'kl'", "solver = 'kl', rank = 2")
    )
    self.assertEqual(*(studies.name(c) for (c,) in (one, other)))

  def test_a_name_does_not_depend_on_how_a_default_is_said(self):
    (first,) = self.read("model = 'resnet8'")
    (second,) = self.read(
      "model = 'resnet8'\noptions = {rank = 1}\nmomentum = 0.9"
    )
    self.assertEqual(studies.name(first), studies.name(second))
    (third,) = self.read("model = 'resnet8'\noptions = {rank = 8}")
    self.assertNotEqual(studies.name(first), studies.name(third))

  @parameterized.parameters(
    ('[row]\nseed = 1', r'write \[\[row\]\], in double brackets'),
    ('seed = ', 'cannot be read'),
    ('sede = 1', "row 1: `key` must be one of .*The nearest is 'seed'"),
    (PLAN, 'row 2: `dense` has no options'),
    ("method = 'ong'\n[[row]]\n[[row]]\nsparsity = 2", 'row 2: `sparsity` mu'),
    ('sparsity = 0.9\n[[row]]\n[[row]]', 'has a run twice: python -m exper'),
    ("method = 'rigl'\noptions = {rank = 3}", '`option` must be one of'),
    ('epochs = "3"', "`epochs` must be a number, got '3'"),
    ("init_from = 'nowhere'", '`init_from`: .*nowhere'),
  )
  def test_refuses_before_anything_runs(self, text, sentence):
    with self.assertRaisesRegex(ValueError, f"^Plan '.*plan.toml'.*{sentence}"):
      self.read(text)

  def test_a_plan_that_is_not_there(self):
    with self.assertRaisesRegex(
      ValueError, "'no.toml' cannot be read: .*No su"
    ):
      studies.read('no.toml')


if __name__ == '__main__':
  absltest.main()
