import pathlib

import numpy as np
from absl.testing import absltest
from PIL import Image

import ong_jax
from docs import pictures

_README = pathlib.Path(__file__).parents[1] / 'README.md'


class PicturesTest(absltest.TestCase):
  def test_are_small_and_show_something(self):
    paths = sorted(pictures.HERE.glob('*.png'))
    self.assertEqual(
      [path.stem for path in paths],
      ['accuracy', 'comparison', 'densities', 'kernel', 'overlap'],
    )
    for path in paths:
      self.assertLess(path.stat().st_size, 60_000)
      pixels = np.asarray(Image.open(path).convert('L'))
      self.assertGreater(pixels.shape[1], 400)
      self.assertGreater(np.mean(pixels < 200), 0.005)

  def test_one_is_in_the_readme(self):
    self.assertIn('(docs/pictures/densities.png)', _README.read_text())

  def test_masks_are_of_one_budget(self):
    kept = {ong_jax.summarize(m).kept for m in pictures.masks().values()}
    self.assertEqual(kept, {3_740})


if __name__ == '__main__':
  absltest.main()
