"""Which channels of a residual network have to be pruned together."""

from collections.abc import Iterator
from typing import Any

import flax.linen as nn
from flax import traverse_util
from jax.sharding import PartitionSpec


def sizes(model: nn.Module) -> dict[str, int]:
  """Returns the groups of a network and the channels of each at full width.

  The hidden channels of a block are a group, under the block's name. With
  projections every residual stream is one too: all that is added up in a stage
  lives and dies together, and the stem joins the first stage, whose shortcuts
  are identities. Without them a stream stays whole, because padding with zeros
  ties it to the next one at an offset.

  Args:
    model: a `models.ResNet`, whose `widths` are not looked at.

  Example:
    >>> from experiments import models
    >>> sizes(models.create('resnet8', num_classes=10))
    {'layer1_0': 16, 'layer2_0': 32, 'layer3_0': 64}

  References:
    The grouping of NVlabs/HALP, rn50_prune_layer.json.
  """
  found = {}
  for i, num_blocks in enumerate(model.num_blocks):
    names = [f'layer{i + 1}_{j}' for j in range(num_blocks)]
    if model.projection and names:
      names.insert(0, f'stage{i + 1}')
    found |= dict.fromkeys(names, model.width * 2**i)
  return found


def branches(model: nn.Module) -> list[str]:
  """Returns the groups that may lose all channels, as a shortcut remains.

  Example:
    >>> from experiments import models
    >>> branches(models.create('resnet8', num_classes=10))
    ['layer1_0', 'layer2_0', 'layer3_0']
  """
  return [
    f'layer{i + 1}_{j}'
    for i, num_blocks in enumerate(model.num_blocks)
    for j in range(num_blocks)
  ]


def names(model: nn.Module) -> dict[str, Any]:
  """Names the group of every axis, for `ong_jax.channels`.

  Args:
    model: a `models.ResNet`.

  Returns:
    Tree like the model's variables, `params` and `batch_stats`. Each leaf is a
    `PartitionSpec` with an entry per axis: the axis's group, or None.

  Example:
    >>> from experiments import models
    >>> tree = names(models.create('resnet8', num_classes=10))
    >>> tuple(tree['params']['layer1_0']['conv2']['kernel'])
    (None, None, 'layer1_0', None)
    >>> tuple(tree['batch_stats']['layer1_0']['bn1']['mean'])
    ('layer1_0',)
  """
  params, stats = {}, {}
  for conv, norm, inputs, outputs in _layers(model):
    params[f'{conv}/kernel'] = PartitionSpec(None, None, inputs, outputs)
    per_channel = PartitionSpec(outputs)
    params |= dict.fromkeys((f'{norm}/scale', f'{norm}/bias'), per_channel)
    stats |= dict.fromkeys((f'{norm}/mean', f'{norm}/var'), per_channel)
    last = outputs
  params['linear/kernel'] = PartitionSpec(last, None)
  params['linear/bias'] = PartitionSpec(None)
  return {
    'params': traverse_util.unflatten_dict(params, sep='/'),
    'batch_stats': traverse_util.unflatten_dict(stats, sep='/'),
  }


def _layers(
  model: nn.Module,
) -> Iterator[tuple[str, str, str | None, str | None]]:
  """Yields a convolution, its normalisation, and the groups it joins.

  The last one writes to the stream that the classifier reads.
  """
  known = sizes(model)
  stream = 'stage1' if 'stage1' in known else None
  yield 'conv1', 'bn1', None, stream
  for i, num_blocks in enumerate(model.num_blocks):
    for j in range(num_blocks):
      block = f'layer{i + 1}_{j}'
      inputs, stream = stream, f'stage{i + 1}' if model.projection else None
      yield f'{block}/conv1', f'{block}/bn1', inputs, block
      if model.projection and i > 0 and j == 0:
        shortcut = f'{block}/shortcut_conv', f'{block}/shortcut_bn'
        yield *shortcut, inputs, stream
      yield f'{block}/conv2', f'{block}/bn2', block, stream
