"""What a network's channels cost, by the measure that a recipe names."""

import os
from collections.abc import Callable

import flax.linen as nn

from experiments import groups, latency, operations, report, timing
from ong_jax.costs import Costs, macs_cost, weights_cost

_BLOCKS = 8  # Of each group: channels come and go an eighth at a time.
_FILE = 'latency.json'


def make_costs(
  model: nn.Module, batch_size: int, workdir: str | None
) -> Callable[[str], Costs]:
  """Makes `kind -> costs`, where kind is 'weights', 'macs' or 'latency'.

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
    {'layer1_0': 2, 'layer2_0': 4, 'layer3_0': 8}
  """
  names = groups.names(model)['params']
  blocks = {
    group: max(1, size // _BLOCKS)
    for group, size in groups.sizes(model).items()
  }

  def costs(kind):
    shapes = timing.shapes(model)['params']
    if kind == 'weights':
      return weights_cost(names, shapes, blocks)
    if kind == 'macs':
      return macs_cost(names, shapes, blocks, operations.positions(model))
    path = workdir and os.path.join(workdir, _FILE)
    if path and os.path.exists(path):
      return latency.load(path)
    report.log('Measuring the latency of layers.')
    table = latency.measure(model, names, blocks, batch_size=batch_size)
    if path:
      os.makedirs(workdir, exist_ok=True)
      latency.save(path, table)
    return table

  return costs
