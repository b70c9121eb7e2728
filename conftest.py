"""Before JAX is imported: eight CPU devices, and a cache of programs."""

import gc
import os
import pathlib

os.environ['JAX_PLATFORMS'] = 'cpu'
# Most of the time goes into compiling: without LLVM's optimizations a third
# less. With `XLA_FLAGS=--xla_backend_optimization_level=3` they are back.
os.environ['XLA_FLAGS'] = ' '.join(
  [
    '--xla_force_host_platform_device_count=8',
    '--xla_backend_optimization_level=0',
    os.environ.get('XLA_FLAGS', ''),
  ]
)
_CACHE = pathlib.Path(__file__).with_name('.pytest_cache') / 'jax'
os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', str(_CACHE))
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0.3')

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import optax  # noqa: E402
import pytest  # noqa: E402
from absl import flags  # noqa: E402

flags.FLAGS.mark_as_parsed()  # absl's temporary directories ask for that.


@pytest.fixture(autouse=True)
def _names(doctest_namespace):
  """Names that the examples in docstrings use without importing them."""
  doctest_namespace.update(jax=jax, jnp=jnp, optax=optax)


def pytest_itemcollected(item):
  """Lets a read or a save fail: those that were begun beside it go on alone."""
  if item.get_closest_marker('failing_io'):
    for what in 'Unraisable', 'UnhandledThread':
      ignored = f'ignore::pytest.Pytest{what}ExceptionWarning'
      item.add_marker(pytest.mark.filterwarnings(ignored))


@pytest.fixture(autouse=True)
def _collect_what_failed(request):
  """Here, where its warnings are ignored, and not in a later test."""
  yield
  if request.node.get_closest_marker('failing_io'):
    gc.collect()


@pytest.fixture(autouse=True, scope='module')
def _room_for_programs():
  """Forgets compiled programs before Linux has no more room for their parts.

  A process may map 65,530 pieces of memory; compiling beyond that crashes.
  """
  yield
  maps = pathlib.Path('/proc/self/maps')
  if maps.exists() and maps.read_bytes().count(b'\n') > 20_000:
    jax.clear_caches()
