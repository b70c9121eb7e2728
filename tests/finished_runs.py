"""Finished runs for tests, without the training."""

import dataclasses
import json

import jax
import numpy as np

import ong_jax
from experiments import checkpoints, finished, groups, models, timing
from experiments.config import Config
from ong_jax import channels


def network(name, gone=()):
  """A network of which each of the groups in `gone` has lost some channels."""
  model = models.create(name, 10)
  rng = np.random.default_rng(0)
  variables = jax.tree.map(
    lambda leaf: np.float32(rng.uniform(0.1, 1, leaf.shape)),
    timing.shapes(model),
  )
  names = groups.names(model)
  sizes = groups.sizes(model)
  kept = {group: np.ones(size, bool) for group, size in sizes.items()}
  for group, num_gone in dict(gone).items():
    kept[group][1 : num_gone + 1] = False
    if num_gone == sizes[group]:
      kept[group][:] = False
  mask = channels.expand(names['params'], kept, variables['params'])
  params = jax.device_get(ong_jax.apply_mask(variables['params'], mask))
  mean, std = np.zeros(3, 'f4'), np.ones(3, 'f4')
  return finished.Network(model, params, variables['batch_stats'], mean, std)


def store(path, net, model, **fields):
  """Makes a directory such as a finished run leaves."""
  config = Config(
    model=model, image_mean=(0.5, 0.4, 0.3), image_std=(0.2, 0.3, 0.4)
  )
  checkpoints.store_final(path / 'final', net.params, net.batch_stats)
  fields = dataclasses.asdict(config) | fields
  (path / 'config.json').write_text(json.dumps(fields))
