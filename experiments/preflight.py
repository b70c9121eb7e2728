"""What a run would refuse, found out before any data is loaded."""

import dataclasses
import functools

import jax
import numpy as np

from experiments import (
  calibration,
  checkpoints,
  costing,
  data,
  groups,
  inputs,
  models,
  options,
  pretrained,
  subsets,
  tensor_files,
  timing,
)
from experiments.config import Config
from experiments.methods import METHODS
from experiments.plan import Run, Segment
from ong_jax.masks import num_kept
from ong_jax.selection import select

# Of the hundred runs of a study, most have one network.
_shapes = functools.lru_cache(timing.shapes)


def check(config: Config) -> None:
  """Plans a run from sizes alone, and raises what planning it raises.

  Args:
    config: whose fields and options were checked one by one.

  Raises:
    ValueError: batches, the sparsity or an option's value do not fit.
  """
  subsets.check(config)
  num_images = subsets.num_train(config)
  _, num_classes = data.SIZES[config.dataset]
  check_batch(config, num_images)
  model = models.create(
    config.model,
    num_classes,
    dtype=config.dtype,
    initializer=config.initializer,
  )
  shapes = _shapes(model)
  num_kept(select(shapes['params']), config.sparsity)
  if config.init_from and config.init_from.endswith(tensor_files.SUFFIXES):
    pretrained.load_torch(
      config.init_from, shapes['params'], shapes['batch_stats']
    )
  elif config.init_from:
    *_, before = checkpoints.load_final(config.init_from)
    subsets.check_unseen(config, before)
  num_steps = num_images // config.batch_size
  epochs = config.dense_epochs + config.epochs
  if epochs * num_steps >= 2**31:
    raise ValueError(
      f'`epochs` and `dense_epochs` must give fewer than 2**31 steps, got '
      f'{epochs:g} epochs of {num_steps}.'
    )
  recipe = METHODS[config.method].recipe
  if config.options.get('cost') == 'latency':
    return  # Its plan begins with measuring.
  given = options.complete(recipe, config.options, Run(config, num_steps))
  config = dataclasses.replace(config, options=given)
  images = inputs.Images(
    jax.ShapeDtypeStruct((num_images, 32, 32, 3), np.uint8),
    np.broadcast_to(np.int32(0), num_images),
  )
  plan = Run(
    config,
    num_steps,
    calibration.make(config, model, images),
    groups.names(model)['params'],
    costing.make_costs(model, config.batch_size, workdir=None),
  )
  check_parts(config, recipe(plan, **given))


def check_batch(config: Config, num_images: int) -> None:
  """Raises a `ValueError` for a batch larger than the training split."""
  if config.batch_size > num_images:
    raise ValueError(
      f'`batch_size`={config.batch_size} must not exceed the {num_images} '
      f'training images of {config.dataset}.'
    )


def check_parts(config: Config, segments: list[Segment]) -> None:
  """Raises a `ValueError` for a part of no steps, but for the last one."""
  if any(segment.steps == 0 for segment in segments[:-1]):
    raise ValueError(
      f'`{config.method}` would make {[s.steps for s in segments]} steps, one '
      'number for each of its parts; only the last may be 0. Give it more '
      '`epochs`, or other options.'
    )
