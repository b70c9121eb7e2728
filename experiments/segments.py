"""The loop that every run is: segment after segment, with saves in between."""

import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from experiments import evaluation, inputs, report, sharding, signals, train
from experiments.checkpoints import RunDirectory
from experiments.config import Config
from experiments.methods import Segment
from ong_jax import selection

_CPU_STEPS = 4  # Between two looks at the clock; elsewhere it is an epoch.


class Setup(NamedTuple):
  """What all segments of a run share."""

  config: Config  # With the normalization filled in.
  model: nn.Module
  mesh: Mesh
  train_data: inputs.Images  # On the device.
  test_data: inputs.Images  # On the host.
  steps_per_epoch: int
  evaluate: Callable[[Any, Any, inputs.Images], float]


class Session(NamedTuple):
  """What this process does beside computing."""

  directory: RunDirectory | None
  save_every_s: float
  show: Callable[[int, str], None]  # (step, note): moves the progress bar.
  stop: list[int]  # Signals that were caught.
  timings: list[tuple[int, float]]  # (steps, seconds) of each compiled call.


class Outcome(NamedTuple):
  """What a run has come to."""

  params: Any  # With exact zeros.
  mask: Any
  stats: Any
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
  lengths = [segment.epochs * setup.steps_per_epoch for segment in segments]
  starts = [sum(lengths[:i]) for i in range(len(segments) + 1)]

  def segment_at(step):
    """A state saved where two segments meet is that of the later one."""
    return max(i for i in range(len(segments)) if starts[i] <= step)

  def abstract(step):
    segment = segments[segment_at(step)]
    shapes = jax.eval_shape(
      lambda *trees: _begin(setup, segment, step, *trees), params, stats
    )
    return jax.tree.map(
      lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
      shapes,
      sharding.shardings(setup.mesh, shapes),
    )

  state = directory.restore(abstract, report.log) if directory else None
  resumed_at = int(state.step) if state else 0
  if state:
    report.log(f'Resumed at step {resumed_at} of {starts[-1]}.')
  if directory:
    directory.forget_metrics_after(resumed_at)
  with (
    signals.caught() as stop,
    report.progress(starts[-1], resumed_at) as show,
  ):
    session = Session(directory, save_every_s, show, stop, timings=[])
    for i in range(segment_at(resumed_at), len(segments)):
      if state is None:
        show(starts[i], 'pruning')
        state = _hand_over(setup, segments[i], starts[i], params, stats)
        _save(session, state)
        _stop_if_asked(session, starts[i])
      state = _train(setup, session, segments[i], state, starts[i + 1])
      if i + 1 == len(segments):
        _save(session, state)
      params, mask = segments[i].method.finish(state.trainable, state.opt_state)
      stats, state = state.stats, None
  return Outcome(params, mask, stats, _rate(session.timings), resumed_at)


def _begin(
  setup: Setup, segment: Segment, step: int, params: Any, stats: Any
) -> train.TrainState:
  """Makes the state that a segment starts from; its mask is made here."""
  trainable = segment.method.init(params)
  return train.TrainState(
    step=jnp.asarray(step, jnp.int32),
    trainable=trainable,
    opt_state=_transform(setup, segment).init(trainable),
    stats=stats,
    loss=jnp.zeros([], jnp.float32),
    correct=jnp.zeros([], jnp.int32),
  )


def _transform(setup: Setup, segment: Segment) -> optax.GradientTransformation:
  num_steps = segment.epochs * setup.steps_per_epoch
  return segment.method.transform(train.optimizer(setup.config, num_steps))


def _hand_over(
  setup: Setup, segment: Segment, step: int, params: Any, stats: Any
) -> train.TrainState:
  """Begins a segment; if it prunes a trained network, BatchNorm is redone."""
  # On one device, so that sums round the same however many there are.
  params, stats = jax.device_put((params, stats), jax.local_devices()[0])
  begun = time.monotonic()
  state = jax.block_until_ready(_begin(setup, segment, step, params, stats))
  seconds = time.monotonic() - begun
  pruned = segment.method.effective(state.trainable, state.opt_state, None)
  before, after = _num_nonzero(params), _num_nonzero(pruned)
  if after < before:
    report.log(f'Pruned {before:,} weights to {after:,} in {seconds:.1f} s.')
  trained = step > 0 or setup.config.init_from is not None
  if trained and after < before:
    reestimate = evaluation.make_reestimate(
      setup.config, setup.model, setup.mesh
    )
    network = sharding.replicate(setup.mesh, (pruned, stats))
    state = state.replace(stats=reestimate(*network, setup.train_data))
  return jax.device_put(state, sharding.shardings(setup.mesh, state))


def _train(
  setup: Setup,
  session: Session,
  segment: Segment,
  state: train.TrainState,
  end: int,
) -> train.TrainState:
  """Trains to the step `end`, reporting and saving on the way."""
  step, saved_at = int(state.step), time.monotonic()
  on_cpu = jax.default_backend() == 'cpu'
  if step == end:
    return state
  loop = train.make_loop(
    train.make_train_step(
      setup.config,
      setup.model,
      setup.mesh,
      segment.method,
      _transform(setup, segment),
    ),
    sharding.shardings(setup.mesh, state),
    fused=not on_cpu,
  )
  session.show(step, 'compiling')
  while step < end:
    todo = setup.steps_per_epoch - step % setup.steps_per_epoch
    if on_cpu:
      todo = min(todo, _CPU_STEPS)
    begun = time.monotonic()
    state = jax.block_until_ready(loop(state, setup.train_data, todo))
    session.timings.append((todo, time.monotonic() - begun))
    step += todo
    in_epoch = (step - 1) % setup.steps_per_epoch + 1
    session.show(step, f'loss {float(state.loss) / in_epoch:.3f}')
    if in_epoch == setup.steps_per_epoch:
      _report_epoch(setup, session, segment, state)
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
  setup: Setup, session: Session, segment: Segment, state: train.TrainState
) -> None:
  """Evaluates, and writes the epoch's line."""
  params = segment.method.effective(state.trainable, state.opt_state, None)
  num_images = setup.steps_per_epoch * setup.config.batch_size
  seconds, steps = 0.0, 0
  for n, s in reversed(session.timings):
    if steps < setup.steps_per_epoch:
      seconds, steps = seconds + s, steps + n
  loss = float(state.loss) / setup.steps_per_epoch
  line = {
    'step': int(state.step),
    'epoch': int(state.step) // setup.steps_per_epoch,
    'train_loss': loss if math.isfinite(loss) else None,
    'train_accuracy': int(state.correct) / num_images,
    'test_accuracy': setup.evaluate(params, state.stats, setup.test_data),
    'seconds': seconds,
  }
  if session.directory:
    session.directory.log_metrics(line)
  report.log(
    f'epoch {line["epoch"]}: loss {loss:.4f}, train '
    f'{line["train_accuracy"]:.2%}, test {line["test_accuracy"]:.2%}, '
    f'{seconds:.1f} s'
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


def _num_nonzero(params: Any) -> int:
  leaves = jax.tree.leaves(selection.select(params))
  return sum(int(jnp.count_nonzero(x)) for x in leaves)
