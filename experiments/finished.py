"""The network of a finished run, at its full width or without dead channels."""

import os
import pathlib
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
from flax import traverse_util
from flax.core import FrozenDict

from experiments import checkpoints, groups, models
from ong_jax import channels, selection
from ong_jax.types import Mask


class Network(NamedTuple):
  """A network with all that is needed to run it."""

  model: nn.Module
  params: Any
  batch_stats: Any
  image_mean: np.ndarray  # float32 [3]: it sees (pixel / 255 - mean) / std.
  image_std: np.ndarray  # float32 [3]


def load(run: str) -> Network:
  """Reads the network of a finished run.

  Args:
    run: its directory.

  Returns:
    The network, whose model computes in float32 whatever the run did.

  Raises:
    ValueError: there is no finished run, or it is damaged.
  """
  directory = pathlib.Path(os.path.expanduser(run))
  if not (directory / 'final').exists():
    raise ValueError(
      f"RUN must be the `--workdir` of a finished run; '{run}' has no folder "
      '`final`. A run that was stopped is finished by the command that began '
      'it.'
    )
  params, stats, config = checkpoints.load_final(run)
  if 'model' not in config or 'linear' not in params:
    raise ValueError(
      f"'{run}' does not say which of experiments/models.py it holds. Pass "
      'the `--workdir` of another run.'
    )
  model = models.create(config['model'], params['linear']['bias'].size)
  mean, std = np.float32(config['image_mean']), np.float32(config['image_std'])
  return Network(model, params, stats, mean, std)


def mask_of(network: Network) -> Mask:
  """Returns the mask of the params: what is not 0.

  A run stores no mask with its network. A kept weight that is exactly 0, which
  training hardly makes, counts as pruned.

  Example:
    >>> params = {'fc': {'kernel': np.array([[1.0, 0.0]]), 'bias': np.ones(2)}}
    >>> mask_of(Network(None, params, {}, None, None))
    {'fc': {'bias': None, 'kernel': array([[ True, False]])}}
  """
  return jax.tree.map(
    lambda x: np.asarray(x) != 0, selection.select(network.params)
  )


def shrink(network: Network) -> tuple[Network, dict[str, int]]:
  """Takes out the channels of which nothing is left.

  Args:
    network: at full width.

  Returns:
    A network that computes the same with smaller arrays, and how many channels
    were taken out of each group that lost any. If there are none, the network
    is as it was.

  Raises:
    ValueError: no channel of a residual stream is left.
  """
  names = groups.names(network.model)
  nonzero = jax.tree.map(lambda x: np.asarray(x) != 0, network.params)
  kept = jax.device_get(channels.collapse(names['params'], nonzero))
  gone = {name: int(np.sum(~k)) for name, k in kept.items() if not k.all()}
  if not gone:
    return network, {}
  widths = channels.widths(kept)
  for name in gone.keys() - {*groups.branches(network.model)}:
    if not widths[name]:
      raise ValueError(
        f"Of the residual stream '{name}' no channel is left: all logits are "
        'constant. Pass --noshrink, or another run.'
      )
  variables = {'params': network.params, 'batch_stats': network.batch_stats}
  variables = channels.shrink(variables, names, kept)
  flat = traverse_util.flatten_dict(variables)
  # A branch without channels has no layers, for which arrays of size 0 remain.
  variables = traverse_util.unflatten_dict(
    {path: x for path, x in flat.items() if x.size}
  )
  model = network.model.clone(widths=FrozenDict(widths))
  return network._replace(model=model, **variables), gone
