"""What is said of results is what the committed runs come to."""

import os
import pathlib
import re
import shlex

import jax
from absl.testing import absltest

from experiments import models, networks, pretrained, report, studies

_RESULTS = pathlib.Path(__file__).parents[1] / 'results'
_NUMBER = re.compile(r'[+-]?\d+\.\d+')


class ResultsTest(absltest.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.page = (_RESULTS / 'README.md').read_text()
    cls.report = (_RESULTS / 'report.md').read_text()

  def test_the_report_is_what_its_command_writes(self):
    out = self.create_tempdir().full_path
    (command,) = re.findall(
      r'python -m experiments\.report ((?:.*\\\n)*.*)', self.page
    )
    command = command.replace('\\\n', ' ')
    words = [
      word if word.startswith('--') else str(_RESULTS.parent / word)
      for word in shlex.split(command)
      if not word.startswith('--out')
    ]
    report.main([*words, f'--out={out}'])
    self.assertEqual(pathlib.Path(out, 'report.md').read_text(), self.report)

  def test_every_line_of_a_table_is_a_line_of_the_report(self):
    # That begins so: a table may leave columns out, not change any.
    known = [_cells(line) for line in self.report.splitlines()]
    for line in _tables(self.page):
      cells = _cells(line)
      fits = [x for x in known if _in_order(cells, x)]
      self.assertNotEmpty(fits, line)

  def test_every_number_in_a_sentence_is_in_the_report(self):
    text = '\n'.join(
      line for line in self.page.splitlines() if not line.startswith('|')
    )
    text = re.sub(r'arXiv:[\d.]+|`.*?`|^    .*$', '', text, flags=re.MULTILINE)
    known = set(_NUMBER.findall(self.report))
    numbers = _NUMBER.findall(text)
    self.assertNotEmpty(numbers)
    self.assertEmpty([x for x in numbers if x not in known])


def _tables(page):
  """The lines of tables that have numbers."""
  return [
    line
    for line in page.splitlines()
    if line.startswith('|') and _NUMBER.search(line)
  ]


def _cells(line):
  return [cell.strip(' `') for cell in line.strip('|').split(' | ')]


def _in_order(some, others):
  """Whether some are among others, in their order, the first ones the same."""
  rest = iter(others)
  return some[0] == others[0] and all(cell in rest for cell in some)


class PlansTest(absltest.TestCase):
  def setUp(self):
    """Puts networks where plans ask for them, as they are no part of this."""
    super().setUp()
    home = pathlib.Path.cwd()
    self.addCleanup(os.chdir, home)
    os.chdir(self.create_tempdir().full_path)
    for name in ('resnet20', 'resnet56'):
      draw = networks.make_draw(models.create(name, num_classes=10))
      params, stats = draw(jax.random.key(0))
      pretrained.store_torch(f'{name}.npz', params, stats)

  def test_can_be_read_and_have_every_run(self):
    planned = set()
    for path in sorted((_RESULTS / 'plans').glob('*.toml')):
      with self.subTest(path.name):
        configs = studies.read(str(path))
        self.assertNotEmpty(configs)
        planned |= {studies.name(config) for config in configs}
    found = {p.parent.name for p in _RESULTS.glob('runs/**/result.json')}
    self.assertNotEmpty(found)
    self.assertEmpty(found - planned)


if __name__ == '__main__':
  absltest.main()
