"""What is said of results is what the committed runs come to."""

import pathlib
import re

from absl.testing import absltest

from experiments import report, studies

_RESULTS = pathlib.Path(__file__).parents[1] / 'results'
_NUMBER = re.compile(r'[+-]?\d+\.\d+')


class ResultsTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    self.out = pathlib.Path(self.create_tempdir().full_path)
    (command,) = re.findall(
      r'python -m experiments\.report (.*)', self.page('README.md')
    )
    words = command.split()
    words = [word for word in words if not word.startswith('--out')]
    root = _RESULTS.parent
    words = [word if word[0] == '-' else f'{root}/{word}' for word in words]
    report.main([*words, f'--out={self.out}'])

  def page(self, name):
    return (_RESULTS / name).read_text()

  def test_the_report_is_what_its_command_writes(self):
    made = (self.out / 'report.md').read_text()
    self.assertEqual(made, self.page('report.md'))

  def test_every_number_of_the_page_is_in_the_report(self):
    text = re.sub(r'```.*?```', '', self.page('README.md'), flags=re.DOTALL)
    text = re.sub(r'arXiv:[\d.]+', '', text)
    numbers = _NUMBER.findall(text.replace('−', '-'))
    self.assertGreater(len(numbers), 50)
    known = set(_NUMBER.findall(self.page('report.md')))
    self.assertEmpty([x for x in numbers if x not in known])


class PlansTest(absltest.TestCase):
  def test_can_be_read(self):
    for path in sorted((_RESULTS / 'plans').glob('*.toml')):
      with self.subTest(path.name):
        self.assertNotEmpty(studies.read(str(path)))

  def test_every_run_is_in_a_plan(self):
    planned = {
      studies.name(config)
      for path in (_RESULTS / 'plans').glob('*.toml')
      for config in studies.read(str(path))
    }
    found = {p.parent.name for p in _RESULTS.glob('runs/**/result.json')}
    self.assertEmpty(found - planned)


if __name__ == '__main__':
  absltest.main()
