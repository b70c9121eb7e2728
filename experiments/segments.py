"""The loop that every run is: segment after segment, with saves in between."""

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from experiments import (
  console,
  handover,
  metrics,
  sharding,
  telemetry,
  train,
)
from experiments.directory import RunDirectory
from experiments.draws import end_segment
from experiments.epochs import mean_loss, report_epoch
from experiments.handover import Network, Setup
from experiments.plan import Segment
from experiments.session import (
  Session,
  Timing,
  is_due,
  save,
  steps_per_second,
  stop_if_asked,
  write,
)
from experiments.tensorboard import Board

_CPU_STEPS = 4  # Between two looks at the clock; elsewhere it is an epoch.


class Outcome(NamedTuple):
  """What a run has come to."""

  params: Any  # With exact zeros.
  mask: Any
  stats: Any
  accuracy: float  # On the test set.
  prunings: list[dict[str, Any]]  # A record for each time.
  steps_per_second: float | None  # Without the call that compiles.
  resumed_at_step: int
  usage: dict[str, float]  # Of `telemetry.look` and `telemetry.flops`.


def run_segments(
  setup: Setup,
  segments: list[Segment],
  params: Any,
  stats: Any,
  directory: RunDirectory | None,
  save_every_s: float,
  stop: Sequence[int] = (),
  board: Board | None = None,
) -> Outcome:
  """Runs what is left to run.

  Args:
    setup: of the run.
    segments: at least one.
    params: that the first segment starts from; if the run resumes, only their
      shapes are read.
    stats: likewise.
    directory: what to resume from and save to.
    save_every_s: seconds between two saves within a segment, at least.
    stop: signals that have come; see `signals.caught`.
    board: that shows the lines of metrics, too.

  Raises:
    signals.Interrupted: on SIGINT or SIGTERM, after a save.
  """
  starts = [sum(s.steps for s in segments[:i]) for i in range(len(segments))]
  last_step = starts[-1] + segments[-1].steps
  network = Network(params, params, None, stats)
  state, lines = _resume(setup, segments, starts, network, directory)
  prunings = [line['pruning'] for line in lines if 'pruning' in line]
  if board:
    board.begin(lines)
  resumed_at = int(state.step) if state else 0
  if state:
    console.log(f'Resumed at step {resumed_at} of {last_step}.')
  with console.progress(last_step, resumed_at) as show:
    session = Session(
      directory, save_every_s, show, stop, prunings, [], {}, {}, board
    )
    first = _segment_at(starts, resumed_at) if state else 0
    for i in range(first, len(segments)):
      if state is None:
        state = _start(setup, session, segments[i], starts[i], network)
      state = _train(setup, session, segments[i], state, starts[i])
      last = i + 1 == len(segments)
      if last:
        save(session, state)
        stop_if_asked(session, last_step)
      network = end_segment(setup, session, segments[i], state, last)
      state = None
  soft = segments[-1].soft
  return _conclude(setup, session, network, soft, last_step, resumed_at)


def _segment_at(starts: list[int], step: int) -> int:
  """A state saved where two segments meet is that of the later one."""
  return max(i for i, start in enumerate(starts) if start <= step)


def _resume(
  setup: Setup,
  segments: list[Segment],
  starts: list[int],
  network: Network,
  directory: RunDirectory | None,
) -> tuple[train.TrainState | None, list[dict[str, Any]]]:
  """Returns the state to go on from and the lines of what came before it."""
  if directory is None:
    return None, []
  state = directory.restore(
    lambda step: handover.shapes_at(
      setup, segments[: _segment_at(starts, step) + 1], step, network
    )
  )
  return state, directory.forget_metrics_after(int(state.step) if state else -1)


def _start(
  setup: Setup,
  session: Session,
  segment: Segment,
  step: int,
  network: Network,
) -> train.TrainState:
  """Begins a segment, and saves where it begins."""
  session.show(step, 'pruning')
  # It was of the segment before, and is not of this one if it has no steps.
  accuracy = session.accuracies.pop(step, None)
  state, record = handover.start(setup, segment, step, network, accuracy)
  if record:
    session.prunings.append(record)
    write(session, {'step': step, 'pruning': record})
    # Else another network runs than was measured.
    if not (segment.latent or segment.rewind):
      session.accuracies[step] = record['accuracy_after']
  save(session, state)
  stop_if_asked(session, step)
  return state


def _conclude(
  setup: Setup,
  session: Session,
  network: Network,
  soft: bool,
  step: int,
  resumed_at: int,
) -> Outcome:
  """Evaluates what the last segment has left, after its pruning if any."""
  stats, accuracy = network.stats, session.accuracies.get(step)
  if soft or metrics.drop(network.deployed, network.params).changed:
    stats, record = handover.pruning_record(
      setup, step, network, network.params, accuracy
    )
    record['final'] = True  # Its line is written anew, should the run resume.
    write(session, {'step': step, 'pruning': record})
    session.prunings.append(record)
    accuracy = record['accuracy_after']
  if accuracy is None:
    trees = sharding.replicate(setup.mesh, (network.params, stats))
    accuracy = setup.evaluate(*trees, setup.test_data)
  return Outcome(
    network.params,
    network.mask,
    stats,
    accuracy,
    session.prunings,
    steps_per_second(session.timings),
    resumed_at,
    _usage(setup, network),
  )


def _usage(setup: Setup, network: Network) -> dict[str, float]:
  """Says what weights the run has used, and what that would have cost."""
  used, shares = telemetry.look(network.telemetry, network.params, network.mask)
  flops = telemetry.flops(used, setup.macs, setup.config.batch_size)
  return {'ever_active': shares['ever_active'], **flops}


def _train(
  setup: Setup,
  session: Session,
  segment: Segment,
  state: train.TrainState,
  start: int,
) -> train.TrainState:
  """Trains to the end of a segment, reporting and saving on the way."""
  step, end, saved_at = int(state.step), start + segment.steps, time.monotonic()
  if step == end:
    return state
  on_cpu = jax.default_backend() == 'cpu'
  method = segment.method(None)  # Its mask is in the state.
  program = segment.method, segment.rate
  compiles = program not in session.loops
  if compiles:
    step_fn = train.make_train_step(
      setup.config,
      setup.model,
      setup.mesh,
      method,
      handover.transform(setup, segment, method),
      segment.samples,
    )
    splits = sharding.shardings(setup.mesh, state)
    session.loops[program] = train.make_loop(step_fn, splits, fused=not on_cpu)
  loop = session.loops[program]
  keep_at = None if segment.keep_at is None else start + segment.keep_at
  session.show(step, 'compiling')
  while step < end:
    epoch_end = (step // setup.steps_per_epoch + 1) * setup.steps_per_epoch
    todo = min(epoch_end, end) - step
    if keep_at is not None and step < keep_at:
      todo = min(todo, keep_at - step)
    if on_cpu:
      todo = min(todo, 1 if compiles else _CPU_STEPS)
    begun = time.monotonic()
    state = jax.block_until_ready(loop(state, setup.train_data, todo))
    seconds = time.monotonic() - begun
    session.timings.append(Timing(todo, seconds, compiles))
    compiles = False
    step += todo
    if step == keep_at:
      params, _ = method.finish(state.trainable, state.opt_state)
      state = state.replace(kept=jax.tree.map(jnp.copy, (params, state.stats)))
    summed = step - max(start, epoch_end - setup.steps_per_epoch)
    session.show(step, f'loss {mean_loss(setup, state, summed):.3f}')
    if step in (epoch_end, end):
      last = step == end
      state = report_epoch(setup, session, segment, state, summed, last=last)
    due = is_due(session, time.monotonic() - saved_at)
    if due and step < end:  # What is due at the end, the caller saves.
      save(session, state)
      saved_at = time.monotonic()
      stop_if_asked(session, step)
  return state
