import pathlib
import re

from absl.testing import absltest

_README = pathlib.Path(__file__).parents[1] / 'README.md'


class ReadmeTest(absltest.TestCase):
  def test_examples_run(self):
    blocks = re.findall(r'```python\n(.*?)```', _README.read_text(), re.DOTALL)
    self.assertLen(blocks, 6)
    names = {}
    for block in blocks:
      exec(block, names)  # One page, one namespace.

  def test_command_line_names_every_method_and_option(self):
    from experiments import methods, options

    text = (_README.parent / 'docs' / 'command_line.md').read_text()
    for name, entry in methods.METHODS.items():
      self.assertIn(f'`{name}`', text)
      for option in options.describe(entry.recipe):
        self.assertIn(f'`{option.partition("=")[0]}`', text, name)

  def test_the_plan_can_be_run(self):
    from experiments import studies

    (plan,) = re.findall(r'```toml\n(.*?)```', _README.read_text(), re.DOTALL)
    path = pathlib.Path(self.create_tempdir().full_path, 'plan.toml')
    path.write_text(plan)
    self.assertLen(studies.read(str(path)), 27)

  def test_layout_names_files_that_are_there(self):
    layout = _README.read_text().split('## Layout')[1].split('##')[0]
    files = re.findall(r'(\w+\.py)', layout)
    self.assertGreater(len(files), 5)
    for file in files:
      homes = [_README.parent / home for home in ('ong_jax', 'experiments')]
      self.assertTrue(any((home / file).exists() for home in homes), file)


if __name__ == '__main__':
  absltest.main()
