"""How long each layer of a network takes on the machine at hand, by width."""

import functools
import itertools
import json
import os
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np

from experiments import timing
from ong_jax import channels, costs
from ong_jax.costs import Costs, LayerCost


class Layer(NamedTuple):
  """A convolution or dense layer as it is met in the network."""

  path: tuple[str, ...]  # Of the module.
  module: nn.Module  # Of no network: it can be applied by itself.
  input_shape: tuple[int, ...]  # [batch, ..., channels].


def measure(
  model: nn.Module,
  names: Any,
  blocks: dict[str, int],
  *,
  batch_size: int,
  image_shape: tuple[int, int, int] = (32, 32, 3),
  num_widths: int = 4,
  repeats: int = 15,
  clock: Callable[[], int] = time.perf_counter_ns,
) -> Costs:
  """Measures the table of latencies that a network is pruned by.

  Each layer that reads or writes a group is timed by itself, followed by
  BatchNorm and ReLU, at a few widths of each group from one block to all. What
  lies between is interpolated, and made `costs.rising`. `rest` is what the
  whole network takes beyond the sum of these layers, so for the whole network
  the prediction is the measurement, unless the layers alone take longer.

  Args:
    model: a network of `nn.Conv` and `nn.Dense`, with BatchNorm, at full width.
    names: tree of `PartitionSpec` like its params, such as `groups.names` has.
    blocks: channels per block of each group.
    batch_size: images at a time.
    image_shape: height, width and channels of an image.
    num_widths: of a group at which a layer is timed, at most; at least 2.
    repeats: of each time, whose median is taken; a first call comes before.
    clock: in nanoseconds; see `timing`.

  Returns:
    Costs in microseconds for a batch.

  Raises:
    ValueError: names, blocks and network do not fit together, or a convolution
      is grouped.

  Example:
    >>> from experiments import groups, models
    >>> model = models.ResNet((1,), width=4, projection=False, num_classes=5)
    >>> table = measure(
    ...   model,
    ...   groups.names(model)['params'],
    ...   blocks={'layer1_0': 1},
    ...   batch_size=1,
    ...   image_shape=(8, 8, 3),
    ...   num_widths=2,
    ...   repeats=1,
    ... )
    >>> [layer.table.shape for layer in table.layers]
    [(1, 5), (5, 1)]
  """
  if num_widths < 2 or repeats < 1:
    raise ValueError(
      '`num_widths` must be at least 2 and `repeats` 1, got '
      f'{num_widths} and {repeats}.'
    )
  shapes = timing.shapes(model, 1, image_shape)
  costs.check_blocks(blocks, channels.sizes(names, shapes['params']))
  plan = _plan(
    find_layers(model, batch_size, image_shape), names, blocks, num_widths
  )
  calls = {case: _alone(*case) for timed in plan for case in timed.cases}
  whole = timing.network_call(
    model, timing.fill(shapes), batch_size, image_shape
  )
  times = timing.time_in_turns({None: whole} | calls, repeats, clock)
  tables = [
    LayerCost(
      *p.groups, _interpolate([times[c] for c in p.cases], p.groups, p.knots)
    )
    for p in plan
  ]
  rest = times[None] - sum(int(layer.table[-1, -1]) for layer in tables)
  return Costs(dict(blocks), tables, max(0, rest))


def find_layers(
  model: nn.Module,
  batch_size: int,
  image_shape: tuple[int, int, int] = (32, 32, 3),
) -> list[Layer]:
  """Traces a network for its convolutions and dense layers, in order.

  Example:
    >>> from experiments import models
    >>> layers = find_layers(models.create('resnet8', 10), batch_size=4)
    >>> len(layers), layers[-1].path, layers[-1].input_shape
    (8, ('linear',), (4, 64))
  """
  layers = []

  def look(call, args, kwargs, context):
    module = context.module
    if context.method_name == '__call__' and isinstance(
      module, (nn.Conv, nn.Dense)
    ):
      if getattr(module, 'feature_group_count', 1) != 1:
        raise ValueError(
          f"Layer '{'/'.join(module.path)}' is a grouped convolution."
        )
      alone = module.clone(parent=None, name=None)
      layers.append(Layer(module.path, alone, args[0].shape))
    return call(*args, **kwargs)

  with nn.intercept_methods(look):
    timing.shapes(model, batch_size, image_shape)
  return layers


def save(path: str | os.PathLike, table: Costs) -> None:
  """Writes costs as JSON, so that a run goes on with the table it began with.

  Example:
    >>> import tempfile
    >>> path = f'{tempfile.mkdtemp()}/latency.json'
    >>> table = Costs({'a': 2}, [LayerCost(None, 'a', np.array([[0, 5]]))], 1)
    >>> save(path, table)
    >>> load(path).layers
    [LayerCost(inputs=None, outputs='a', table=array([[0, 5]]))]
  """
  with open(f'{path}.part', 'w') as file:
    json.dump(encode(table), file)
  os.replace(f'{path}.part', path)


def load(path: str | os.PathLike) -> Costs:
  """Reads what `save` wrote.

  Raises:
    ValueError: the file does not hold costs.

  Example:
    >>> load('/dev/null')
    Traceback (most recent call last):
      ...
    ValueError: '/dev/null' does not hold costs (Expecting value: line 1 \
column 1 (char 0)).
  """
  try:
    with open(path) as file:
      table = decode(json.load(file))
    costs.num_blocks(table)
  except (TypeError, KeyError, AttributeError, ValueError) as error:
    raise ValueError(f"'{path}' does not hold costs ({error}).") from error
  return table


def encode(table: Costs) -> dict[str, Any]:
  """Turns costs into what JSON holds."""
  layers = [
    layer._asdict() | {'table': np.asarray(layer.table).tolist()}
    for layer in table.layers
  ]
  return table._replace(layers=layers)._asdict()


def decode(found: dict[str, Any]) -> Costs:
  """Turns it back."""
  layers = [
    LayerCost(**layer)._replace(table=np.array(layer['table'], np.int64))
    for layer in found['layers']
  ]
  return Costs(**found)._replace(layers=layers)


class _Timed(NamedTuple):
  """A layer that belongs to a group, and at which widths it is timed."""

  groups: tuple[str | None, str | None]  # Of inputs and outputs.
  knots: tuple[list[int], list[int]]  # Numbers of blocks of either.
  # The layer at every width of its outputs, and the shape of its inputs: row by
  # row of the table. Equal ones are timed once.
  cases: list[tuple[nn.Module, tuple[int, ...]]]


def _plan(
  layers: list[Layer], names: Any, blocks: dict[str, int], num_widths: int
) -> list[_Timed]:
  plan = []
  for path, module, shape in layers:
    kernel = functools.reduce(lambda node, name: node[name], path, names)
    groups = tuple(kernel['kernel'])[-2:]
    if not any(groups):
      continue
    full = shape[-1], module.features
    knots = tuple(
      [1] if group is None else _knots(size // blocks[group], num_widths)
      for group, size in zip(groups, full)
    )
    units = (blocks.get(g, size) for g, size in zip(groups, full))
    inputs, outputs = ([k * unit for k in ks] for ks, unit in zip(knots, units))
    cases = [
      (module.clone(features=o), (*shape[:-1], i))
      for i, o in itertools.product(inputs, outputs)
    ]
    plan.append(_Timed(groups, knots, cases))
  return plan


def _knots(num_blocks: int, num_widths: int) -> list[int]:
  """Spreads numbers of blocks evenly from one to all."""
  at = np.linspace(1, num_blocks, num_widths).round().astype(int)
  return np.unique(at).tolist()


def _alone(module: nn.Module, input_shape: tuple[int, ...]) -> Callable:
  """Returns the call of a layer, BatchNorm and ReLU."""
  norm = nn.BatchNorm(use_running_average=True, dtype=module.dtype)
  layer = nn.Sequential([module, norm, nn.relu])
  images = timing.images(*input_shape)
  shapes = jax.eval_shape(layer.init, jax.random.key(0), images)
  return functools.partial(jax.jit(layer.apply), timing.fill(shapes), images)


def _interpolate(
  times: list[int],
  groups: tuple[str | None, str | None],
  knots: tuple[list[int], list[int]],
) -> np.ndarray:
  """Fills a table between the numbers of blocks; no block costs 0."""
  table = np.reshape(np.array(times, float), [len(k) for k in knots])
  for axis, (group, known) in enumerate(zip(groups, knots)):
    if group is not None:
      at = np.arange(1, known[-1] + 1)
      table = np.apply_along_axis(
        lambda y, x=known, at=at: np.interp(at, x, y), axis, table
      )
      table = np.insert(table, 0, 0, axis)
  return costs.rising(np.rint(table).astype(np.int64))
