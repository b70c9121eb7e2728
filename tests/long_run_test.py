import contextlib
import functools
import gc
import os
import pathlib
import time
from typing import NamedTuple
from unittest import mock

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from absl.testing import absltest

from experiments import (
  data,
  evaluation,
  handover,
  inputs,
  operations,
  segments,
  sharding,
)
from experiments.config import Config
from experiments.directory import RunDirectory
from experiments.plan import Run
from experiments.recipes import cycles

_MIB = 2**20


class Tiny(nn.Module):
  """A layer and a BatchNorm on a few pixels."""

  num_classes: int = 10
  bn_momentum: float = 0.9

  @nn.compact
  def __call__(self, x, train):
    x = x[:, ::8, ::8].reshape(len(x), -1)
    x = nn.BatchNorm(not train, momentum=self.bn_momentum, name='norm')(x)
    return nn.Dense(self.num_classes, name='linear')(x)


class Usage(NamedTuple):
  """What a process holds."""

  memory: int  # Bytes that are resident.
  files: int
  threads: int  # Of Python and of XLA.
  arrays: int
  array_memory: int  # Bytes.


def usage():
  """Measures it, after what is garbage was collected."""
  gc.collect()
  arrays = jax.live_arrays()
  pages = int(pathlib.Path('/proc/self/statm').read_text().split()[1])
  return Usage(
    pages * os.sysconf('SC_PAGE_SIZE'),
    len(os.listdir('/proc/self/fd')),
    len(os.listdir('/proc/self/task')),
    len(arrays),
    sum(x.nbytes for x in arrays),
  )


def least(usages):
  """The least of each kind: what a save in the background needs, goes again."""
  return Usage(*map(min, zip(*usages)))


class LongRunTest(absltest.TestCase):
  """384 steps to warm up, then 2,048 in two segments, with pruning before each.

  A save at every 32nd step, in the background as ever.
  """

  def setUp(self):
    super().setUp()
    # As on an accelerator, where a call is an epoch. By fours there would be
    # 600 saves, which take a minute.
    self.enter_context(mock.patch.object(segments, '_CPU_STEPS', 32))
    self.path = self.create_tempdir().full_path
    self.usages, self.saved = [], set()

  def run_segments(self):
    dataset = data.load('synthetic')
    config = Config(
      method='imp',
      sparsity=0.9,
      dataset='synthetic',
      batch_size=16,
      dense_epochs=12,
      epochs=64,
      image_mean=(0.5,) * 3,
      image_std=(0.25,) * 3,
    )
    mesh = sharding.make_mesh(1, config.batch_size, jax.devices()[:2])
    model = Tiny()
    init = functools.partial(model.init, train=False)
    variables = jax.jit(init)(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    accuracy = evaluation.make_evaluate(config, model, mesh)

    def evaluate(*arguments):
      self.wait_for_the_save()
      self.usages.append(usage())
      return accuracy(*arguments)

    setup = handover.Setup(
      config=config,
      model=model,
      mesh=mesh,
      train_data=sharding.replicate(
        mesh, inputs.Images(dataset.train_images, dataset.train_labels)
      ),
      test_data=inputs.Images(dataset.test_images, dataset.test_labels),
      steps_per_epoch=32,
      macs=operations.macs(model),
      evaluate=evaluate,
      reestimate=evaluation.make_reestimate(config, model, mesh),
    )
    plan = cycles.imp(Run(config, steps_per_epoch=32), phases=2)
    self.assertEqual([segment.steps for segment in plan], [384, 1024, 1024])
    directory = RunDirectory(self.path)
    directory.take(config)
    with contextlib.closing(directory):
      return segments.run_segments(
        setup,
        plan,
        variables['params'],
        variables['batch_stats'],
        directory,
        save_every_s=0,
      )

  def wait_for_the_save(self):
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
      names = os.listdir(pathlib.Path(self.path, 'checkpoints'))
      self.saved.update(name for name in names if name.isdigit())
      if not any('orbax-checkpoint-tmp' in name for name in names):
        break
      time.sleep(0.002)

  @pytest.mark.slow
  def test_nothing_piles_up(self):
    outcome = self.run_segments()
    self.assertLen(outcome.prunings, 2)
    self.assertGreater(len(self.saved), 60)
    # By the second epoch after the first pruning all was done once. Epochs are
    # compared with epochs: before pruning there is less.
    first, last = least(self.usages[16:24]), least(self.usages[-8:])
    self.assertLessEqual(last.arrays, first.arrays)
    self.assertLessEqual(last.array_memory, first.array_memory)
    # One more for each save would be 60.
    self.assertLessEqual(last.files, first.files + 6)
    self.assertLessEqual(last.threads, first.threads + 6)
    # Seen were 1.5 to 9 MiB, of which most is what the second pruning compiles;
    # after it, 1, which Orbax leaves: 25 KiB a save. The test images, kept once
    # an epoch, made it 4.5.
    self.assertLess(last.memory - first.memory, 16 * _MIB)
    after_pruning = least(self.usages[50:58])
    self.assertLess(last.memory - after_pruning.memory, 3 * _MIB)
    ended = usage()
    self.assertLessEqual(ended.files, self.usages[0].files)
    self.assertLessEqual(ended.threads, self.usages[0].threads + 2)


if __name__ == '__main__':
  absltest.main()
