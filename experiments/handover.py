"""From one segment to the next: what it begins with, and what pruning did."""

import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from experiments import (
  console,
  fingerprints,
  hosts,
  inputs,
  metrics,
  sharding,
  telemetry,
  train,
)
from experiments.config import Config
from experiments.plan import Segment
from ong_jax import SparseMethod, apply_mask


class Setup(NamedTuple):
  """What all segments of a run share."""

  config: Config  # With all that depends on the data filled in.
  model: nn.Module
  mesh: Mesh
  train_data: inputs.Images  # On the device.
  test_data: inputs.Images  # On the host.
  steps_per_epoch: int
  macs: dict[str, int]  # Of each kernel.
  evaluate: Callable[[Any, Any, inputs.Images], float]
  reestimate: Callable[[Any, Any, inputs.Images], Any]
  # Params -> which weights lie on a path; None, and no line says it.
  connected: Callable[[Any], Any] | None = None


class Network(NamedTuple):
  """What a segment leaves."""

  deployed: Any  # The params as they were evaluated, before `finish`.
  params: Any  # Of `finish`: with exact zeros.
  mask: Any
  stats: Any  # BatchNorm's.
  kept: Any = ()  # (params, stats) to rewind to.
  telemetry: Any = None  # None before the first segment.


def transform(
  setup: Setup, segment: Segment, method: SparseMethod, peak: float = 0.0
) -> optax.GradientTransformation:
  """Makes a segment's transformation; a state that is restored has its peak."""
  inner = train.optimizer(setup.config, segment.rate, peak)
  return method.transform(inner)


def begin(
  setup: Setup,
  segment: Segment,
  step: int,
  network: Network,
  peak: float = 0.0,
) -> train.TrainState:
  """Makes the state that a segment starts from.

  Args:
    setup: of the run.
    segment: that begins.
    step: of the run.
    network: of the segment before, its mask that of the new one.
    peak: of the learning rate.
  """
  params, stats = network.params, network.stats
  if segment.rewind:
    # A copy: the state is given away in the first step, all of it.
    params, stats = jax.tree.map(jnp.copy, network.kept)
  if segment.prune and not segment.latent:
    params = apply_mask(params, network.mask)
  method = segment.method(network.mask)
  trainable = method.init(params)
  opt_state = transform(setup, segment, method, peak).init(trainable)
  used = network.telemetry
  if used is None:
    used = telemetry.begin(method.effective(trainable, opt_state, None))
  kept = network.kept
  if segment.keep_at is not None:  # Room for them; 0 is now.
    kept = jax.tree.map(jnp.copy, (params, stats))
  return train.TrainState(
    step=jnp.asarray(step, jnp.int32),
    trainable=trainable,
    opt_state=opt_state,
    stats=stats,
    loss=jnp.zeros([], jnp.float32),
    correct=jnp.zeros([], jnp.int32),
    nonfinite=jnp.zeros([], jnp.int32),
    kept=kept,
    telemetry=used,
  )


def end(segment: Segment, state: train.TrainState) -> Network:
  """Returns what a segment leaves."""
  method = segment.method(None)
  params, mask = method.finish(state.trainable, state.opt_state)
  return Network(
    deployed=method.effective(state.trainable, state.opt_state, None),
    params=params,
    mask=mask,
    stats=state.stats,
    kept=state.kept,
    telemetry=state.telemetry,
  )


def shapes_at(
  setup: Setup, segments: list[Segment], step: int, network: Network
) -> train.TrainState:
  """Says what the state of the last segment looks like, computing nothing."""

  def walk(network):
    for i, segment in enumerate(segments):
      if segment.prune:
        network = _pruned(segment, network)
      state = begin(setup, segment, step, network)
      if i + 1 < len(segments):
        network = end(segment, state)
    return state

  shapes = jax.eval_shape(walk, network)
  return jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
    shapes,
    sharding.shardings(setup.mesh, shapes),
  )


def start(
  setup: Setup,
  segment: Segment,
  step: int,
  network: Network,
  accuracy: float | None,
) -> tuple[train.TrainState, dict[str, Any] | None]:
  """Begins a segment, and says what pruning did if the network was trained.

  Args:
    setup: of the run.
    segment: that begins.
    step: of the run.
    network: that the one before has left.
    accuracy: of what was deployed, if it is known.

  Returns:
    The state, and a record of `pruning_record` or None.
  """
  trained = step > 0 or setup.config.init_from is not None
  network = sharding.whole(setup.mesh, network)
  if segment.prune and step > 0:
    _check_finite(network.params, step)
  begun = time.monotonic()
  pruned = network.params
  if segment.prune:
    network = _pruned(segment, network)
    pruned = jax.block_until_ready(apply_mask(network.params, network.mask))
  seconds = time.monotonic() - begun
  drop = metrics.drop(network.deployed, pruned)
  peak = setup.config.learning_rate * segment.rate.adapt(drop)
  if drop.fraction_pruned:
    console.log(
      f'Pruned {drop.nonzero_before:,} weights to {drop.nonzero_after:,} in '
      f'{seconds:.1f} s.'
    )
  record = None
  if trained and drop.changed:
    stats, record = pruning_record(setup, step, network, pruned, accuracy)
    record['peak_learning_rate'] = peak if segment.steps else None
    network = network._replace(stats=sharding.whole(setup.mesh, stats))
  state = begin(setup, segment, step, network, peak)
  hosts.check_same('network', fingerprints.of(state))
  return sharding.place(state, sharding.shardings(setup.mesh, state)), record


def _check_finite(params: Any, step: int) -> None:
  if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params)):
    raise ValueError(
      f'Training has diverged: at step {step} the weights are not finite, and '
      'pruning would hide it. Lower `learning_rate`, or pass `nonfinite`=skip.'
    )


def _pruned(segment: Segment, network: Network) -> Network:
  params, mask = segment.prune(network.params, network.mask)
  return network._replace(params=params, mask=mask)


def pruning_record(
  setup: Setup,
  step: int,
  network: Network,
  pruned: Any,
  accuracy: float | None,
) -> tuple[Any, dict[str, Any]]:
  """Redoes BatchNorm after pruning, and measures what pruning did.

  Args:
    setup: of the run.
    step: of the run.
    network: before, as it was deployed.
    pruned: its params after.
    accuracy: before, if it is known.

  Returns:
    The statistics, and a record for `metrics.jsonl` and `result.json`.
  """
  drop = metrics.drop(network.deployed, pruned)
  deployed, pruned, stats = sharding.replicate(
    setup.mesh, (network.deployed, pruned, network.stats)
  )
  before = accuracy
  if before is None:
    before = setup.evaluate(deployed, stats, setup.test_data)
  after = stale = setup.evaluate(pruned, stats, setup.test_data)
  if setup.config.bn_images:
    stats = setup.reestimate(pruned, stats, setup.train_data)
    after = setup.evaluate(pruned, stats, setup.test_data)
  console.log(
    f'test {before:.2%} before pruning, {after:.2%} after it ({stale:.2%} with '
    "BatchNorm's old averages)"
  )
  return stats, {
    'step': step,
    'nonzero_before': drop.nonzero_before,
    'nonzero_after': drop.nonzero_after,
    'fraction_pruned': drop.fraction_pruned,
    'accuracy_before': before,
    'accuracy_after': after,
    'accuracy_after_old_statistics': stale,
    'pruning_stability': metrics.stability(before, stale),
    'pruning_stability_reestimated': metrics.stability(before, after),
    'norm_drop': _finite(drop.norm_drop),
    'relative_norm_drop': _finite(drop.relative_norm_drop),
    **metrics.describe(pruned, network.mask, setup.macs),
  }


def _finite(x: float) -> float | None:
  """JSON has no NaN, which is what training that diverged leaves."""
  return x if math.isfinite(x) else None
