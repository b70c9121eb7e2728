"""How long networks take on the machine at hand.

Times are of evaluation, in whole microseconds: medians of repeats that are
interleaved over everything that is compared, so that a slow moment of the
machine falls on all alike. The clock is the wall's. On one core of a machine
that others use too, `time.process_time_ns` counts what the process itself took;
on several cores it would count their sum.
"""

import functools
import math
import statistics
import time
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np


def network_latency(
  networks: Mapping[Hashable, tuple[nn.Module, Any]],
  *,
  batch_size: int,
  image_shape: tuple[int, int, int] = (32, 32, 3),
  repeats: int = 15,
  clock: Callable[[], int] = time.perf_counter_ns,
) -> dict[Hashable, int]:
  """Times networks in evaluation, in turns.

  Args:
    networks: for each name the module and its variables, `params` and
      `batch_stats`.
    batch_size: images at a time.
    image_shape: height, width and channels of an image.
    repeats: of each time, whose median is taken.
    clock: in nanoseconds.

  Returns:
    For each name the median in microseconds, for a batch.

  Example:
    >>> from experiments import models
    >>> model = models.ResNet((), width=4, projection=False, num_classes=5)
    >>> network = model, fill(shapes(model))
    >>> network_latency({'stem': network}, batch_size=2, repeats=3)['stem'] > 0
    True
  """
  calls = {
    name: network_call(model, variables, batch_size, image_shape)
    for name, (model, variables) in networks.items()
  }
  return time_in_turns(calls, repeats, clock)


def time_in_turns(
  calls: Mapping[Hashable, Callable[[], Any]],
  repeats: int,
  clock: Callable[[], int] = time.perf_counter_ns,
) -> dict[Hashable, int]:
  """Returns the median time of each call, in microseconds.

  Every call is made once before, to be compiled; then all are made in turns.

  Example:
    >>> times = time_in_turns({'sum': lambda: jnp.ones(3).sum()}, repeats=3)
    >>> times['sum'] > 0
    True
  """
  times = {name: [] for name in calls}
  for round_ in range(repeats + 1):
    for name, call in calls.items():
      start = clock()
      jax.block_until_ready(call())
      elapsed = clock() - start
      if round_:
        times[name].append(elapsed)
  return {k: round(statistics.median(ns) / 1e3) for k, ns in times.items()}


def network_call(
  model: nn.Module,
  variables: Any,
  batch_size: int,
  image_shape: tuple[int, int, int],
) -> Callable[[], jax.Array]:
  """Returns what evaluates a network on one batch, compiled at first call.

  Example:
    >>> from experiments import models
    >>> model = models.ResNet((), width=4, projection=False, num_classes=5)
    >>> call = network_call(model, fill(shapes(model)), 2, (8, 8, 3))
    >>> call().shape
    (2, 5)
  """
  forward = jax.jit(lambda v, x: model.apply(v, x, train=False))
  return functools.partial(forward, variables, images(batch_size, *image_shape))


def shapes(
  model: nn.Module,
  batch_size: int = 1,
  image_shape: tuple[int, int, int] = (32, 32, 3),
) -> Any:
  """Returns the shapes of a network's variables, by tracing.

  Example:
    >>> from experiments import models
    >>> model = models.ResNet((), width=4, projection=False, num_classes=5)
    >>> shapes(model)['params']['conv1']['kernel'].shape
    (3, 3, 3, 4)
  """
  inputs = jax.ShapeDtypeStruct((batch_size, *image_shape), jnp.float32)
  init = functools.partial(model.init, train=False)
  return jax.eval_shape(init, jax.random.key(0), inputs)


def fill(shapes: Any) -> Any:
  """Makes variables of which no activation overflows or is denormal.

  Time depends on either, but on no other value.

  Example:
    >>> fill({'bias': jax.ShapeDtypeStruct((2,), 'float32')})
    {'bias': Array([1., 1.], dtype=float32)}
  """
  rng = np.random.default_rng(0)

  def fill_leaf(leaf):
    if leaf.ndim < 2:
      return jnp.ones(leaf.shape, leaf.dtype)
    fan_in = math.prod(leaf.shape[:-1])
    return jnp.asarray(rng.normal(0, fan_in**-0.5, leaf.shape), leaf.dtype)

  return jax.tree.map(fill_leaf, shapes)


def images(*shape: int) -> jax.Array:
  """Draws normal noise, always the same.

  Example:
    >>> images(2, 8, 8, 3).shape
    (2, 8, 8, 3)
  """
  return jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)
