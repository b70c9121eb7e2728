import pathlib

from absl.testing import absltest
from full_disk import full_disk

from ong_jax.export import files


class FilesTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.create_tempdir().full_path)
    self.path = self.folder / 'file'

  def test_replaces_what_is_there(self):
    files.replace(self.path, b'first')
    files.replace(str(self.path), b'second')
    self.assertEqual(self.path.read_bytes(), b'second')
    self.assertEqual(list(self.folder.iterdir()), [self.path])

  def test_on_a_full_disk_all_stays_as_it_was(self):
    files.replace(self.path, b'first')
    with full_disk(), self.assertRaises(OSError):
      files.replace(self.path, bytes(1_000_000))
    self.assertEqual(self.path.read_bytes(), b'first')
    self.assertEqual(list(self.folder.iterdir()), [self.path])

  def test_no_folder(self):
    with self.assertRaisesRegex(FileNotFoundError, 'missing'):
      files.replace(self.folder / 'missing' / 'file', b'')


if __name__ == '__main__':
  absltest.main()
