import contextlib
import hashlib
import http.server
import io
import json
import os
import pathlib
import shutil
import socket
import sys
import tarfile
import tempfile
import threading
import time
import types
from unittest import mock

import numpy as np
import tensorflow_datasets as tfds
from absl.testing import absltest, parameterized

from experiments import data

# In the layout of the original archives; 20 records per file.
CIFAR10 = {
  'name': 'cifar10',
  'folder': 'cifar-10-batches-bin',
  'archive': 'cifar-10-binary.tar.gz',
  'train': [f'data_batch_{i}.bin' for i in range(1, 6)],
  'test': ['test_batch.bin'],
  'labels': {'label': ('batches.meta.txt', 10)},
}
CIFAR100 = {
  'name': 'cifar100',
  'folder': 'cifar-100-binary',
  'archive': 'cifar-100-binary.tar.gz',
  'train': ['train.bin'],
  'test': ['test.bin'],
  'labels': {
    'coarse_label': ('coarse_label_names.txt', 20),
    'label': ('fine_label_names.txt', 100),
  },
}


def make_archive(spec):
  """Returns the archive's bytes and split -> (images, labels) of its files."""
  rng = np.random.default_rng(0)
  files = {
    file: ''.join(f'{key}_{i}\n' for i in range(count)).encode() + b'\n'
    for key, (file, count) in spec['labels'].items()
  }
  arrays = {}
  for split in ('train', 'test'):
    num = 20 * len(spec[split])
    images = rng.integers(0, 256, (num, 32, 32, 3), np.uint8)
    labels = np.stack(
      [rng.integers(0, n, num, np.uint8) for _, n in spec['labels'].values()],
      axis=1,
    )
    planes = images.transpose(0, 3, 1, 2).reshape(num, -1)
    records = np.concatenate([labels, planes], axis=1)
    for file, part in zip(spec[split], np.split(records, len(spec[split]))):
      files[file] = part.tobytes()
    arrays[split] = images, labels[:, -1]
  buffer = io.BytesIO()
  with tarfile.open(fileobj=buffer, mode='w:gz') as archive:
    folder = tarfile.TarInfo(spec['folder'])
    folder.type = tarfile.DIRTYPE
    archive.addfile(folder)
    for file, content in files.items():
      info = tarfile.TarInfo(f'{spec["folder"]}/{file}')
      info.size = len(content)
      archive.addfile(info, io.BytesIO(content))
  return buffer.getvalue(), arrays


class Handler(http.server.BaseHTTPRequestHandler):
  """Serves `server.body`, or what `server.fault` makes of it."""

  def do_HEAD(self):
    self.send_response(200)
    self.send_header('Content-Length', str(len(self.server.body)))
    self.end_headers()

  def do_GET(self):
    self.server.num_gets += 1
    if self.server.fault == 'missing':
      self.send_error(404)
      return
    self.do_HEAD()
    body = self.server.body
    faulty = {None: body, 'cut': body[:1000], 'other': body[::-1]}
    self.wfile.write(faulty[self.server.fault])

  def log_message(self, *args):
    del args


def closed_port():
  with socket.create_server(('127.0.0.1', 0)) as server:
    return server.getsockname()[1]


class PrepareTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.enter_context(mock.patch.dict(os.environ, {'no_proxy': '127.0.0.1'}))
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    server.fault, server.num_gets = None, 0
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    self.addCleanup(server.server_close)
    self.addCleanup(thread.join)
    self.addCleanup(server.shutdown)
    self.server = server
    self.data_dir = self.enter_context(tempfile.TemporaryDirectory())

  def serve(self, spec, port=None):
    """Has TFDS's builder look for the small archive on this machine."""
    self.server.body, arrays = make_archive(spec)
    port = port or self.server.server_port
    url = f'http://127.0.0.1:{port}/{spec["archive"]}'
    base = tfds.builder_cls(spec['name'])
    cifar = base(data_dir=self.data_dir)._cifar_info._replace(url=url)
    info = tfds.download.checksums.UrlInfo(
      size=len(self.server.body),
      checksum=hashlib.sha256(self.server.body).hexdigest(),
      filename=spec['archive'],
    )
    self.enter_context(
      mock.patch.object(base, '_cifar_info', property(lambda _: cifar))
    )
    self.enter_context(mock.patch.object(base, 'url_infos', {url: info}))
    return url, arrays

  def load(self, name):
    """Returns the data set and what was printed."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
      dataset = data.load(name, self.data_dir)
    return dataset, printed.getvalue()

  def assert_holds(self, dataset, arrays):
    for got, expected in zip(dataset[:4], arrays['train'] + arrays['test']):
      np.testing.assert_array_equal(got, expected)

  def path(self, name):
    version = str(tfds.builder_cls(name).VERSION)
    return pathlib.Path(self.data_dir, name, version)

  @parameterized.named_parameters(('10', CIFAR10), ('100', CIFAR100))
  def test_downloads_prepares_and_loads_without_tensorflow(self, spec):
    url, arrays = self.serve(spec)
    sought = []
    log = types.SimpleNamespace(find_spec=lambda name, *_: sought.append(name))
    self.enter_context(
      mock.patch.object(sys, 'meta_path', [log, *sys.meta_path])
    )
    dataset, printed = self.load(spec['name'])
    self.assert_holds(dataset, arrays)
    self.assertEqual(
      printed,
      f'Downloading {spec["name"]} (0 MB) from {url} to {self.data_dir}.\n',
    )
    self.assertNotIn('tensorflow', sought)

    dataset, printed = self.load(spec['name'])
    self.assert_holds(dataset, arrays)
    self.assertEqual(printed, '')
    self.assertEqual(self.server.num_gets, 1)

  @parameterized.named_parameters(('10', CIFAR10), ('100', CIFAR100))
  def test_writes_what_tfds_writes(self, spec):
    self.serve(spec)
    self.load(spec['name'])
    path = self.path(spec['name'])
    builder = tfds.builder_from_directory(path)
    self.assertEqual(builder.name, spec['name'])
    for key, (_, count) in spec['labels'].items():
      self.assertEqual(
        builder.info.features[key].names, [f'{key}_{i}' for i in range(count)]
      )
    info = json.loads((path / 'dataset_info.json').read_text())
    self.assertEqual(
      info['moduleName'], 'tensorflow_datasets.image_classification.cifar'
    )
    ids = [example['id'] for example in builder.as_data_source('test')]
    self.assertCountEqual(ids, [b'test_%05d' % i for i in range(20)])
    # The order of these twenty among the 10,000 of the real set.
    self.assertEqual(ids[:3], [b'test_00016', b'test_00013', b'test_00019'])

  def test_takes_an_archive_that_lies_in_manual(self):
    _, arrays = self.serve(CIFAR10, port=closed_port())
    manual = pathlib.Path(self.data_dir, 'downloads', 'manual')
    manual.mkdir(parents=True)
    (manual / CIFAR10['archive']).write_bytes(self.server.body)
    dataset, printed = self.load('cifar10')
    self.assert_holds(dataset, arrays)
    self.assertEqual(
      printed, f'Preparing cifar10 from {self.data_dir}/downloads.\n'
    )

  @parameterized.named_parameters(
    ('missing', 'missing', 'DownloadError'),
    ('cut', 'cut', 'ChunkedEncodingError'),
    ('other', 'other', 'NonMatchingChecksumError'),
  )
  def test_failed_download_leaves_nothing_prepared(self, fault, cause):
    url, arrays = self.serve(CIFAR10)
    self.server.fault = fault
    with self.assertRaises(FileNotFoundError) as caught:
      self.load('cifar10')
    self.assertIn(
      f"Data set 'cifar10' is not in '{self.path('cifar10')}' and could not be "
      f'made from {url}. Name another directory with `--data_dir` or '
      'TFDS_DATA_DIR, or take `--dataset=cifar10_mini`, which needs no '
      f'download. The cause: {cause}: ',
      str(caught.exception),
    )
    self.assertEqual(type(caught.exception.__cause__).__name__, cause)
    self.assertEmpty(os.listdir(self.path('cifar10').parent))

    self.server.fault = None
    self.assert_holds(self.load('cifar10')[0], arrays)

  def test_offline_fails_at_once(self):
    self.serve(CIFAR10, port=closed_port())
    start = time.monotonic()
    with self.assertRaisesRegex(FileNotFoundError, 'cause: ConnectionError'):
      self.load('cifar10')
    self.assertLess(time.monotonic() - start, 30)  # TFDS alone takes 200 s.
    self.assertFalse(self.path('cifar10').exists())

  def test_data_dir_that_cannot_be_made(self):
    self.serve(CIFAR10)
    pathlib.Path(self.data_dir, 'file').touch()
    self.data_dir += '/file/tfds'
    with self.assertRaisesRegex(FileNotFoundError, 'NotADirectoryError'):
      self.load('cifar10')

  def test_incomplete_directory_is_not_taken_for_a_data_set(self):
    self.serve(CIFAR10)
    self.path('cifar10').mkdir(parents=True)
    with self.assertRaisesRegex(
      FileNotFoundError,
      f"'{self.path('cifar10')}' is there, but it is not a complete data set. "
      'Remove it to have it made again. Name another directory with ',
    ):
      self.load('cifar10')
    self.assertEqual(self.server.num_gets, 0)

  def test_another_process_may_be_faster(self):
    _, arrays = self.serve(CIFAR10)
    self.load('cifar10')
    theirs = self.path('cifar10').rename(self.data_dir + '/theirs')
    encode = tfds.features.Image.encode_example

    def overtaken(feature, image):
      if not self.path('cifar10').exists():
        shutil.copytree(theirs, self.path('cifar10'))
      return encode(feature, image)

    with mock.patch.object(tfds.features.Image, 'encode_example', overtaken):
      self.assert_holds(self.load('cifar10')[0], arrays)
    self.assertLen(os.listdir(self.path('cifar10').parent), 1)


if __name__ == '__main__':
  absltest.main()
