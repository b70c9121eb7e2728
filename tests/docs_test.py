import pathlib
import re

from absl.testing import absltest

from docs import make
from experiments.methods import METHODS


class DocsTest(absltest.TestCase):
  def test_pages_are_those_of_the_docstrings(self):
    pages = make.pages()
    for path, text in pages.items():
      self.assertEqual((make.HERE / path).read_text(), text, path)
    there = {f'methods/{x.name}' for x in (make.HERE / 'methods').iterdir()}
    self.assertEqual(there, {*pages} - {'README.md'})

  def test_every_method_is_on_one_page(self):
    pages = make.pages()
    pages.pop('README.md')
    found = re.findall(r'--method=([\w-]+)`', ' '.join(pages.values()))
    self.assertCountEqual(found, METHODS)

  def test_a_page_has_all_that_a_docstring_has(self):
    page = make.pages()['methods/sparsegpt.md']
    for text in (
      '  damping: float = 0.01,\n',
      '  prunable: Predicate = selection.is_kernel,\n) -> ',
      '- `damping`: what is added to the diagonal',
      '```pycon\n>>> def apply(params, x):',
      'arXiv:2301.00774',
      '`damping=0.01`',
    ):
      self.assertIn(text, page)

  def test_links_lead_somewhere(self):
    for file in pathlib.Path(make.HERE).rglob('*.md'):
      for link in re.findall(r'\]\(([^)#]+)\)', file.read_text()):
        if not link.startswith('http'):
          self.assertTrue((file.parent / link).exists(), f'{file}: {link}')


if __name__ == '__main__':
  absltest.main()
