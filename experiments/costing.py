"""What a network's channels cost, by the measure that a recipe names."""

import math
import os
from collections.abc import Callable

import flax.linen as nn

from experiments import console, groups, hosts, latency, operations, timing
from ong_jax.costs import Costs, macs_cost, weights_cost

_PER_BLOCK = 8  # Channels: fewer at a time make hardware no faster.
_FILE = 'latency.json'


def make_costs(
  model: nn.Module, batch_size: int, workdir: str | None
) -> Callable[[str], Costs]:
  """Makes `kind -> costs`, where kind is 'weights', 'macs' or 'latency'.

  A residual branch may lose all its hidden channels: its shortcut remains.
  Latencies are measured once, in evaluation of a batch, and kept in `workdir`:
  a run that resumes, here or elsewhere, goes on with the table that it began
  with.

  Args:
    model: a `models.ResNet`.
    batch_size: of which latency is measured.
    workdir: where `latency.json` is kept, if at all.

  Example:
    >>> from experiments import models
    >>> model = models.create('resnet8', num_classes=10)
    >>> costs = make_costs(model, batch_size=1, workdir=None)
    >>> costs('weights').blocks
    {'layer1_0': 8, 'layer2_0': 8, 'layer3_0': 8}
  """
  names = groups.names(model)['params']
  sizes = groups.sizes(model)
  blocks = {group: math.gcd(size, _PER_BLOCK) for group, size in sizes.items()}
  least = dict.fromkeys(groups.branches(model), 0)

  def costs(kind):
    shapes = timing.shapes(model)['params']
    if kind == 'weights':
      return weights_cost(names, shapes, blocks)._replace(least=least)
    if kind == 'macs':
      uses = operations.positions(model)
      return macs_cost(names, shapes, blocks, uses)._replace(least=least)
    # Of many processes the first one measures: their clocks differ.
    return latency.decode(hosts.from_first(lambda: latency.encode(measured())))

  def measured():
    path = workdir and os.path.join(workdir, _FILE)
    if path and os.path.exists(path):
      return latency.load(path)
    console.log('Measuring the latency of layers.')
    table = latency.measure(model, names, blocks, batch_size=batch_size)
    table = table._replace(least=least)
    if path:
      os.makedirs(workdir, exist_ok=True)
      latency.save(path, table)
    return table

  return costs
