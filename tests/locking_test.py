import errno
import fcntl
import os
import pathlib
from unittest import mock

from absl.testing import absltest

from experiments import locking


class LockTest(absltest.TestCase):
  def test_lets_one_in_at_a_time(self):
    path = pathlib.Path(self.create_tempdir().full_path, 'new', 'run')
    first = locking.lock(path)
    with self.assertRaisesRegex(ValueError, 'Another process runs in .*run'):
      locking.lock(path)
    first.close()
    locking.lock(path).close()

  def test_refuses_what_cannot_be_written(self):
    for path in '/proc/none/run', __file__:
      with self.assertRaisesRegex(
        ValueError, f"`workdir`: '{path}' cannot be written or locked"
      ):
        locking.lock(pathlib.Path(path))

  def test_a_file_system_that_cannot_lock_is_named(self):
    path = pathlib.Path(self.create_tempdir().full_path)
    failure = OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
    with (
      mock.patch.object(fcntl, 'flock', side_effect=failure),
      self.assertRaisesRegex(ValueError, 'cannot be .* locked .No locks avail'),
    ):
      locking.lock(path)
    locking.lock(path).close()


if __name__ == '__main__':
  absltest.main()
