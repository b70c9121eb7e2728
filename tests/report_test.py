import contextlib
import html.parser
import io
import json
import pathlib
import re
import shutil
import subprocess

import made_up
from absl.testing import absltest, parameterized
from matplotlib.backends.backend_agg import FigureCanvasAgg

from experiments import figures, report, rows

_BROWSER = shutil.which('chromium') or shutil.which('google-chrome')
# Run in the page: what is there, and what does not fit.
_LOOK = """
<script>
window.onload = () => {
  const root = document.documentElement;
  const boxes = [...document.querySelectorAll('h1,h2,p,img,td,th,pre')];
  document.title = JSON.stringify({
    images: [...document.images].map(x => [x.naturalWidth, x.clientWidth]),
    width: root.clientWidth,
    needed: root.scrollWidth,
    cut: boxes.filter(x => x.scrollWidth > x.clientWidth + 1).length,
    outside: boxes.filter(x => !x.closest('.scroll')
      && x.getBoundingClientRect().right > root.clientWidth + 1).length,
    table: [...document.querySelectorAll('.scroll')].map(
      x => x.scrollWidth - x.clientWidth),
  });
};
</script>
"""


class Parser(html.parser.HTMLParser):
  """Collects where a page would have to look beside itself."""

  def __init__(self):
    super().__init__()
    self.sources = []

  def handle_starttag(self, tag, attrs):
    self.sources += [
      value for name, value in attrs if name in ('src', 'href', 'srcset')
    ]


class ReportTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.runs = self.create_tempdir().full_path
    self.out = pathlib.Path(self.create_tempdir().full_path, 'new', 'report')

  def make(self):
    report.main([self.runs, f'--out={self.out}'])
    return [
      (self.out / name).read_text() for name in ('report.html', 'report.md')
    ]

  def test_tables_have_the_numbers_and_their_commands(self):
    made_up.study(self.runs)
    page, text = self.make()
    numbers = (
      '| rigl | 80 % | 80.00 % | 89.00 ± 1.41 | 2 | 5.00 | 60.0 % '
      '| 80 seconds |'
    )
    command = (
      'python -m experiments.cifar --method=rigl --sparsity=0.8 '
      '--model=resnet8 --dataset=synthetic --epochs=2'
    )
    self.assertIn(numbers, text)
    self.assertIn(f'`{command}` (seeds 0, 1)', text)
    self.assertIn(command, page)
    for cell in numbers.strip('| ').split(' | '):
      self.assertIn(f'<td>{cell}</td>', page)
    self.assertIn('| dense | – | 0.00 % | 91.00 ± 1.41 | 2 |', text)

  def test_needs_nothing_beside_itself(self):
    made_up.study(self.runs)
    page, _ = self.make()
    parser = Parser()
    parser.feed(page)
    self.assertLen(parser.sources, 3)
    for source in parser.sources:
      self.assertStartsWith(source, 'data:image/svg+xml;base64,')
    self.assertNotRegex(page, r'@import|url\(')

  def test_compares_seed_by_seed_with_what_it_is_told(self):
    made_up.study(self.runs)
    report.main(
      [self.runs, f'--out={self.out}', '--against=ong', '--against=random']
    )
    text = (self.out / 'report.md').read_text()
    self.assertIn('### Against `ong`', text)
    self.assertIn(
      '| random | 80 % | +2.00 | +2.00 to +2.00 | +2.00 to +2.00 | 2 |', text
    )
    self.assertIn(
      '| ong | 80 % | -2.00 | -2.00 to -2.00 | -2.00 to -2.00 | 2 |', text
    )
    parser = Parser()
    parser.feed((self.out / 'report.html').read_text())
    self.assertLen(parser.sources, 5)

  def test_refuses_to_compare_with_what_is_not_there(self):
    made_up.study(self.runs)
    with self.assertRaisesRegex(SystemExit, "^Error: `against`.*'ong'"):
      report.main([self.runs, f'--out={self.out}', '--against=ogn'])

  def test_of_many_configurations_there_is_a_line_each(self):
    for i in range(14):
      made_up.finish(self.runs, 0.5, method='ong', options={'rank': 1 + i})
    page, text = self.make()
    self.assertIn('| ong (rank=14) |', text)
    parser = Parser()
    parser.feed(page)
    self.assertLen(parser.sources, 1)

  def test_twice_from_the_same_runs_it_is_the_same(self):
    made_up.study(self.runs)
    self.assertEqual(self.make(), self.make())

  def test_says_what_is_unsure(self):
    made_up.finish(self.runs, 0.5, method='ong')
    made_up.finish(self.runs, 0.5, method='random')
    made_up.finish(self.runs, 0.6, method='random', seed=1)
    (made_up.finish(self.runs, 0.6, seed=2) / 'result.json').unlink()
    for text in self.make():
      self.assertIn('They do not all have as many seeds.', text)
      self.assertIn('no deviation is known', text)
      self.assertIn('is not finished', text)
      self.assertNotIn('± 0.00', text)

  def test_names_cannot_be_markup(self):
    made_up.finish(self.runs, 0.5, init_from='<b>&</b>', original_epochs=1)
    page, _ = self.make()
    self.assertIn('&lt;b&gt;&amp;&lt;/b&gt;', page)
    self.assertNotIn('<b>', page)

  def test_an_error_is_one_sentence(self):
    with self.assertRaisesRegex(SystemExit, '^Error: There is no finished run'):
      self.make()
    error = io.StringIO()
    with contextlib.redirect_stderr(error), self.assertRaises(SystemExit):
      report.main([self.runs])
    self.assertRegex(error.getvalue(), 'arguments are required: --out')

  @parameterized.parameters(1200, 500)
  @absltest.skipUnless(_BROWSER, 'No Chromium is installed.')
  def test_in_a_browser_all_is_there_and_nothing_is_cut_off(self, width):
    made_up.study(self.runs)
    page, _ = self.make()
    page = page.replace('</body>', _LOOK + '</body>')
    page = page.replace('<details>', '<details open>')
    file = self.out / 'looked_at.html'
    file.write_text(page)
    found = subprocess.run(
      [
        *(_BROWSER, '--headless', '--no-sandbox', '--disable-gpu'),
        *(f'--window-size={width},900', '--hide-scrollbars', '--dump-dom'),
        *(f'--user-data-dir={self.out / "profile"}', file.as_uri()),
      ],
      capture_output=True,
      text=True,
      timeout=120,
    )
    title = re.search('<title>({.*})</title>', found.stdout)
    self.assertIsNotNone(title, found.stderr)
    seen = json.loads(title[1])
    self.assertLen(seen['images'], 3)
    for natural, shown in seen['images']:
      self.assertGreater(natural, 400)
      self.assertGreater(shown, 300)
    self.assertEqual(seen['width'], width)
    self.assertLessEqual(seen['needed'], width)
    self.assertEqual((seen['cut'], seen['outside']), (0, 0))
    if width > 1000:  # On a telephone the table can be moved.
      self.assertEqual(seen['table'], [0])


class FiguresTest(parameterized.TestCase):
  def section(self, **fields):
    runs = self.create_tempdir().full_path
    made_up.study(runs)
    for name, value in fields.items():
      made_up.finish(runs, 0.5, options={name: value})
    (section,) = rows.sections(rows.read([runs])[0])
    return section

  @parameterized.parameters(
    ('_accuracy', ()),
    ('_panels', (figures._curve, 'epoch', 'test accuracy, %')),
    ('_panels', (figures._densities, 'layer', 'weights left, %')),
  )
  def test_nothing_is_outside_of_a_picture(self, draw, arguments):
    section = self.section(rank=3, saliency='recon_mag')
    figure = getattr(figures, draw)(section, *arguments)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    box = figure.get_tightbbox(canvas.get_renderer())
    width, height = figure.get_size_inches()
    self.assertBetween(box.x0, -0.02, width)
    self.assertBetween(box.y0, -0.02, height)
    self.assertBetween(box.x1, 0, width + 0.02)
    self.assertBetween(box.y1, 0, height + 0.02)

  def test_a_method_looks_the_same_in_every_picture(self):
    section = self.section()
    looks = {k: v['color'] for k, v in figures._looks(section).items()}
    (axes,) = figures._accuracy(section).axes
    means = [line for line in axes.lines if len(line.get_xdata()) == 4]
    colors = dict.fromkeys(line.get_color() for line in means)
    self.assertEqual(list(colors), list(looks.values()))
    figure = figures._panels(section, figures._densities, 'x', 'y')
    for axes in [axes for axes in figure.axes if axes.get_visible()]:
      found = {line.get_label(): line.get_color() for line in axes.lines}
      self.assertEqual(found, looks)

  def test_points_are_means_over_seeds(self):
    section = self.section()
    (row,) = (
      r for r in section.rows if (r.config.method, r.sparsity) == ('ong', 0.9)
    )
    self.assertSequenceAlmostEqual(
      [y for _, y in figures._curve(row)], [40.5, 81.0]
    )
    self.assertSequenceAlmostEqual(
      [y for _, y in figures._densities(row)], [19.0, 10.0]
    )


if __name__ == '__main__':
  absltest.main()
