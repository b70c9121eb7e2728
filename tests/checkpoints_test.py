import json
import pathlib
import shutil

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from absl.testing import absltest
from full_disk import full_disk

import ong_jax
from experiments import checkpoints

pytestmark = pytest.mark.failing_io


def _state():
  params = {
    'fc': {'kernel': jnp.arange(6.0).reshape(2, 3), 'bias': jnp.ones(3)}
  }
  tx = ong_jax.masked_transform(
    optax.adam(0.1), ong_jax.magnitude(sparsity=0.5)
  )
  return {'params': params, 'opt_state': tx.init(params)}


def _shapes(step):
  del step
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
    _state(),
  )


def _files(path):
  return sorted(x for x in path.rglob('*') if x.is_file())


class CheckpointsTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    self.path = pathlib.Path(self.create_tempdir().full_path, 'checkpoints')
    self.lines = []

  def open(self):
    found = checkpoints.Checkpoints(self.path, self.lines.append)
    self.addCleanup(found.close)
    return found

  def write(self, *steps):
    """Saves the state at steps; the later ones are zeros."""
    directory, state = self.open(), _state()
    for step in steps:
      directory.save(step, state)
      state = jax.tree.map(jnp.zeros_like, state)
    directory.close()

  def names(self):
    return sorted(x.name for x in self.path.iterdir())

  def test_restores_masks_and_moments_to_the_bit(self):
    self.write(3)
    found = self.open().restore(_shapes)
    chex.assert_trees_all_equal(found, _state())
    self.assertIsNone(found['opt_state'].mask['fc']['bias'])
    self.assertEmpty(self.lines)

  def test_an_empty_directory_has_nothing_to_restore(self):
    self.assertIsNone(self.open().restore(_shapes))

  def test_keeps_the_newest_two(self):
    self.write(1, 2, 3)
    self.assertEqual(self.names(), ['2', '3'])

  def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(self):
    self.write(1, 2)
    for file in _files(self.path / '2'):
      file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    found = self.open().restore(_shapes)
    chex.assert_trees_all_equal(found, _state())
    self.assertLen(self.lines, 1)
    self.assertRegex(self.lines[0], 'Checkpoint 2 cannot be used: it cannot be')
    self.assertRegex(self.lines[0], 'checkpoint 1 is used')
    self.assertTrue((self.path.parent / 'damaged-2-1').exists())
    self.assertEqual(self.names(), ['1'])

  def test_a_half_deleted_checkpoint_does_not_hide_the_one_before_it(self):
    self.write(1, 2)
    for file in (self.path / '2').iterdir():
      if file.is_dir():
        shutil.rmtree(file)
    found = self.open().restore(_shapes)
    chex.assert_trees_all_equal(found, _state())
    self.assertLen(self.lines, 1)

  def test_a_bit_that_has_changed_is_never_taken_for_the_state(self):
    self.write(1)
    rng = np.random.default_rng(0)
    refused, files = 0, _files(self.path / '1')
    for file in files:
      before = file.read_bytes()
      for position in rng.integers(0, max(len(before), 1), size=4):
        if not before:
          continue
        after = bytearray(before)
        after[position] ^= 1 << int(rng.integers(8))
        file.write_bytes(after)
        try:
          found = self.open().restore(_shapes)
        except ValueError:
          refused += 1
        else:  # It was none of those that matter.
          chex.assert_trees_all_equal(found, _state())
      file.write_bytes(before)
    self.assertGreater(refused, len(files) // 4)

  def test_damage_that_can_be_read_is_found_by_the_fingerprint(self):
    directory, state = self.open(), _state()
    item = {'state': state, 'fingerprint': checkpoints._fingerprint(state)}
    state['params']['fc']['kernel'] += jnp.eye(2, 3) * 1e-7
    directory._manager.save(
      1, args=checkpoints.ocp.args.StandardSave(item | {'state': state})
    )
    directory.close()
    with self.assertRaisesRegex(
      ValueError, "1: the bits of leaf 'params/fc/kernel' have changed"
    ):
      self.open().restore(_shapes)

  def test_refuses_to_begin_anew_where_all_is_damaged(self):
    self.write(1, 2)
    for step in '12':
      shutil.rmtree(self.path / step / 'default')
    with self.assertRaisesRegex(
      ValueError, r"No checkpoint in '.*' can be used \(2: .*; 1: .*Nothing was"
    ):
      self.open().restore(_shapes)
    self.assertEqual(self.names(), ['1', '2'])

  def test_a_full_disk_is_said_and_the_next_save_is_made(self):
    directory = self.open()
    directory.save(1, _state())
    self.assertTrue(directory.has(1))
    with full_disk():
      directory.save(2, _state())
      self.assertFalse(directory.has(2))
    self.assertRegex(
      self.lines[0], r"A save in '.*' failed \(.*the last is of step 1"
    )
    directory.save(3, _state())
    self.assertTrue(directory.has(3))
    self.assertLen(self.lines, 1)
    directory.save(4, _state())
    directory.close()
    self.assertEqual(self.names(), ['3', '4'])
    chex.assert_trees_all_equal(self.open().restore(_shapes), _state())


_CONFIG = {'epochs': 1, 'dense_epochs': 0, 'image_mean': [], 'image_std': []}


class FinalTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    self.path = pathlib.Path(self.create_tempdir().full_path)
    self.trees = (
      {'fc': {'kernel': np.arange(6.0, dtype=np.float32).reshape(2, 3)}},
      {'bn1': {'mean': np.ones(2, np.float32)}},
    )

  def store(self):
    checkpoints.store_final(self.path / 'final', *self.trees)
    (self.path / 'config.json').write_text(json.dumps(_CONFIG))

  def test_gives_back_network_and_config(self):
    self.store()
    for path in (self.path, self.path / 'final'):
      params, stats, config = checkpoints.load_final(str(path))
      chex.assert_trees_all_equal((params, stats), self.trees)
      self.assertEqual(config, _CONFIG)

  def test_a_network_without_statistics(self):
    self.trees = self.trees[0], {}
    self.store()
    params, stats, _ = checkpoints.load_final(str(self.path))
    chex.assert_trees_all_equal(params, self.trees[0])
    self.assertEqual(stats, {})

  def test_names_what_is_damaged(self):
    self.store()
    (self.path / 'config.json').write_text('{')
    with self.assertRaisesRegex(ValueError, '`init_from`: .* is damaged'):
      checkpoints.load_final(str(self.path))
    self.store()
    for file in _files(self.path / 'final'):
      file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with self.assertRaisesRegex(
      ValueError, '`init_from`: .* is damaged .it cannot be read'
    ):
      checkpoints.load_final(str(self.path))

  def test_names_what_its_config_lacks(self):
    for config in '{}', '[]', '3', '{"epochs": 1}':
      self.store()
      (self.path / 'config.json').write_text(config)
      with self.assertRaisesRegex(ValueError, '`init_from`: .* is damaged'):
        checkpoints.load_final(str(self.path))

  def test_an_unfinished_run_has_no_network(self):
    with self.assertRaisesRegex(
      ValueError, '`init_from`: .* is neither an .npz or'
    ):
      checkpoints.load_final(str(self.path))

  def test_a_full_disk_is_an_error(self):
    with (
      full_disk(),
      self.assertRaisesRegex(OSError, 'The network could not be stored in'),
    ):
      self.store()


if __name__ == '__main__':
  absltest.main()
