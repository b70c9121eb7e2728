"""CIFAR as arrays in memory: `load('cifar10')`."""

import functools
import hashlib
import io
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from experiments import config, prepare

MINI_DIR = pathlib.Path(__file__).with_name('cifar10_mini')
MINI_SHA256 = {  # Of the pixels and of the labels, as uint8.
  'train.webp': (
    '8408cb1d487a81dc74bed9bf922c2fd301fe2b1423ee16016de79a0f4ea9cff1'
  ),
  'train.labels.txt': (
    '82b397643bd8851eecd4bf04f74438bf4aeeb7d1f9074791252a04fd9277c0f3'
  ),
  'test.webp': (
    'cc2bd4479eda140793858a9ea7f9016e6870fefd7f69f172720267e933ec44a5'
  ),
  'test.labels.txt': (
    'bf5fd7ab55257c7eeece32a36d229c4767d2479b59c8d506b7e35494f9cbf574'
  ),
}


class Dataset(NamedTuple):
  """A whole data set in memory, in the order of its original files."""

  train_images: np.ndarray  # uint8 [num_train, 32, 32, 3]
  train_labels: np.ndarray  # int32 [num_train], in [0, num_classes)
  test_images: np.ndarray  # uint8 [num_test, 32, 32, 3]
  test_labels: np.ndarray  # int32 [num_test]
  num_classes: int
  mean: tuple[float, float, float]  # Of the train pixels / 255, per channel.
  std: tuple[float, float, float]


def load(name: str, data_dir: str | None = None) -> Dataset:
  """Loads a data set, and downloads it first where that is needed.

  All of CIFAR is 180 MB, so there is no pipeline: what is drawn, cropped and
  flipped is drawn, cropped and flipped on the device.

  Args:
    name: a key of `DATASETS`. 'cifar10_mini' is the first tenth of CIFAR-10,
      class by class, and lies in the repository; 'synthetic' is made up, for
      tests.
    data_dir: where TFDS keeps 'cifar10' and 'cifar100'; $TFDS_DATA_DIR if not
      given, else ~/tensorflow_datasets. The other sets do not read it.

  Returns:
    The data set; twice the same, bit by bit.

  Raises:
    ValueError: if the name is unknown, or if the files cannot be read.
    FileNotFoundError: if the set is not there and cannot be downloaded.

  Example:
    >>> load('synthetic').train_images.shape
    (512, 32, 32, 3)
  """
  config.check_choice('name', name, DATASETS)
  return DATASETS[name](data_dir)


def ensure(name: str, data_dir: str | None = None) -> None:
  """Makes a data set that can be downloaded and is not there; see `load`.

  Example:
    >>> ensure('synthetic')
  """
  if DATASETS[name] in (_cifar10_mini, _synthetic):
    return
  data_dir = _expanded(data_dir)
  try:
    prepare.ensure(name, data_dir)
  except ValueError as error:
    raise ValueError(
      f'Data set {name!r} in {data_dir!r} is damaged: {error}. '
      f'{_way_out(name, data_dir)}'
    ) from error


def _expanded(data_dir: str | None) -> str:
  data_dir = data_dir or os.environ.get('TFDS_DATA_DIR')
  return os.path.expanduser(data_dir or '~/tensorflow_datasets')


def _way_out(name: str, data_dir: str) -> str:
  return f"Remove '{os.path.join(data_dir, name)}' to have it made again."


def _cifar(
  data_dir: str | None,
  name: str,
  num_classes: int,
  mean: tuple[float, float, float],
  std: tuple[float, float, float],
) -> Dataset:
  """Reads what TFDS has prepared, after preparing it if need be."""
  import tensorflow_datasets as tfds

  ensure(name, data_dir)
  data_dir = _expanded(data_dir)
  way_out = _way_out(name, data_dir)
  try:
    train, test = tfds.data_source(
      name,
      split=['train', 'test'],
      data_dir=data_dir,
      decoders={'image': tfds.decode.SkipDecoding()},
      download=False,
    )
    arrays = *_read_split(train), *_read_split(test)
  except NotImplementedError as error:  # Of TFDS, for TFRecord files.
    raise ValueError(
      f'Data set {name!r} in {data_dir!r} is stored in a format that needs '
      'TensorFlow. Name another directory with `--data_dir` or '
      'TFDS_DATA_DIR; the set is made there as array_record.'
    ) from error
  except Exception as error:  # Damage shows in many types.
    raise ValueError(
      f'Data set {name!r} in {data_dir!r} is damaged: {error}. {way_out}'
    ) from error
  for labels in arrays[1::2]:
    if not all(0 <= label < num_classes for label in set(labels.tolist())):
      raise ValueError(
        f'Data set {name!r} in {data_dir!r} has labels from {labels.min()} to '
        f'{labels.max()}, which must lie in [0, {num_classes}): it is another '
        f'data set, or damaged. {way_out}'
      )
  return Dataset(*arrays, num_classes, mean, std)


def _read_split(source: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
  """Returns images and labels, sorted by id out of TFDS's hashed order.

  Pillow decodes here, because TFDS takes a quarter longer for it; threads gain
  nothing, images of 2 kB being mostly Python's work.
  """
  examples = source.__getitems__(range(len(source)))  # Half a loop's time.
  examples = sorted(examples, key=lambda example: example['id'])
  images = np.empty((len(examples), 32, 32, 3), np.uint8)
  for image, example in zip(images, examples):
    with Image.open(io.BytesIO(example['image'])) as png:
      pixels = np.asarray(png)
    if (pixels.shape, pixels.dtype) != (image.shape, image.dtype):
      raise ValueError(
        f'image {example["id"]!r} is {pixels.dtype}{list(pixels.shape)}, not '
        f'{image.dtype}{list(image.shape)}'
      )
    image[:] = pixels
  return images, np.array([example['label'] for example in examples], np.int32)


def _cifar10_mini(data_dir: str | None) -> Dataset:
  """Reads the tenth of CIFAR-10 that lies beside this file."""
  del data_dir
  full = DATASETS['cifar10'].keywords
  return Dataset(
    train_images=_read_mini('train.webp'),
    train_labels=_read_mini('train.labels.txt').astype(np.int32),
    test_images=_read_mini('test.webp'),
    test_labels=_read_mini('test.labels.txt').astype(np.int32),
    num_classes=full['num_classes'],
    mean=full['mean'],
    std=full['std'],
  )


def _read_mini(file: str) -> np.ndarray:
  """Reads a mosaic, 100 images in a row, or a line of digits, as uint8."""
  path = MINI_DIR / file
  cause = None
  try:
    if path.suffix == '.webp':
      with Image.open(path) as mosaic:
        array = np.asarray(mosaic.convert('RGB'))
      array = array.reshape(-1, 32, 100, 32, 3).swapaxes(1, 2)
      array = array.reshape(-1, 32, 32, 3)
    else:
      array = np.frombuffer(path.read_bytes().strip(), np.uint8) - ord('0')
    if hashlib.sha256(array.tobytes()).hexdigest() == MINI_SHA256[file]:
      return array
  except (OSError, ValueError) as error:
    cause = error
  raise ValueError(
    f"'{path}' is missing or damaged. Get it anew with "
    f'`git checkout -- {MINI_DIR.parent.name}/{MINI_DIR.name}/{file}`.'
  ) from cause


def _synthetic(data_dir: str | None) -> Dataset:
  """Makes coarse patterns with noise, one pattern per class.

  They are 8 pixels coarse and symmetric, so that a crop or a flip still shows
  its class.
  """
  del data_dir
  rng = np.random.default_rng(0)
  num_classes = 10
  colors = rng.uniform(32, 224, (num_classes, 4, 2, 3))
  colors = np.concatenate([colors, colors[:, :, ::-1]], axis=2)
  patterns = colors.repeat(8, axis=1).repeat(8, axis=2)

  def draw(num_images):
    labels = np.arange(num_images, dtype=np.int32) % num_classes
    noise = rng.normal(0, 32, (num_images, 32, 32, 3))
    return (patterns[labels] + noise).clip(0, 255).astype(np.uint8), labels

  train_images, train_labels = draw(512)
  pixels = train_images.reshape(-1, 3) / 255
  return Dataset(
    train_images,
    train_labels,
    *draw(128),
    num_classes,
    mean=tuple(pixels.mean(0).tolist()),
    std=tuple(pixels.std(0).tolist()),
  )


# Training images and classes, known before anything is loaded.
SIZES = {
  'cifar10': (50_000, 10),
  'cifar100': (50_000, 100),
  'cifar10_mini': (5_000, 10),
  'synthetic': (512, 10),
}

# From a name to a function that takes `data_dir`.
DATASETS: dict[str, Callable[[str | None], Dataset]] = {
  'cifar10': functools.partial(
    _cifar,
    name='cifar10',
    num_classes=10,
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2470, 0.2435, 0.2616),
  ),
  'cifar100': functools.partial(
    _cifar,
    name='cifar100',
    num_classes=100,
    mean=(0.5071, 0.4865, 0.4409),
    std=(0.2673, 0.2564, 0.2762),
  ),
  'cifar10_mini': _cifar10_mini,
  'synthetic': _synthetic,
}
