"""A run, from a config to a result."""

import contextlib
import dataclasses
import json
import time
import zlib
from typing import Any

import flax
import jax
import numpy as np
import optax

from experiments import (
  calibration,
  console,
  costing,
  data,
  evaluation,
  groups,
  hosts,
  inputs,
  metrics,
  models,
  networks,
  operations,
  options,
  preflight,
  sharding,
  signals,
  subsets,
)
from experiments import tensorboard as board
from experiments.config import Config, check
from experiments.directory import RunDirectory
from experiments.handover import Setup
from experiments.methods import METHODS
from experiments.plan import Run
from experiments.segments import run_segments
from ong_jax.masks import num_kept
from ong_jax.selection import select


def run(
  config: Config,
  *,
  data_dir: str | None = None,
  workdir: str | None = None,
  save_every_s: float = 60,
  tensorboard: bool = False,
) -> dict[str, Any]:
  """Prunes and trains, and says how good the network is.

  Args:
    config: what decides the numbers.
    data_dir: where TFDS keeps its data sets; see `data.load`.
    workdir: directory for checkpoints and results. A run that was stopped
      there goes on; one that is finished is not run again. Nothing is stored
      without it.
    save_every_s: seconds between two checkpoints, at least; what a crash costs
      at most, beside the step in flight.
    tensorboard: whether to write the lines of `metrics.jsonl` as events, too,
      into `tensorboard` in the workdir.

  Returns:
    The contents of `result.json`. Its `seconds` and `steps_per_second` are of
    this process alone; `resumed_at_step` tells whether there was one before.

  Raises:
    ValueError: a value of the config makes no sense, or `workdir` belongs to
      another config, cannot be written, or has no undamaged checkpoint.
    OSError: the result cannot be stored.
    FileNotFoundError: the data set is not there and cannot be downloaded.
    signals.Interrupted: on SIGINT or SIGTERM, after a save.
  """
  started = time.monotonic()
  if not save_every_s >= 0:
    raise ValueError(f'`save_every_s` must be at least 0, got {save_every_s}.')

  def ready():
    if tensorboard and not workdir:
      raise ValueError('`tensorboard` needs a `workdir` to write to.')
    if tensorboard:
      board.check()
    return checked(config)

  config = hosts.together(ready)
  hosts.together(
    lambda: sharding.make_mesh(config.model_parallel, config.batch_size)
  )
  # Who has a directory makes other calls than who has none.
  hosts.check_same('workdir (given, or not)', np.uint32(bool(workdir)))
  with contextlib.ExitStack() as stack:
    directory = None
    if workdir:
      directory = RunDirectory(workdir)
      stack.enter_context(contextlib.closing(directory))
    shown = None
    if tensorboard:
      shown = board.Board(directory.path / 'tensorboard')
    return _run(config, data_dir, directory, save_every_s, started, shown)


def checked(config: Config) -> Config:
  """Returns the config with its options read; refuses what cannot run.

  Whatever the devices: these are looked at where it runs.

  Example:
    >>> checked(Config(method='imp', dense_epochs=1, options={'phases': '2'})
    ...        ).options
    {'phases': 2}
  """
  check(
    config,
    {
      'method': METHODS,
      'model': models.MODELS,
      'dataset': data.DATASETS,
      'initializer': models.INITIALIZERS,
    },
  )
  recipe = METHODS[config.method].recipe
  given = options.check(config.method, recipe, config.options)
  config = dataclasses.replace(config, options=given)
  preflight.check(config)
  return config


def _run(
  config: Config,
  data_dir: str | None,
  directory: RunDirectory | None,
  save_every_s: float,
  started: float,
  shown: board.Board | None,
) -> dict[str, Any]:
  """`run` in a directory that is locked."""
  text = json.dumps(dataclasses.asdict(config), sort_keys=True)
  hosts.check_same('config', np.uint32(zlib.crc32(text.encode())))
  hosts.from_first(lambda: data.ensure(config.dataset, data_dir))
  setup, params, stats = hosts.together(lambda: set_up(config, data_dir))
  num_kept(select(params), config.sparsity)  # Refused now, not when it prunes.
  plan = Run(
    setup.config,
    setup.steps_per_epoch,
    calibration.make(setup.config, setup.model, setup.train_data),
    groups.names(setup.model)['params'],
    costing.make_costs(
      setup.model, setup.config.batch_size, directory and directory.path
    ),
    networks.make_draw(setup.model),
  )
  recipe = METHODS[config.method].recipe
  segments = recipe(plan, **setup.config.options)
  preflight.check_parts(config, segments)
  if directory:
    directory.take(setup.config)
    if result := directory.result(console.describe):
      console.log(
        f"The run in '{directory.path}' is finished. This is its result."
      )
      console.log(console.describe(result))
      return result
  console.announce(
    setup.config,
    macs=sum(setup.macs.values()),
    num_images=len(setup.train_data.labels),
  )
  with signals.caught() as stop:
    outcome = run_segments(
      setup, segments, params, stats, directory, save_every_s, stop, shown
    )
    result = dataclasses.asdict(setup.config) | {
      'sparsity_asked': setup.config.sparsity,
      'test_accuracy': outcome.accuracy,
      **metrics.measure(outcome.params, outcome.mask, setup.macs),
      **metrics.connectivity(outcome.params, outcome.mask, setup.connected),
      **outcome.usage,
      'prunings': outcome.prunings,
      'seconds': time.monotonic() - started,
      'steps_per_second': outcome.steps_per_second,
      'resumed_at_step': outcome.resumed_at_step,
      'device': f'{jax.device_count()} x {jax.devices()[0].device_kind}',
      'versions': {m.__name__: m.__version__ for m in (jax, flax, optax, np)},
    }
    if directory:
      directory.finish(outcome.params, outcome.stats, result)
  console.log(console.describe(result))
  return result


def set_up(config: Config, data_dir: str | None) -> tuple[Setup, Any, Any]:
  """Loads the data and makes the network: setup, params, statistics."""
  mesh = sharding.make_mesh(config.model_parallel, config.batch_size)
  dataset = subsets.take(data.load(config.dataset, data_dir), config)
  num_images = len(dataset.train_labels)
  preflight.check_batch(config, num_images)
  model = models.create(
    config.model,
    dataset.num_classes,
    dtype=config.dtype,
    initializer=config.initializer,
  )
  if config.model_parallel > 1:
    model = model.clone(convolve=jax.lax.conv_general_dilated)
  params, stats, config = networks.initial(config, model, dataset)
  steps_per_epoch = num_images // config.batch_size
  recipe = METHODS[config.method].recipe
  config = dataclasses.replace(
    config,
    options=options.complete(
      recipe, config.options, Run(config, steps_per_epoch)
    ),
  )
  train_data = inputs.Images(dataset.train_images, dataset.train_labels)
  setup = Setup(
    config=config,
    model=model,
    mesh=mesh,
    train_data=sharding.replicate(mesh, train_data),
    test_data=inputs.Images(dataset.test_images, dataset.test_labels),
    steps_per_epoch=steps_per_epoch,
    macs=operations.macs(model),
    evaluate=evaluation.make_evaluate(config, model, mesh),
    reestimate=evaluation.make_reestimate(config, model, mesh),
    connected=metrics.make_connected(model),
  )
  return setup, params, stats
