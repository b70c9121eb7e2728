import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from experiments import fingerprints, sharding

_TYPES = 'float32', 'float16', 'bfloat16', 'int32', 'uint8', 'bool', 'float64'


def _array(dtype):
  draw = np.random.default_rng(0).normal(size=(3, 8, 4))
  return (3 * draw).astype(jnp.dtype(dtype))


class FingerprintsTest(parameterized.TestCase):
  @parameterized.parameters(*_TYPES)
  def test_every_change_of_a_bit_shows(self, dtype):
    x = _array(dtype)
    before = fingerprints.of(x)
    rng = np.random.default_rng(1)
    for place in rng.integers(x.nbytes, size=50):
      data = bytearray(x.tobytes())
      data[place] ^= 1 if dtype == 'bool' else 1 << rng.integers(8)
      changed = np.frombuffer(data, x.dtype).reshape(x.shape)
      self.assertNotEqual(fingerprints.of(changed), before)

  @parameterized.parameters(*_TYPES[:-1])
  def test_is_the_same_however_an_array_is_split(self, dtype):
    x = _array(dtype)
    mesh = sharding.make_mesh(model_parallel=2, batch_size=128)
    for spec in (
      P(),
      P(None, 'data'),
      P(None, None, 'model'),
      P(None, 'data', 'model'),
      P(None, ('model', 'data')),
    ):
      split = jax.device_put(x, NamedSharding(mesh, spec))
      self.assertEqual(fingerprints.of(split), fingerprints.of(x))

  def test_places_count(self):
    x = _array('float32')
    for other in (x[::-1], x[:, ::-1], x[:, :, ::-1]):
      self.assertNotEqual(fingerprints.of(other), fingerprints.of(x))

  def test_changes_of_two_words_do_not_cancel(self):
    for x in np.zeros(32, np.float32), np.ones((4, 8), np.float32):
      for bit in range(32):
        found = set()
        for i in range(x.size):
          changed = x.copy()
          words = changed.reshape(-1).view(np.uint32)
          words[[0, i]] ^= np.uint32(1 << bit)  # Nothing changes for i = 0.
          found.add(int(fingerprints.of(changed)[0]))
        self.assertLen(found, x.size)

  def test_zeros_have_one_that_is_not_zero(self):
    self.assertNotEqual(fingerprints.of(np.zeros(5)), 0)

  def test_there_is_one_for_each_leaf(self):
    tree = {'a': jnp.ones(3), 'b': (jnp.zeros((0, 2)), 1, True), 'c': None}
    found = fingerprints.of(tree)
    self.assertEqual((found.shape, found.dtype), ((4,), np.uint32))
    self.assertEqual(fingerprints.of({}).shape, (0,))


if __name__ == '__main__':
  absltest.main()
