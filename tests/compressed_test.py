import json
import pathlib
import subprocess
import sys
import tempfile

import chex
import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from absl.testing import absltest, parameterized
from flax.core import FrozenDict

import ong_jax
from experiments import models, timing
from ong_jax.export import compressed


def network(name, sparsity):
  """A network with random weights, of which `sparsity` are pruned."""
  shapes = timing.shapes(models.create(name, 10))
  rng = np.random.default_rng(0)
  variables = jax.tree.map(
    lambda leaf: rng.normal(size=leaf.shape).astype('f4'), shapes
  )
  mask = {
    'params': ong_jax.magnitude(sparsity=sparsity)(variables['params']),
    'batch_stats': jax.tree.map(lambda _: None, variables['batch_stats']),
  }
  return ong_jax.apply_mask(variables, mask), mask


class CompressedTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    folder = self.enterContext(tempfile.TemporaryDirectory())
    self.path = pathlib.Path(folder) / 'net.safetensors'

  def round_trip(self, params, mask):
    compressed.save(self.path, params, mask)
    return compressed.load(self.path)

  def assert_same_bits(self, found, expected):
    expected = jax.device_get(expected)
    chex.assert_trees_all_equal_structs(found, expected)
    chex.assert_trees_all_equal_shapes_and_dtypes(found, expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected)):
      self.assertEqual(a.tobytes(), b.tobytes())

  @parameterized.product(
    name=['resnet8', 'resnet20', 'resnet56'], sparsity=[0.5, 0.9, 0.95]
  )
  def test_a_network_comes_back_and_is_small(self, name, sparsity):
    variables, mask = network(name, sparsity)
    found, found_mask = self.round_trip(variables, mask)
    self.assert_same_bits(found, variables)
    self.assert_same_bits(found_mask, mask)
    kept = sum(int(m.sum()) for m in jax.tree.leaves(mask))
    dense = sum(
      x.size
      for x, m in zip(
        jax.tree.leaves(variables),
        jax.tree.structure(variables).flatten_up_to(mask),
      )
      if m is None
    )
    bits = sum(m.size for m in jax.tree.leaves(mask))
    least = 4 * (kept + dense) + bits / 8
    self.assertLess(self.path.stat().st_size, 1.3 * least)

  @parameterized.parameters(
    'float16', 'bfloat16', 'float32', 'float64', 'float8_e4m3fn'
  )
  def test_dtypes(self, dtype):
    values = np.array([[1.5, 0, -2], [0, 0.25, 0]]).astype(jnp.dtype(dtype))
    params = {'kernel': values, 'bias': values[0], 'scale': values[0, 0]}
    mask = {'kernel': values != 0, 'bias': None, 'scale': None}
    found, found_mask = self.round_trip(params, mask)
    self.assert_same_bits(found, params)
    self.assert_same_bits(found_mask, mask)

  def test_other_leaves_keep_their_types(self):
    params = {
      'count': np.int32(3),
      'seen': np.array([True, False]),
      'large': np.array([2**63], np.uint64),
      'phase': np.array([1 + 2j], np.complex64),
      'nothing': np.zeros((2, 0, 3), np.float16),
    }
    params = jax.tree.map(np.asarray, params)
    found, mask = self.round_trip(params, jax.tree.map(lambda _: None, params))
    self.assert_same_bits(found, params)
    self.assertEqual(jax.tree.leaves(mask), [])

  def test_kept_values_are_as_they_were(self):
    kernel = np.array([0.0, -0.0, np.nan, np.inf, 1e-45, 0.0, -0.0], 'f4')
    mask = np.array([1, 1, 1, 1, 1, 0, 0], bool)
    found, found_mask = self.round_trip({'k': kernel}, {'k': mask})
    np.testing.assert_array_equal(found_mask['k'], mask)  # Zeros stay kept.
    self.assertEqual(found['k'][:5].tobytes(), kernel[:5].tobytes())
    self.assertEqual(found['k'][5:].tobytes(), bytes(8))

  def test_structures(self):
    params = {
      'layers': [
        {'kernel': np.eye(2, dtype='f4')},
        (np.ones(3, 'f4'), None, []),
        {},
      ],
      'by_number': {0: np.ones(1, 'f4'), 1: {'a/b': np.zeros(2, 'f4')}},
    }
    mask = jax.tree.map(lambda _: None, params)
    mask['layers'][0]['kernel'] = np.eye(2, dtype=bool)
    found, found_mask = self.round_trip(params, mask)
    self.assert_same_bits(found, params)
    self.assert_same_bits(found_mask, mask)
    self.assertIsInstance(found['layers'][1], tuple)
    self.assertEqual(list(found['by_number']), [0, 1])
    self.assertEqual(self.round_trip({}, {}), ({}, {}))

  def test_others_can_read_it(self):
    mask = np.arange(10) % 3 == 1
    kernel = np.where(mask, np.arange(10.0), 0).reshape(2, 5)
    compressed.save(self.path, {'a': [kernel]}, {'a': [mask.reshape(2, 5)]})
    tensors = safetensors.numpy.load_file(self.path)
    self.assertEqual(tensors.keys(), {'a/0', 'a/0.mask'})
    np.testing.assert_array_equal(tensors['a/0'], [1, 4, 7])
    np.testing.assert_array_equal(tensors['a/0.mask'], np.packbits(mask))

  def test_a_pruned_weight_that_is_not_0(self):
    params = {'fc': {'kernel': np.array([[1.0, 2, 3, np.nan]])}}
    mask = {'fc': {'kernel': np.array([[True, False, False, False]])}}
    with self.assertRaisesRegex(
      ValueError, "Leaf 'fc/kernel' has 3 pruned weights .*apply_mask"
    ):
      compressed.save(self.path, params, mask)
    self.assertFalse(self.path.exists())

  @parameterized.named_parameters(
    (
      'names',
      {'a': {'b': np.ones(1)}, 'a/b': np.ones(1)},
      ValueError,
      "both be called 'a/b'",
    ),
    (
      'frozen',
      {'a': FrozenDict(b=np.ones(1))},
      TypeError,
      "node 'a' is a FrozenDict.*unfreeze",
    ),
    ('key', {'a': {True: np.ones(1)}}, TypeError, 'dict with keys .True.'),
    ('text', {'a': np.array('b')}, TypeError, "Leaf 'a' .* dtype is <U1"),
    ('number', {'a': 1.0}, TypeError, "Leaf 'a' must be an array .* got 1.0"),
    ('random', {'a': jax.random.key(0)}, TypeError, "Leaf 'a' must be an"),
    ('long', {'a': np.ones(1, complex)}, TypeError, "'a' .* at most 8 bytes"),
  )
  def test_what_cannot_be_stored(self, params, error, message):
    mask = jax.tree.map(lambda _: None, params)
    with self.assertRaisesRegex(error, message):
      compressed.save(self.path, params, mask)

  def test_a_mask_of_another_shape(self):
    with self.assertRaisesRegex(ValueError, "Mask leaf 'a' has shape"):
      compressed.save(self.path, {'a': np.ones(4)}, {'a': np.ones(3, bool)})

  def test_every_damaged_byte_is_found(self):
    params = {'fc': {'kernel': np.eye(9, dtype='f4'), 'bias': np.ones(3, 'f4')}}
    mask = {'fc': {'kernel': np.eye(9, dtype=bool), 'bias': None}}
    compressed.save(self.path, params, mask)
    whole = self.path.read_bytes()
    rng = np.random.default_rng(0)
    places = rng.choice(len(whole), 150, replace=False)
    silent = []
    for place in [*places, len(whole) - 1]:
      damaged = bytearray(whole)
      damaged[place] ^= 1 << rng.integers(8)
      self.path.write_bytes(damaged)
      try:
        found = compressed.load(self.path)
      except ValueError as error:
        self.assertIn(f"'{self.path}' is damaged, or no file", str(error))
        continue
      # White space between what JSON says may change what it is.
      chex.assert_trees_all_equal(found[0], params)
      silent.append(whole[place : place + 1])
    self.assertEqual(set(silent) - {b' '}, set())

  @parameterized.parameters(0, 1, 7, 100, 400)
  def test_half_a_file(self, size):
    compressed.save(self.path, {'a': np.ones(300)}, {'a': None})
    self.path.write_bytes(self.path.read_bytes()[:size])
    with self.assertRaisesRegex(ValueError, 'is damaged, or no file of'):
      compressed.load(self.path)

  def store(self, tree, tensors):
    """Writes a file with a right checksum and a structure that is wrong."""
    metadata = {
      'format': 'ong_jax.compressed.1',
      'tree': tree,
      'crc32': compressed._crc32(tree, tensors),
    }
    self.path.write_bytes(safetensors.numpy.save(tensors, metadata))

  @parameterized.parameters(
    ('no json', ''),
    ('3', ''),
    ('{}', ''),
    ('{"set": ["float32"]}', "KeyError: 'set'"),
    ('{"dict": [["b", "float32"]]}', "KeyError: 'b'"),
    ('{"dict": []}', "no leaf is read from its tensor 'a'"),
    ('{"dict": [["a", "object"]]}', ''),
    ('{"dict": [["a", ["float32", 3]]]}', "KeyError: 'a.mask'"),
    ('[' * 100_000, 'RecursionError'),
  )
  def test_a_wrong_structure(self, tree, cause):
    self.store(tree, {'a': np.ones(3, 'f4')})
    with self.assertRaisesRegex(ValueError, f'damaged, or no file.*{cause}'):
      compressed.load(self.path)

  @parameterized.parameters((3, 0b10100000), (1, 0b11000000), (0, 0b10000000))
  def test_other_values_than_bits(self, num_values, bits):
    tensors = {
      'a': np.ones(num_values, 'f4'),
      'a.mask': np.array([bits], np.uint8),
    }
    self.store(json.dumps({'dict': [['a', ['float32', 8]]]}), tensors)
    with self.assertRaisesRegex(ValueError, 'damaged, or no file'):
      compressed.load(self.path)

  def test_a_file_of_others(self):
    safetensors.numpy.save_file({'a': np.ones(3)}, self.path)
    with self.assertRaisesRegex(
      ValueError, f"'{self.path}' is damaged, or no .* Save the network again"
    ):
      compressed.load(self.path)

  def test_another_file_stays_if_that_fails(self):
    compressed.save(self.path, {'a': np.ones(3)}, {'a': None})
    with self.assertRaises(ValueError):
      compressed.save(self.path, {'a': np.ones(2)}, {'a': np.zeros(2, bool)})
    found, _ = compressed.load(self.path)
    np.testing.assert_array_equal(found['a'], np.ones(3))

  def test_what_is_not_installed_is_named(self):
    code = (
      "import sys; sys.modules['safetensors'] = None\n"
      'import ong_jax\n'
      'from ong_jax.export import compressed\n'
      "compressed.save('unused', {}, {})"
    )
    process = subprocess.run(
      [sys.executable, '-c', code], capture_output=True, text=True
    )
    self.assertIn('ImportError: This needs s', process.stderr)
    self.assertIn("pip install '.[export]'", process.stderr)


if __name__ == '__main__':
  absltest.main()
