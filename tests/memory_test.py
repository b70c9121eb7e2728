import subprocess
import sys

from absl.testing import absltest, parameterized

_PROGRAM = """
import resource, threading
if {keep}:
  import experiments  # Which is enough.

def faults():
  return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def use():
  block = bytearray(100_000_000)
  block[::4096] = bytes(len(block[::4096]))

def twice():
  use()
  before = faults()
  use()
  print(faults() - before)

thread = threading.Thread(target=twice)
thread.start()
thread.join()
"""


class KeepFreedTest(parameterized.TestCase):
  @parameterized.named_parameters(('kept', True), ('given_back', False))
  def test_pages_of_a_large_block_are_had_once(self, keep):
    if not sys.platform.startswith('linux'):
      self.skipTest('It is for glibc.')
    program = _PROGRAM.format(keep=keep)
    found = subprocess.run(
      [sys.executable, '-c', program], capture_output=True, text=True
    )
    self.assertEqual(found.stderr, '')
    # 100 MB are 24,414 pages of 4 KiB.
    if keep:
      self.assertLess(int(found.stdout), 1000)
    else:
      self.assertGreater(int(found.stdout), 10_000)


if __name__ == '__main__':
  absltest.main()
