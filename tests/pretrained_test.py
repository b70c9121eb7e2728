import functools
import pathlib
import pickle
import tempfile
import zipfile

import chex
import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from absl.testing import parameterized
from flax import traverse_util

from experiments import models, pretrained, tensor_files
from ong_jax.export import compressed

PLAIN = models.create('resnet8', 10)
PROJECTING = models.ResNet(
  num_blocks=(1, 1), width=4, projection=True, num_classes=3
)
TORCH_MODULES = {
  'conv1': 'conv1',
  'bn1': 'bn1',
  'layer1_0/conv1': 'layer1.0.conv1',
  'layer1_0/bn1': 'layer1.0.bn1',
  'layer1_0/conv2': 'layer1.0.conv2',
  'layer1_0/bn2': 'layer1.0.bn2',
  'layer2_0/conv1': 'layer2.0.conv1',
  'layer2_0/bn1': 'layer2.0.bn1',
  'layer2_0/conv2': 'layer2.0.conv2',
  'layer2_0/bn2': 'layer2.0.bn2',
  'layer2_0/shortcut_conv': 'layer2.0.shortcut.0',
  'layer2_0/shortcut_bn': 'layer2.0.shortcut.1',
  'layer3_0/conv1': 'layer3.0.conv1',
  'layer3_0/bn1': 'layer3.0.bn1',
  'layer3_0/conv2': 'layer3.0.conv2',
  'layer3_0/bn2': 'layer3.0.bn2',
  'linear': 'linear',
}
TORCH_KINDS = {
  'kernel': 'weight',
  'scale': 'weight',
  'bias': 'bias',
  'mean': 'running_mean',
  'var': 'running_var',
}
NO_WAY_OUT = (
  'Nor does it fit another of resnet8, resnet20, resnet32, resnet44, resnet56, '
  'resnet110, resnet18, resnet34: an architecture is added in '
  'experiments/models.py.'
)


def shapes(model):
  init = functools.partial(model.init, train=False)
  images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
  return jax.eval_shape(init, jax.random.key(0), images)


def random_variables(model):
  rng = np.random.default_rng(0)
  return jax.tree.map(
    lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes(model)
  )


def state_dict(variables):
  """Returns what PyTorch's module with these weights would save."""
  arrays = {}
  for tree in variables.values():
    for path, x in traverse_util.flatten_dict(tree, sep='/').items():
      module, _, kind = path.rpartition('/')
      name = f'{TORCH_MODULES[module]}.{TORCH_KINDS[kind]}'
      spec = {4: 'hwio->oihw', 2: 'io->oi', 1: 'i->i'}[x.ndim]
      arrays[name] = np.einsum(spec, x)
  return arrays


class StoreTorchTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    folder = self.enterContext(tempfile.TemporaryDirectory())
    self.folder = pathlib.Path(folder)

  @parameterized.product(
    model=[PLAIN, PROJECTING], suffix=['.npz', '.safetensors']
  )
  def test_round_trip(self, model, suffix):
    variables = random_variables(model)
    path = str(self.folder / f'net{suffix}')
    pretrained.store_torch(path, **variables)
    params, batch_stats = pretrained.load_torch(path, **shapes(model))
    chex.assert_trees_all_equal(params, variables['params'])
    chex.assert_trees_all_equal(batch_stats, variables['batch_stats'])

  @parameterized.parameters('.npz', '.safetensors')
  def test_has_what_the_module_would_save(self, suffix):
    variables = random_variables(PROJECTING)
    path = str(self.folder / f'net{suffix}')
    pretrained.store_torch(path, **variables)
    read = np.load if suffix == '.npz' else safetensors.numpy.load_file
    found = {name: np.asarray(x) for name, x in read(path).items()}
    norms = [name for name in TORCH_MODULES.values() if 'layer3' not in name]
    counters = {
      f'{name}.num_batches_tracked': np.array(0, np.int64)
      for name in norms
      if 'bn' in name or name.endswith('.1')
    }
    expected = state_dict(variables) | counters
    self.assertEqual(found.keys(), expected.keys())
    chex.assert_trees_all_equal_shapes_and_dtypes(found, expected)
    chex.assert_trees_all_equal(found, expected)

  def test_another_suffix(self):
    with self.assertRaisesRegex(
      ValueError, r"`path` must end in one of .npz, .safetensors, got 'net.pt'"
    ):
      pretrained.store_torch('net.pt', **random_variables(PLAIN))

  @parameterized.named_parameters(
    ('kind', {'dense': {'weights': np.ones(3)}}, "Leaf 'dense/weights' of"),
    ('axes', {'conv': {'kernel': np.ones((1, 2, 3))}}, "Leaf 'conv/kernel' of"),
  )
  def test_another_network(self, params, message):
    path = self.folder / 'net.npz'
    with self.assertRaisesRegex(ValueError, message):
      pretrained.store_torch(str(path), params, {})
    self.assertFalse(path.exists())


class LoadTorchTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    folder = self.enterContext(tempfile.TemporaryDirectory())
    self.path = pathlib.Path(folder) / 'net.npz'

  def load(self, arrays, model):
    np.savez(self.path, **arrays)
    return pretrained.load_torch(str(self.path), **shapes(model))

  def assert_refused(self, message, arrays, model=PLAIN):
    with self.assertRaises(ValueError) as caught:
      self.load(arrays, model)
    self.assertEqual(str(caught.exception), message.format(self.path))

  @parameterized.named_parameters(('plain', PLAIN), ('projecting', PROJECTING))
  def test_round_trip(self, model):
    variables = random_variables(model)
    params, batch_stats = self.load(state_dict(variables), model)
    chex.assert_trees_all_equal(params, variables['params'])
    chex.assert_trees_all_equal(batch_stats, variables['batch_stats'])

  def test_other_names_of_projections_and_classifier(self):
    variables = random_variables(PROJECTING)
    arrays = {
      name.replace('shortcut', 'downsample').replace('linear', 'fc'): x
      for name, x in state_dict(variables).items()
    }
    params, _ = self.load(arrays, PROJECTING)
    chex.assert_trees_all_equal(params, variables['params'])

  def test_counters_are_not_read(self):
    arrays = state_dict(random_variables(PLAIN))
    arrays['layer1.0.bn1.num_batches_tracked'] = np.array(7)
    self.load(arrays, PLAIN)

  @parameterized.parameters('float16', 'float64')
  def test_values_become_float32(self, dtype):
    arrays = state_dict(random_variables(PLAIN))
    arrays = {name: x.astype(dtype) for name, x in arrays.items()}
    trees = self.load(arrays, PLAIN)
    chex.assert_type(jax.tree.leaves(trees), jnp.float32)

  def test_missing_array(self):
    arrays = state_dict(random_variables(PLAIN))
    del arrays['layer2.0.bn1.running_var']
    self.assert_refused(
      "'{}' does not fit the model: it has no array "
      "'layer2.0.bn1.running_var' of shape (32,) for the leaf "
      f"'layer2_0/bn1/var'. {NO_WAY_OUT}",
      arrays,
    )

  def test_surplus_arrays(self):
    arrays = state_dict(random_variables(PROJECTING))
    arrays |= {'fc.bias': np.zeros(3), 'extra': np.zeros((2, 1))}
    self.assert_refused(
      "'{}' does not fit the model: no leaf is read from its array 'extra' "
      f'of shape (2, 1) (2 such arrays). {NO_WAY_OUT}',
      arrays,
      PROJECTING,
    )

  def test_shape(self):
    arrays = state_dict(random_variables(PLAIN))
    arrays['conv1.weight'] = np.zeros((16, 3, 7, 7))
    self.assert_refused(
      "'{}' does not fit the model: its array 'conv1.weight' has shape "
      f"(16, 3, 7, 7), but the leaf 'conv1/kernel' needs (16, 3, 3, 3). "
      f'{NO_WAY_OUT}',
      arrays,
    )

  @parameterized.named_parameters(
    (
      'deeper',
      models.create('resnet20', 10),
      "it has no array 'layer1.1.bn1.bias' of shape (16,) for the leaf "
      "'layer1_1/bn1/bias'",
    ),
    (
      'shallower',
      models.ResNet((1, 1), width=16, projection=False, num_classes=10),
      "its array 'linear.weight' has shape (10, 64), but the leaf "
      "'linear/kernel' needs (10, 32)",
    ),
    (
      'more_classes',
      models.create('resnet8', 100),
      "its array 'linear.bias' has shape (10,), but the leaf 'linear/bias' "
      'needs (100,)',
    ),
  )
  def test_another_net(self, model, problem):
    self.assert_refused(
      f"'{{}}' does not fit the model: {problem}. The file is a resnet8 for "
      '10 classes: pass --model=resnet8 and a data set of as many classes.',
      state_dict(random_variables(PLAIN)),
      model,
    )

  @parameterized.named_parameters(
    ('integers', np.ones(10, np.int8), 'int8'),
    ('text', np.array('weights'), '<U7'),
  )
  def test_type(self, bias, dtype):
    self.assert_refused(
      f"'{{}}' must hold floats, but 'linear.bias' is of type {dtype}. Save a "
      'PyTorch module as the docstring of `load_torch` shows.',
      {**state_dict(random_variables(PLAIN)), 'linear.bias': bias},
    )

  @parameterized.parameters(np.nan, np.inf)
  def test_not_finite(self, value):
    arrays = state_dict(random_variables(PLAIN))
    arrays['layer3.0.bn2.running_var'][5:7] = value
    self.assert_refused(
      "'{}' must hold finite values, but 'layer3.0.bn2.running_var' of shape "
      '(64,) has 2 that are not.',
      arrays,
    )

  def assert_unreadable(self, reason):
    with self.assertRaisesRegex(
      ValueError,
      rf"^'{self.path}' cannot be read as an \.npz file \({reason}\)\. Save a "
      r'PyTorch module as the docstring of `load_torch` shows\.$',
    ):
      pretrained.load_torch(str(self.path), **shapes(PLAIN))

  @parameterized.parameters(b'', b'PK', bytes(40))
  def test_no_safetensors(self, content):
    path = self.path.with_suffix('.safetensors')
    path.write_bytes(content)
    with self.assertRaisesRegex(
      ValueError, f"^'{path}' cannot be read as a .safetensors file .*docstring"
    ):
      pretrained.load_torch(str(path), **shapes(PLAIN))

  def test_no_file(self):
    with self.assertRaisesRegex(ValueError, "net.npz' is not there"):
      pretrained.load_torch(str(self.path), **shapes(PLAIN))

  @parameterized.named_parameters(
    ('empty', b''),
    ('pickle', pickle.dumps({'conv1.weight': 1.0})),
    ('start_of_a_zip_file', b'PK\x03\x04' + bytes(40)),
  )
  def test_not_a_zip_file(self, content):
    self.path.write_bytes(content)
    self.assert_unreadable('File is not a zip file')

  def test_npy(self):
    with self.path.open('wb') as file:
      np.save(file, np.ones(3))
    self.assert_unreadable('File is not a zip file')

  def test_damaged(self):
    np.savez_compressed(self.path, **state_dict(random_variables(PLAIN)))
    content = bytearray(self.path.read_bytes())
    content[10_000:10_100] = bytes(100)
    self.path.write_bytes(content)
    self.assert_unreadable("Bad CRC-32 for file '.*'")

  def test_objects(self):
    np.savez(self.path, **{'conv1.weight': np.array([None])})
    self.assert_unreadable('Object arrays cannot be loaded.*')

  def test_another_zip_file(self):
    with zipfile.ZipFile(self.path, 'w') as file:  # As torch.save makes one.
      file.writestr('net/data.pkl', 'weights')
    with self.assertRaisesRegex(ValueError, "'net/data.pkl' is of type"):
      pretrained.load_torch(str(self.path), **shapes(PLAIN))


class NormalizationTest(parameterized.TestCase):
  @parameterized.parameters('.npz', '.safetensors')
  def test_goes_along_and_is_no_part_of_the_state_dict(self, suffix):
    path = f'{self.create_tempdir().full_path}/net{suffix}'
    params = {'linear': {'kernel': np.ones((2, 3), np.float32)}}
    given = np.float32([0.1, 0.2, 0.3]), np.float32([1, 2, 3])
    pretrained.store_torch(path, params, {}, given)
    found = pretrained.load_normalization(path)
    np.testing.assert_array_equal(np.float32(found), given)
    self.assertLen(tensor_files.read(path), 1)
    chex.assert_trees_all_equal(
      pretrained.load_torch(path, params, {})[0], params
    )
    pretrained.store_torch(path, params, {})
    found = pretrained.load_normalization(path)
    self.assertEqual(found, ([*pretrained.MEAN], [*pretrained.STD]))

  def test_what_is_none_is_refused(self):
    path = f'{self.create_tempdir().full_path}/net.npz'
    pretrained.store_torch(path, {'linear': {'bias': np.ones(2)}}, {})
    with zipfile.ZipFile(path, 'a') as file:
      file.comment = b'hello'
    with self.assertRaisesRegex(ValueError, "mean and std .*, not 'hello'"):
      pretrained.load_normalization(path)

  def test_a_compressed_file_is_named(self):
    path = f'{self.create_tempdir().full_path}/net.safetensors'
    kernel = np.ones((2, 3), np.float32)
    params = {'linear': {'kernel': kernel}}
    compressed.save(path, params, jax.tree.map(lambda x: x > 0, params))
    with self.assertRaisesRegex(ValueError, 'is compressed, .*--format=torch'):
      pretrained.load_torch(path, params, {})
