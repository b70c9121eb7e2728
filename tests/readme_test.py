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

  def test_names_every_method(self):
    from experiments import methods

    for name in methods.METHODS:
      self.assertIn(f'`{name}`', _README.read_text())

  def test_layout_names_files_that_are_there(self):
    layout = _README.read_text().split('## Layout')[1].split('##')[0]
    files = re.findall(r'(\w+\.py)', layout)
    self.assertGreater(len(files), 5)
    for file in files:
      homes = [_README.parent / home for home in ('ong_jax', 'experiments')]
      self.assertTrue(any((home / file).exists() for home in homes), file)


if __name__ == '__main__':
  absltest.main()
