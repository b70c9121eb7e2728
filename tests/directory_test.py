import json
import pathlib
import shutil

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl.testing import absltest

import ong_jax
from experiments import checkpoints
from experiments.config import Config
from experiments.directory import RunDirectory


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
    self.lines = []
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

  def restore(self, directory):
    abstract = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
      _state(),
    )
    return directory.restore(lambda step: abstract)

  def test_restores_masks_and_moments_to_the_bit(self):
    directory = self.open()
    directory.save(3, _state())
    found = self.restore(self.open())
    chex.assert_trees_all_equal(found, _state())
    self.assertIsNone(found['opt_state'].mask['fc']['bias'])
    self.assertEmpty(self.lines)

  def test_an_empty_directory_has_nothing_to_restore(self):
    self.assertIsNone(self.restore(self.open()))

  def test_refuses_a_second_process(self):
    first = self.open()
    with self.assertRaisesRegex(ValueError, 'Another process runs in .*run'):
      RunDirectory(str(self.path))
    first.close()
    self.open()

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

  def test_an_unfinished_run_has_no_network(self):
    self.open()
    with self.assertRaisesRegex(
      ValueError, '`init_from`: .*run.* is neither an .npz file nor'
    ):
      checkpoints.load_final(str(self.path))


if __name__ == '__main__':
  absltest.main()
