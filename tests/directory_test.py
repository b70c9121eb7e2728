import contextlib
import json
import pathlib
import shutil
from unittest import mock

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from absl.testing import absltest
from full_disk import full_disk

import ong_jax
from experiments import checkpoints, console
from experiments.config import Config
from experiments.directory import RunDirectory

pytestmark = pytest.mark.failing_io


def _state():
  params = {
    'fc': {'kernel': jnp.arange(6.0).reshape(2, 3), 'bias': jnp.ones(3)}
  }
  tx = ong_jax.masked_transform(
    optax.adam(0.1), ong_jax.magnitude(sparsity=0.5)
  )
  return {'params': params, 'opt_state': tx.init(params)}


class RunDirectoryTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    self.path = pathlib.Path(self.create_tempdir().full_path) / 'run'
    self.directory = None

  def open(self, **fields):
    """Opens the directory, after what has it open is through with it."""
    if self.directory:
      self.directory.close()
    self.directory = None
    self.directory = RunDirectory(str(self.path))
    self.directory.take(Config(**fields))
    return self.directory

  def tearDown(self):
    if self.directory:
      self.directory.close()
    super().tearDown()

  @contextlib.contextmanager
  def log(self):
    """Collects what is said."""
    lines = []
    with mock.patch.object(console, 'log', lines.append):
      yield lines

  def metrics(self):
    text = (self.path / 'metrics.jsonl').read_text()
    return [json.loads(line)['step'] for line in text.splitlines()]

  def test_a_directory_is_taken_with_the_first_thing_that_is_written(self):
    self.open(seed=0)
    self.open(seed=1).log_metrics({'step': 0})
    with self.assertRaisesRegex(ValueError, r'another config: seed \(1 there'):
      self.open(seed=0)

  def test_refuses_a_run_that_has_lost_its_config(self):
    self.open().log_metrics({'step': 0})
    (self.path / 'config.json').unlink()
    with self.assertRaisesRegex(ValueError, 'holds a run, but no config.json'):
      self.open()

  def test_names_a_file_that_is_damaged(self):
    self.open()
    (self.path / 'config.json').write_text('')
    with self.assertRaisesRegex(ValueError, "config.json' is damaged"):
      self.open()

  def test_a_field_younger_than_the_run_had_its_default(self):
    self.open().log_metrics({'step': 0})
    file = self.path / 'config.json'
    fields = json.loads(file.read_text())
    del fields['label_smoothing']
    file.write_text(json.dumps(fields))
    self.open()
    with self.assertRaisesRegex(ValueError, r'label_smoothing \(0.0 there'):
      self.open(label_smoothing=0.1)

  def test_a_result_without_its_network_is_not_the_end(self):
    directory = self.open()
    directory.finish(_state()['params'], {}, {'kept': 3})
    shutil.rmtree(self.path / 'final')
    self.assertIsNone(directory.result())

  def test_refuses_the_directory_of_another_config(self):
    self.open(seed=0, sparsity=0.9).log_metrics({'step': 0})
    with self.assertRaisesRegex(
      ValueError,
      r'another config: seed \(0 there, 1 here\), sparsity \(0.9 there, 0.5',
    ):
      self.open(seed=1, sparsity=0.5)

  def test_takes_up_the_directory_of_the_same_config(self):
    self.open(image_mean=(0.1, 0.2, 0.3)).log_metrics({'step': 0})
    self.open(image_mean=(0.1, 0.2, 0.3))

  def test_forgets_what_a_resumed_run_writes_again(self):
    directory = self.open()
    for step in (10, 20, 30):
      directory.log_metrics({'step': step})
    with (self.path / 'metrics.jsonl').open('a') as file:
      file.write('{"step": 4')  # Killed while it wrote.
    directory.forget_metrics_after(20)
    lines = (self.path / 'metrics.jsonl').read_text().splitlines()
    self.assertEqual([json.loads(line)['step'] for line in lines], [10, 20])

  def test_a_finished_run_gives_back_its_network_and_result(self):
    directory = self.open(model='resnet8')
    self.assertIsNone(directory.result())
    params = _state()['params']
    directory.finish(params, {'bn1': {'mean': jnp.ones(2)}}, {'kept': 3})
    self.assertEqual(directory.result(), {'kept': 3})
    found, stats, config = checkpoints.load_final(str(self.path))
    chex.assert_trees_all_equal(found, jax.device_get(params))
    np.testing.assert_array_equal(stats['bn1']['mean'], np.ones(2))
    self.assertEqual(config['model'], 'resnet8')

  def test_a_damaged_result_is_made_anew(self):
    directory = self.open()
    directory.finish(_state()['params'], {}, {'kept': 3})
    for text in '', '[]', '{"kept": 3', '{"kept": 3}':
      (self.path / 'result.json').write_text(text)
      with self.log() as lines:
        self.assertIsNone(directory.result(console.describe))
      self.assertRegex(lines[0], "result.json' is damaged .*is made anew")

  def test_says_how_many_lines_cannot_be_read(self):
    directory = self.open()
    directory.log_metrics({'step': 1})
    with (self.path / 'metrics.jsonl').open('ab') as file:
      file.write(b'\xff\x00\n[1]\n{"step": "x"}\n{"loss": 1}\n')
    with self.log() as lines:
      found = directory.forget_metrics_after(9)
    self.assertEqual(found, [{'step': 1}])
    self.assertRegex(lines[0], '4 of the lines in .* cannot be read')

  def test_says_that_lines_are_gone(self):
    directory = self.open()
    with self.log() as lines:
      self.assertEqual(directory.forget_metrics_after(-1), [])
      self.assertEmpty(lines)
      directory.save(3, _state())  # Before the first line.
      self.assertEqual(directory.forget_metrics_after(3), [])
      self.assertEmpty(lines)
      (self.path / 'metrics.jsonl').unlink()
      self.assertEqual(directory.forget_metrics_after(3), [])
    self.assertRegex(lines[0], 'metrics.jsonl. is gone. .* before 3 will be mi')

  def test_refuses_a_place_where_no_checkpoints_can_be(self):
    self.path.mkdir()
    (self.path / 'checkpoints').write_text('x')
    with self.assertRaisesRegex(ValueError, "checkpoints' cannot be a direct"):
      self.open()

  def test_lines_wait_until_there_is_room_and_states_wait_for_them(self):
    directory = self.open()
    directory.log_metrics({'step': 1})
    with full_disk(), self.log() as lines:
      directory.log_metrics({'step': 2, 'text': 200 * 'x'})
      directory.save(2, _state())
    self.assertEqual(self.metrics(), [1])
    self.assertRegex(lines[0], 'Nothing can be written to .*File too large')
    self.assertFalse(directory.has(2))
    directory.log_metrics({'step': 3})
    self.assertEqual(self.metrics(), [1, 2, 3])
    directory.save(3, _state())
    self.assertTrue(directory.has(3))

  def test_a_result_that_cannot_be_stored_is_an_error(self):
    directory = self.open()
    with (
      full_disk(1),
      self.assertRaisesRegex(OSError, 'The network could not be stored in'),
    ):
      directory.finish(_state()['params'], {}, {'kept': 3})
    self.assertIsNone(directory.result())
    directory.finish(_state()['params'], {}, {'kept': 3})
    self.assertEqual(directory.result(), {'kept': 3})


if __name__ == '__main__':
  absltest.main()
