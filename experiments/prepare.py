"""Makes the CIFAR directories of TensorFlow Datasets, without TensorFlow.

The CIFAR builder of TFDS calls TensorFlow in three places: to unpack the
archive, to read the binary files in it, and to encode the images. Here these
are tarfile, NumPy and Pillow. All else is TFDS's own (address and checksum,
downloader, features, ids, keys, and so the order of the records), and what is
written is the directory that TFDS would have made.
"""

import contextlib
import io
import json
import pathlib
import sys
import tarfile
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

_PIXELS = 3 * 32 * 32  # Bytes per record after its labels, plane by plane.


def ensure(name: str, data_dir: str) -> None:
  """Downloads and prepares a data set unless `data_dir` has it.

  TFDS builds in a temporary directory and renames it at the end, so that a
  run that dies half-way leaves nothing that looks prepared. The archive stays
  in `data_dir`/downloads; one that was put into `data_dir`/downloads/manual by
  hand is used instead of a download.

  Args:
    name: 'cifar10' or 'cifar100'.
    data_dir: the directory that TFDS calls so; made if it is not there.

  Raises:
    FileNotFoundError: if the set is not there and cannot be made.
    ValueError: if what is there is another one.
  """
  import tensorflow_datasets as tfds

  try:
    builder = make_builder(name, data_dir)
  except Exception as error:  # Of what describes the set; in many types.
    raise ValueError(f'it cannot be read ({error})') from error
  path = builder.data_path
  way_out = (
    'Name another directory with `--data_dir` or TFDS_DATA_DIR, or take '
    '`--dataset=cifar10_mini`, which needs no download.'
  )
  if path.exists():
    if builder.is_prepared():
      _check_name(path, name)
      return
    raise FileNotFoundError(
      f"'{path}' is there, but it is not a complete data set. Remove it to "
      f'have it made again. {way_out}'
    )
  try:
    _prepare(builder, data_dir)
  except (
    OSError,
    tfds.download.DownloadError,
    tfds.download.download_manager.NonMatchingChecksumError,
  ) as error:
    if path.exists():  # Another process has made it in the meantime.
      return
    raise FileNotFoundError(
      f"Data set {name!r} is not in '{path}' and could not be made from "
      f'{builder._cifar_info.url}. {way_out} The cause: '
      f'{type(error).__name__}: {error}'
    ) from error


def _check_name(path: pathlib.Path, name: str) -> None:
  """TFDS reads whatever lies where the set should be."""
  found = json.loads((path / 'dataset_info.json').read_text())['name']
  if found != name:
    raise ValueError(f'what is there is {found!r}')


def _prepare(builder: Any, data_dir: str) -> None:
  """Has TFDS make the data set, and says so in one line."""
  import requests
  import tensorflow_datasets as tfds

  url = builder._cifar_info.url
  size = f'{builder.url_infos[url].size / 1e6:.0f} MB'
  downloads = pathlib.Path(data_dir, 'downloads')
  stem = url.rsplit('/', 1)[-1].removesuffix('.tar.gz')
  if any(downloads.glob(f'*/*{stem}*.tar.gz')):
    print(f'Preparing {builder.name} from {downloads}.', flush=True)
  else:
    print(
      f'Downloading {builder.name} ({size}) from {url} to {data_dir}.',
      flush=True,
    )
    # TFDS tries eleven times, for three minutes in all, before it says a word.
    requests.head(url, timeout=20)
  tfds.display_progress_bar(sys.stderr.isatty())
  with contextlib.redirect_stdout(io.StringIO()):  # It is said above.
    builder.download_and_prepare(
      download_dir=downloads,
      file_format='array_record',
      download_config=tfds.download.DownloadConfig(try_download_gcs=False),
    )


def make_builder(name: str, data_dir: str) -> Any:
  """Returns the TFDS builder of a CIFAR data set, freed from TensorFlow."""
  import tensorflow_datasets as tfds

  base = tfds.builder_cls(name)

  class Builder(base, skip_registration=True):
    __module__ = base.__module__  # `dataset_info.json` names it, and TFDS
    name = base.name  # finds its checksums by it.

    def _split_generators(self, dl_manager):
      cifar = self._cifar_info
      files = _read_archive(dl_manager.download(cifar.url), cifar.prefix)
      for key, file in zip(cifar.label_keys, cifar.label_files):
        self.info.features[key].names = files[file].decode().split()
      parts = {'train': cifar.train_files, 'test': cifar.test_files}
      return {
        split: _examples(
          split,
          b''.join(files[part] for part in parts[split]),
          cifar.label_keys,
        )
        for split in parts
      }

  return Builder(data_dir=data_dir)


def _read_archive(path: Any, prefix: str) -> dict[str, bytes]:
  """Returns the files of a .tar.gz below `prefix`, in one pass over it."""
  with tarfile.open(path) as archive:
    return {
      member.name.removeprefix(prefix): archive.extractfile(member).read()
      for member in archive
      if member.isfile()
    }


def _examples(
  split: str, data: bytes, label_keys: list[str]
) -> Iterator[tuple[int, dict[str, Any]]]:
  """Yields keys and examples, which TFDS encodes and puts into its order."""
  records = np.frombuffer(data, np.uint8)
  records = records.reshape(-1, len(label_keys) + _PIXELS)
  labels, planes = np.split(records, [len(label_keys)], axis=1)
  images = planes.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
  for index, image in enumerate(images):
    example = dict(zip(label_keys, labels[index].tolist()))
    example['id'] = f'{split}_{index:05d}'
    example['image'] = Image.fromarray(image)  # TFDS saves it as PNG.
    yield index, example
