"""A disk without room, for tests."""

import contextlib
import resource


@contextlib.contextmanager
def full_disk(num_bytes=100):
  """Files cannot grow beyond so many bytes: as if the disk were full."""
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
  try:
    yield
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
