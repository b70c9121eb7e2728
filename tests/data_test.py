import functools
import io
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
from unittest import mock

import numpy as np
import tensorflow_datasets as tfds
from absl.testing import absltest, parameterized
from PIL import Image

from experiments import data

ROOT = pathlib.Path(data.__file__).parents[1]
RNG = np.random.default_rng(0)
IMAGES = {
  'train': RNG.integers(0, 256, (30, 32, 32, 3), np.uint8),
  'test': RNG.integers(0, 256, (20, 32, 32, 3), np.uint8),
}


def write_tfds(name, data_dir):
  """Writes `IMAGES` as a prepared data set; image i is of class i % 10."""
  base = tfds.builder_cls(name)

  class Builder(base, skip_registration=True):
    __module__ = base.__module__
    name = base.name

    def _split_generators(self, dl_manager):
      del dl_manager
      return {split: self._generate_examples(split, ()) for split in IMAGES}

    def _generate_examples(self, split, filepaths):
      del filepaths
      for i, image in enumerate(IMAGES[split]):
        example = {'id': f'{split}_{i:05d}', 'image': Image.fromarray(image)}
        for key in self._cifar_info.label_keys:
          example[key] = i % 10 if key == 'label' else 19
        yield i, example

  tfds.disable_progress_bar()
  builder = Builder(data_dir=data_dir, file_format='array_record')
  builder.download_and_prepare(
    download_config=tfds.download.DownloadConfig(try_download_gcs=False)
  )
  return pathlib.Path(builder.data_dir)


class LoadTest(parameterized.TestCase):
  @parameterized.named_parameters(
    ('typing', 'cifar-10', 'cifar10'),
    ('part', 'mini', 'cifar10_mini'),
  )
  def test_unknown_name(self, name, nearest):
    with self.assertRaises(ValueError) as caught:
      data.load(name)
    self.assertEqual(
      str(caught.exception),
      '`name` must be one of cifar10, cifar100, cifar10_mini, synthetic, got '
      f"'{name}'. The nearest is '{nearest}'.",
    )

  def test_imports_no_tensorflow(self):
    # One that could be imported, so that an import tried would be one made.
    with tempfile.TemporaryDirectory() as folder:
      stub = pathlib.Path(folder, 'tensorflow')
      stub.mkdir()
      (stub / '__init__.py').touch()
      write_tfds('cifar10', folder)
      code = (
        'import sys\n'
        'from experiments import data\n'
        'for name in data.DATASETS.keys() - {"cifar100"}:\n'
        f'  data.load(name, {folder!r})\n'
        'assert "tensorflow_datasets" in sys.modules\n'
        'assert "tensorflow" not in sys.modules\n'
        'import tensorflow\n'
      )
      path = os.pathsep.join([folder, str(ROOT)])
      subprocess.run(
        [sys.executable, '-c', code],
        env=os.environ | {'PYTHONPATH': path},
        check=True,
      )


class TfdsTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.data_dir = self.enter_context(tempfile.TemporaryDirectory())

  @parameterized.named_parameters(
    ('10', 'cifar10', 10), ('100', 'cifar100', 100)
  )
  def test_arrays_are_in_the_original_order(self, name, num_classes):
    write_tfds(name, self.data_dir)
    dataset = data.load(name, self.data_dir)
    np.testing.assert_array_equal(dataset.train_images, IMAGES['train'])
    np.testing.assert_array_equal(dataset.test_images, IMAGES['test'])
    np.testing.assert_array_equal(dataset.train_labels, np.arange(30) % 10)
    np.testing.assert_array_equal(dataset.test_labels, np.arange(20) % 10)
    self.assertEqual(dataset.train_images.dtype, np.uint8)
    self.assertEqual(dataset.train_labels.dtype, np.int32)
    self.assertEqual(dataset.num_classes, num_classes)

  @parameterized.named_parameters(
    ('argument', 'there', {'TFDS_DATA_DIR': 'elsewhere'}, 'there'),
    ('tilde', '~/there', {'HOME': '.'}, 'there'),
    ('variable', None, {'TFDS_DATA_DIR': 'there'}, 'there'),
    (
      'default',
      None,
      {'TFDS_DATA_DIR': '', 'HOME': '.'},
      'tensorflow_datasets',
    ),
  )
  def test_data_dir_is(self, argument, environ, folder):
    def full(path):
      return path and (
        path if path[0] == '~' else os.path.join(self.data_dir, path)
      )

    write_tfds('cifar10', full(folder))
    environ = {key: full(path) for key, path in environ.items()}
    with mock.patch.dict(os.environ, environ):
      dataset = data.load('cifar10', full(argument))
    self.assertLen(dataset.train_images, 30)

  def test_tfrecord_is_refused(self):
    builder = tfds.builder_cls('cifar10')(data_dir=self.data_dir)
    builder.data_path.mkdir(parents=True)
    builder.info.write_to_directory(builder.data_path)
    with self.assertRaisesRegex(
      ValueError,
      f"'cifar10' in '{self.data_dir}' is stored in a format that needs "
      'TensorFlow. Name another directory with `--data_dir` or TFDS_DATA_DIR',
    ):
      data.load('cifar10', self.data_dir)

  @parameterized.named_parameters(('missing', None), ('short', 2000))
  def test_damage_is_reported(self, size):
    path = write_tfds('cifar10', self.data_dir)
    (file,) = path.glob('cifar10-train.*')
    content = file.read_bytes()
    file.unlink()
    if size is not None:
      file.write_bytes(content[:size])
    with self.assertRaisesRegex(
      ValueError,
      f"'cifar10' in '{self.data_dir}' is damaged: .*\n?.* "
      f"Remove '{self.data_dir}/cifar10' to have it made again.",
    ):
      data.load('cifar10', self.data_dir)

  @parameterized.named_parameters(
    ('no_json', 'dataset_info.json', b'{]'),
    ('no_text', 'dataset_info.json', bytes(range(256))),
    ('nothing', 'dataset_info.json', b''),
    ('other_json', 'dataset_info.json', b'{}'),
    ('no_shard', 'cifar10-test.array_record-00000-of-00001', b'0' * 100_000),
  )
  def test_damage_beside_the_images_is_reported(self, file, content):
    path = write_tfds('cifar10', self.data_dir) / file
    path.unlink()
    path.write_bytes(content)
    with self.assertRaisesRegex(
      ValueError,
      f"(?s)'cifar10' in '{self.data_dir}' is damaged: .* "
      f"Remove '{self.data_dir}/cifar10' to have it made again.",
    ):
      data.load('cifar10', self.data_dir)

  def test_another_data_set_is_refused(self):
    ours = write_tfds('cifar10', self.data_dir)
    with mock.patch.dict(IMAGES, train=IMAGES['train'][:7]):
      theirs = write_tfds('cifar100', self.data_dir)
    (file,) = ours.glob('cifar10-train.*')
    shutil.copy(next(theirs.glob('cifar100-train.*')), file)
    with self.assertRaisesRegex(ValueError, "'cifar10' in .* is damaged"):
      data.load('cifar10', self.data_dir)
    shutil.rmtree(ours)
    theirs.rename(ours)
    with self.assertRaisesRegex(ValueError, "what is there is 'cifar100'"):
      data.load('cifar10', self.data_dir)

  def test_labels_out_of_range_are_refused(self):
    write_tfds('cifar10', self.data_dir)
    load = data.DATASETS['cifar10']
    few = functools.partial(load.func, **{**load.keywords, 'num_classes': 5})
    with (
      mock.patch.dict(data.DATASETS, cifar10=few),
      self.assertRaisesRegex(
        ValueError,
        r"'cifar10' in .* labels from 0 to 9, which must lie in \[0, 5\): it "
        'is another data set, or damaged. Remove .* to have it made again.',
      ),
    ):
      data.load('cifar10', self.data_dir)

  @parameterized.named_parameters(
    ('grey', 'L', (32, 32)), ('small', 'RGB', (1, 1)), ('no_image', None, None)
  )
  def test_images_of_another_shape_are_refused(self, mode, size):
    png = io.BytesIO(b'no image')
    if mode:
      Image.new(mode, size).save(png := io.BytesIO(), 'PNG')
    example = {'id': 'train_1', 'label': 0, 'image': png.getvalue()}
    source = mock.MagicMock()
    source.__len__.return_value = 1
    source.__getitems__ = lambda ids: [example]
    with self.assertRaisesRegex(
      (ValueError, OSError), "image 'train_1' is uint8|cannot identify"
    ):
      data._read_split(source)


class MiniTest(parameterized.TestCase):
  def test_is_balanced_and_whole(self):
    dataset = data.load('cifar10_mini')
    self.assertEqual(dataset.train_images.shape, (5000, 32, 32, 3))
    self.assertEqual(dataset.test_images.shape, (1000, 32, 32, 3))
    self.assertEqual(dataset.train_images.dtype, np.uint8)
    self.assertEqual(dataset.train_labels.dtype, np.int32)
    self.assertEqual(np.bincount(dataset.train_labels).tolist(), [500] * 10)
    self.assertEqual(np.bincount(dataset.test_labels).tolist(), [100] * 10)
    # CIFAR-10 starts with a frog, two trucks, a deer and a car.
    self.assertEqual(dataset.train_labels[:5].tolist(), [6, 9, 9, 4, 1])
    self.assertEqual(dataset.train_images[0, 0, 0].tolist(), [59, 62, 63])
    mean = dataset.train_images.mean((0, 1, 2)) / 255  # Of a tenth of them.
    np.testing.assert_allclose(mean, dataset.mean, atol=0.01)

  def test_readme_has_the_checksums(self):
    readme = (data.MINI_DIR / 'README.md').read_text()
    for file, checksum in data.MINI_SHA256.items():
      (row,) = [line for line in readme.splitlines() if f'| `{file}` |' in line]
      self.assertIn(checksum, row)

  def test_is_small(self):
    files = list(data.MINI_DIR.iterdir())
    self.assertLen(files, 5)
    self.assertLess(sum(file.stat().st_size for file in files), 12e6)

  @parameterized.product(
    file=['train.webp', 'train.labels.txt'],
    damage=['missing', 'short', 'changed', 'empty', 'other'],
  )
  def test_damaged_file_is_named(self, file, damage):
    folder = self.enter_context(tempfile.TemporaryDirectory())
    mini = pathlib.Path(folder, 'cifar10_mini')
    shutil.copytree(data.MINI_DIR, mini)
    content = (mini / file).read_bytes()
    half = len(content) // 2
    other = io.BytesIO()
    Image.new('RGB', (8, 8)).save(other, 'WEBP')
    (mini / file).write_bytes(
      {
        'missing': b'',
        'short': content[:half],
        'changed': content[:half] + b'0' + content[half + 1 :],
        'empty': b'',
        'other': other.getvalue(),
      }[damage]
    )
    if damage == 'missing':
      (mini / file).unlink()
    with (
      mock.patch.object(data, 'MINI_DIR', mini),
      self.assertRaisesRegex(
        ValueError,
        f"/cifar10_mini/{file}' is missing or damaged. Get it anew with `git",
      ),
    ):
      data.load('cifar10_mini')


class SyntheticTest(absltest.TestCase):
  def test_is_the_same_each_time(self):
    first, second = data.load('synthetic'), data.load('synthetic')
    for a, b in zip(first, second):
      np.testing.assert_array_equal(a, b)

  def test_shapes_and_moments(self):
    dataset = data.load('synthetic')
    self.assertEqual(dataset.train_images.shape, (512, 32, 32, 3))
    self.assertEqual(dataset.test_images.shape, (128, 32, 32, 3))
    self.assertEqual(dataset.train_images.dtype, np.uint8)
    self.assertEqual(dataset.train_labels.dtype, np.int32)
    self.assertEqual(set(dataset.test_labels), set(range(10)))
    pixels = (dataset.train_images / 255 - dataset.mean) / dataset.std
    np.testing.assert_allclose(pixels.mean((0, 1, 2)), 0, atol=1e-6)
    np.testing.assert_allclose(pixels.std((0, 1, 2)), 1, atol=1e-6)

  def test_can_be_learned_from_flipped_and_shifted_images(self):
    dataset = data.load('synthetic')
    train, test = (
      images.astype(np.float32)
      for images in (dataset.train_images, dataset.test_images)
    )
    centers = np.stack(
      [train[dataset.train_labels == c].mean(0) for c in range(10)]
    )
    for seen in (test, test[:, :, ::-1], np.roll(test, (4, -4), (1, 2))):
      distances = ((seen[:, None] - centers) ** 2).sum((2, 3, 4))
      np.testing.assert_array_equal(distances.argmin(1), dataset.test_labels)


if __name__ == '__main__':
  absltest.main()
