"""Keeping memory that was freed, for steps that ask for as much each time."""

import ctypes

# Of glibc's <malloc.h>.
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8


def keep_freed() -> bool:
  """Has glibc hand nothing back to the system before the process ends.

  XLA's CPU programs ask for all their memory anew at every call. What comes
  from the system is cleared page by page on first use, which for a step is
  hundreds of megabytes. The memory of all threads then comes from one place,
  so it must be called before JAX is imported, whose threads have their own.

  Returns:
    Whether there is a glibc that it could tell.

  Example:
    >>> keep_freed()  # doctest: +SKIP
    True
  """
  try:
    mallopt = ctypes.CDLL(None).mallopt
  except (AttributeError, OSError, TypeError):  # Not glibc, or not Linux.
    return False
  settings = (_M_ARENA_MAX, 1), (_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1)
  done = [mallopt(*setting) for setting in settings]  # All, whatever it says.
  return all(done)
