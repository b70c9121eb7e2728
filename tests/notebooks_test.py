import pathlib
import re

import nbformat
import pytest
from absl.testing import absltest, parameterized

from notebooks import execute

_ROOT = pathlib.Path(__file__).parents[1]
_PATHS = sorted((_ROOT / 'notebooks').glob('*.ipynb'))
# Lines of cells, and what they become: a tenth of the images.
_LOAD = "images = data.load('cifar10_mini')"
_LITTLE = {
  _LOAD: f"""{_LOAD}
images = images._replace(
  train_images=images.train_images[::10], train_labels=images.train_labels[::10]
)"""
}
_REPLACE = {
  '1_first_steps': _LITTLE | {'EPOCHS = 4': 'EPOCHS = 1'},
  '2_your_own_chain': {},
  '3_your_own_method': _LITTLE | {'EPOCHS = 5': 'EPOCHS = 3'},
  '4_compare_methods': {
    "METHODS = ('magnitude', 'random')": "METHODS = ('magnitude',)",
    'SPARSITIES = (0.9, 0.98)': 'SPARSITIES = (0.9,)',
    'SEEDS = range(3)': 'SEEDS = range(2)',
    'EPOCHS = 3': 'EPOCHS = 1',
  },
}
# One device, and programs that are compiled fast.
_ENV = {'XLA_FLAGS': '--xla_backend_optimization_level=0'}
_NAMED = [(path.stem, path) for path in _PATHS]


def _kinds(notebook):
  """Of each cell, what kinds of output it has."""
  return [
    [sorted(x.get('data', {'stream': 0})) for x in cell.get('outputs', [])]
    for cell in notebook.cells
  ]


class NotebooksTest(parameterized.TestCase):
  @parameterized.named_parameters(_NAMED[:2])
  def test_runs_and_shows_what_is_stored(self, path):
    self.check_shows(path)

  @parameterized.named_parameters(_NAMED[2:])
  @pytest.mark.slow
  def test_the_longer_ones_show_what_is_stored(self, path):
    self.check_shows(path)

  def check_shows(self, path):
    found = execute.execute(
      path, replace=_REPLACE[path.stem], timeout_s=120, env=_ENV
    )
    execute.clean(found)
    stored = nbformat.read(path, as_version=4)
    self.assertEqual(_kinds(found), _kinds(stored))

  @parameterized.named_parameters(_NAMED)
  def test_what_is_stored_is_small_and_of_no_machine(self, path):
    self.assertLess(path.stat().st_size, 150_000)
    notebook = nbformat.read(path, as_version=4)
    outputs = [x for cell in notebook.cells for x in cell.get('outputs', [])]
    pictures = [x.data.pop('image/png', '') for x in outputs if 'data' in x]
    self.assertNotEmpty([x for x in pictures if x])
    text = nbformat.writes(notebook)
    for stranger in (r'/(home|root|tmp|Users)/', 'site-packages', r'0x\d'):
      self.assertIsNone(re.search(stranger, text), stranger)
    self.assertNotIn('stderr', text)
    nbformat.validate(nbformat.read(path, as_version=4))

  @parameterized.named_parameters(_NAMED)
  def test_links_lead_somewhere(self, path):
    notebook = nbformat.read(path, as_version=4)
    prose = '\n'.join(
      cell.source for cell in notebook.cells if cell.cell_type == 'markdown'
    )
    for link in re.findall(r'\]\(([^)]+)\)', prose):
      self.assertTrue((path.parent / link).exists(), link)
    readme = (_ROOT / 'README.md').read_text()
    self.assertIn(f'notebooks/{path.name}', readme)


def _notebook(*sources):
  notebook = nbformat.v4.new_notebook(
    cells=[nbformat.v4.new_code_cell(source) for source in sources]
  )
  notebook.metadata['kernelspec'] = {'name': 'python3', 'display_name': 'x'}
  return notebook


class ExecuteTest(absltest.TestCase):
  def test_replaces_whole_lines_and_names_those_it_misses(self):
    path = pathlib.Path(self.create_tempdir().full_path, 'x.ipynb')
    where = 'import os\nn, os.path.basename(os.getcwd())'
    nbformat.write(_notebook('n = 2\nm = n = 2', where), path)
    found = execute.execute(path, replace={'n = 2': 'n = 3; k = n'})
    self.assertEqual(found.cells[0].source, 'n = 3; k = n\nm = n = 2')
    shown = found.cells[1].outputs[0].data['text/plain']
    self.assertEqual(shown, f"(2, '{path.parent.name}')")
    with self.assertRaisesRegex(
      ValueError, "'n = 4', which no cell of .*x.ipy"
    ):
      execute.execute(path, replace={'n = 4': ''})

  def test_clean_keeps_what_a_reader_sees(self):
    new = nbformat.v4.new_output
    notebook = _notebook('', '')
    notebook.cells[0].metadata['execution'] = {'started': 'now'}
    notebook.cells[0].outputs = [
      new('stream', name='stderr', text='a warning'),
      new('stream', name='stdout', text='a line'),
      new('display_data', {'image/png': 'AAAA', 'text/plain': '<at 0x7f>'}),
      new('display_data', {'text/html': '<table>', 'text/plain': 'long'}),
      new('display_data', {'text/html': 'x' * 20_001, 'text/plain': 'y'}),
      new('display_data', {'application/javascript': 'x'}),
    ]
    execute.clean(notebook)
    shown = [x.get('data', x.get('text')) for x in notebook.cells[0].outputs]
    self.assertEqual(
      shown, ['a line', {'image/png': 'AAAA'}, {'text/html': '<table>'}]
    )
    self.assertEqual(notebook.cells[0].metadata, {})


if __name__ == '__main__':
  absltest.main()
