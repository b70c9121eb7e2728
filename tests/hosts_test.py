import subprocess
import sys

import numpy as np
from absl.testing import absltest, parameterized

from experiments import hosts


class AloneTest(parameterized.TestCase):
  """One process; many are in many_hosts_test."""

  @parameterized.parameters(
    (('a:1', None, None), '`num_processes` and `process_id` are missing'),
    ((None, 2, 0), '`coordinator` is missing'),
    (('a:1', 0, 0), '`num_processes` must be at least 1, got 0'),
    (('a:1', 2, 2), r'`process_id` must lie in \[0, 2\), got 2'),
    (('a:1', 2, -1), r'`process_id` must lie in \[0, 2\), got -1'),
    (('somewhere', 2, 0), "`coordinator` must be host:port, got 'somewhere'"),
  )
  def test_refuses_parts_that_do_not_fit(self, given, sentence):
    with self.assertRaisesRegex(ValueError, sentence):
      hosts.join(*given, detect=False)

  def test_says_that_there_is_no_cluster(self):
    program = (
      'from experiments import hosts\n'
      'try:\n'
      '  hosts.join(None, None, None, detect=True)\n'
      'except ValueError as error:\n'
      '  print(error)\n'
    )
    found = subprocess.run(
      [sys.executable, '-c', program], capture_output=True, text=True
    )
    self.assertStartsWith(
      found.stdout, 'This process could not join the others (', found.stderr
    )

  def test_calls_go_through(self):
    self.assertTrue(hosts.is_first())
    np.testing.assert_array_equal(hosts.gather([3, 4]), [[3, 4]])
    hosts.check_same('network', np.ones(3))
    for call in hosts.from_first, hosts.together:
      self.assertEqual(call(lambda: 'x'), 'x')
      with self.assertRaisesRegex(OSError, 'no room'):
        call(self._fail)

  def _fail(self):
    raise OSError('no room')


if __name__ == '__main__':
  absltest.main()
