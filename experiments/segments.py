"""The loop that every run is: segment after segment, with saves in between."""

import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from experiments import handover, metrics, report, sharding, signals, train
from experiments.checkpoints import RunDirectory
from experiments.handover import Network, Setup
from experiments.plan import Segment

_CPU_STEPS = 4  # Between two looks at the clock; elsewhere it is an epoch.


class Session(NamedTuple):
  """What this process does beside computing."""

  directory: RunDirectory | None
  save_every_s: float
  show: Callable[[int, str], None]  # (step, note): moves the progress bar.
  stop: list[int]  # Signals that were caught.
  timings: list[tuple[int, float]]  # (steps, seconds) of each compiled call.
  accuracies: dict[int, float]  # Of what would have been deployed at a step.
  loops: dict[Any, Callable]  # Compiled, by method and rate of the segment.


class Outcome(NamedTuple):
  """What a run has come to."""

  params: Any  # With exact zeros.
  mask: Any
  stats: Any
  accuracy: float  # On the test set.
  prunings: list[dict[str, Any]]  # A record for each time.
  steps_per_second: float | None  # Without the call that compiles.
  resumed_at_step: int


def run_segments(
  setup: Setup,
  segments: list[Segment],
  params: Any,
  stats: Any,
  directory: RunDirectory | None,
  save_every_s: float,
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

  Raises:
    signals.Interrupted: on SIGINT or SIGTERM, after a save.
  """
  starts = [sum(s.steps for s in segments[:i]) for i in range(len(segments))]
  last_step = starts[-1] + segments[-1].steps
  network = Network(params, params, None, stats)

  def segment_at(step):
    """A state saved where two segments meet is that of the later one."""
    return max(i for i in range(len(segments)) if starts[i] <= step)

  def abstract(step):
    begun = segments[: segment_at(step) + 1]
    return handover.shapes_at(setup, begun, step, network)

  state = directory.restore(abstract, report.log) if directory else None
  resumed_at = int(state.step) if state else 0
  if state:
    report.log(f'Resumed at step {resumed_at} of {last_step}.')
  prunings = []
  if directory:
    lines = directory.forget_metrics_after(resumed_at if state else -1)
    prunings = [line['pruning'] for line in lines if 'pruning' in line]
  with (
    signals.caught() as stop,
    report.progress(last_step, resumed_at) as show,
  ):
    session = Session(directory, save_every_s, show, stop, [], {}, {})
    for i in range(segment_at(resumed_at), len(segments)):
      segment = segments[i]
      if state is None:
        show(starts[i], 'pruning')
        state, record = handover.start(
          setup,
          segment,
          starts[i],
          network,
          session.accuracies.get(starts[i]),
        )
        if record:
          prunings.append(record)
          if directory:
            directory.log_metrics({'step': starts[i], 'pruning': record})
        _save(session, state)
        _stop_if_asked(session, starts[i])
      state = _train(setup, session, segment, state, starts[i])
      if i + 1 == len(segments):
        _save(session, state)
      network, state = handover.end(segment, state), None
  stats, accuracy = network.stats, session.accuracies.get(last_step)
  drop = metrics.drop(network.deployed, network.params)
  if drop.fraction_pruned:
    stats, record = handover.pruning_record(
      setup, last_step, network, network.params, accuracy
    )
    prunings.append(record)
    accuracy = record['accuracy_after']
  if accuracy is None:
    accuracy = setup.evaluate(network.params, stats, setup.test_data)
  return Outcome(
    network.params,
    network.mask,
    stats,
    accuracy,
    prunings,
    _rate(session.timings),
    resumed_at,
  )


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
  if program not in session.loops:
    step_fn = train.make_train_step(
      setup.config,
      setup.model,
      setup.mesh,
      method,
      handover.transform(setup, segment, method),
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
      todo = min(todo, _CPU_STEPS)
    begun = time.monotonic()
    state = jax.block_until_ready(loop(state, setup.train_data, todo))
    session.timings.append((todo, time.monotonic() - begun))
    step += todo
    if step == keep_at:
      params, _ = method.finish(state.trainable, state.opt_state)
      state = state.replace(kept=jax.tree.map(jnp.copy, (params, state.stats)))
    summed = step - max(start, epoch_end - setup.steps_per_epoch)
    session.show(step, f'loss {float(state.loss) / summed:.3f}')
    if step in (epoch_end, end):
      _report_epoch(setup, session, segment, state, summed)
    due = time.monotonic() - saved_at >= session.save_every_s or session.stop
    if due and step < end:  # What is due at the end, the caller saves.
      _save(session, state)
      saved_at = time.monotonic()
      _stop_if_asked(session, step)
  return state


def _stop_if_asked(session: Session, step: int) -> None:
  """Ends the run after a save, if a signal came."""
  if not session.stop:
    return
  raise signals.Interrupted(
    f'Stopped at step {step}. '
    + (
      'The same command goes on from there.'
      if session.directory
      else 'Nothing was saved, as there is no --workdir.'
    )
  )


def _report_epoch(
  setup: Setup,
  session: Session,
  segment: Segment,
  state: train.TrainState,
  num_steps: int,
) -> None:
  """Evaluates, and writes the line of an epoch or of what there is of it."""
  method = segment.method(None)
  params = method.effective(state.trainable, state.opt_state, None)
  _, mask = jax.eval_shape(method.finish, state.trainable, state.opt_state)
  seconds, steps = 0.0, 0
  for n, s in reversed(session.timings):
    if steps < num_steps:
      seconds, steps = seconds + s, steps + n
  loss = float(state.loss) / num_steps
  line = {
    'step': int(state.step),
    'epoch': int(state.step) / setup.steps_per_epoch,
    'train_loss': loss if math.isfinite(loss) else None,
    'train_accuracy': int(state.correct) / num_steps / setup.config.batch_size,
    'test_accuracy': setup.evaluate(params, state.stats, setup.test_data),
    **metrics.describe(params, mask, setup.macs),
    'seconds': seconds,
  }
  session.accuracies[int(state.step)] = line['test_accuracy']
  if session.directory:
    session.directory.log_metrics(line)
  report.log(
    f'epoch {line["epoch"]:.4g}: loss {loss:.4f}, train '
    f'{line["train_accuracy"]:.2%}, test {line["test_accuracy"]:.2%}, '
    f'sparsity {line["sparsity"]:.2%}, {seconds:.1f} s'
  )


def _save(session: Session, state: train.TrainState) -> None:
  if session.directory:
    # A copy: the next step is given the state's own memory, and on a CPU the
    # save would read it while it changes.
    state = jax.tree.map(jnp.copy, state)
    session.directory.save(int(state.step), state)


def _rate(timings: list[tuple[int, float]]) -> float | None:
  """Steps a second, without the first call if there are more."""
  timings = timings[1:] or timings
  seconds = sum(s for _, s in timings)
  return sum(n for n, _ in timings) / seconds if seconds else None
