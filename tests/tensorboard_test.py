import json
import pathlib
import sys
from unittest import mock

from absl.testing import absltest
from full_disk import full_disk
from tensorboardX import record_writer
from tensorboardX.proto import event_pb2

from experiments import run, tensorboard
from experiments.config import Config

_CONFIG = Config(
  method='magnitude',
  sparsity=0.9,
  model='resnet8',
  dataset='synthetic',
  epochs=2,
  batch_size=256,
)


def _events(path):
  """Reads the file, and what tensorboardX itself would have written."""
  content, events = (path / 'events.out.tfevents').read_bytes(), []
  while content:
    length = int.from_bytes(content[:8], 'little')
    data = content[12 : 12 + length]
    events.append(event_pb2.Event.FromString(data))
    again = path / 'again'
    writer = record_writer.RecordWriter(str(again))
    writer.write(data)
    writer.close()
    assert again.read_bytes() == content[: 16 + length]
    content = content[16 + length :]
  return events


def _read(path):
  """The scalars of each event, after the first one, which has none."""
  version, *events = _events(path)
  assert version.file_version == 'brain.Event:2'
  return [
    (event.step, {v.tag: v.simple_value for v in event.summary.value})
    for event in events
  ]


class BoardTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    self.path = pathlib.Path(self.create_tempdir().full_path)

  def test_has_the_numbers_of_each_line(self):
    board = tensorboard.Board(self.path)
    board.begin([{'step': 1, 'loss': 0.5}])
    board.write(
      {
        'step': 2,
        'loss': None,
        'final': True,
        'pruning': {'norm_drop': 0.25, 'kept': [1, 2]},
        'layer_sparsity': {'fc/kernel': 0.75},
      }
    )
    self.assertEqual(
      _read(self.path),
      [
        (1, {'loss': 0.5}),
        (2, {'pruning/norm_drop': 0.25, 'layer_sparsity/fc/kernel': 0.75}),
      ],
    )
    board.begin([{'step': 1, 'loss': 0.5}])
    self.assertEqual(_read(self.path), [(1, {'loss': 0.5})])

  def test_a_full_disk_ends_nothing_and_loses_nothing(self):
    board = tensorboard.Board(self.path)
    board.begin([{'step': 1, 'loss': 0.5}])
    before = (self.path / 'events.out.tfevents').read_bytes()
    with full_disk(len(before) + 10):
      board.write({'step': 2, 'loss': 0.25})
    self.assertEqual((self.path / 'events.out.tfevents').read_bytes(), before)
    board.write({'step': 3, 'loss': 0.125})
    self.assertEqual(
      _read(self.path),
      [(1, {'loss': 0.5}), (2, {'loss': 0.25}), (3, {'loss': 0.125})],
    )

  def test_says_what_is_missing_before_anything_is_made(self):
    with (
      mock.patch.dict(sys.modules, tensorboardX=None),
      mock.patch.object(run, 'set_up', side_effect=AssertionError),
      self.assertRaisesRegex(ValueError, '`tensorboard` needs .*extra'),
    ):
      run.run(_CONFIG, workdir=self.path / 'run', tensorboard=True)
    self.assertFalse((self.path / 'run').exists())

  def test_needs_a_directory(self):
    with self.assertRaisesRegex(ValueError, '`tensorboard` .*`workdir`'):
      run.run(_CONFIG, tensorboard=True)


class RunTest(absltest.TestCase):
  def test_a_resumed_run_has_every_line_once(self):
    path = pathlib.Path(self.create_tempdir().full_path)
    run.run(_CONFIG, workdir=path, tensorboard=True, save_every_s=0)
    found = _read(path / 'tensorboard')
    lines = (path / 'metrics.jsonl').read_text().splitlines()
    lines = [json.loads(line) for line in lines]
    self.assertEqual([step for step, _ in found], [2, 4])
    for line, (_, tags) in zip(lines, found):
      self.assertEqual(tags.keys(), tensorboard.scalars(line).keys())
      self.assertAlmostEqual(tags['ever_active'], line['ever_active'])
      self.assertIn('layer_sparsity/conv1/kernel', tags)
    (path / 'result.json').unlink()
    run.run(_CONFIG, workdir=path, tensorboard=True)
    self.assertEqual([step for step, _ in _read(path / 'tensorboard')], [2, 4])


if __name__ == '__main__':
  absltest.main()
