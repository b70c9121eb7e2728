from absl.testing import absltest

from ong_jax import optional


class LoadTest(absltest.TestCase):
  def test_says_what_is_missing_and_how_to_get_it(self):
    with self.assertRaisesRegex(
      ImportError, r"needs no_such_package, .*'\.\[plot\]'"
    ):
      optional.load('no_such_package.part', 'plot')


if __name__ == '__main__':
  absltest.main()
