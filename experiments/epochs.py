"""What is said and written of an epoch."""

import math
from typing import Any

import jax

from experiments import console, metrics, sharding, telemetry, train
from experiments.handover import Setup
from experiments.plan import Segment
from experiments.session import Session, write


def num_counted(setup: Setup, state: train.TrainState, num_steps: int) -> int:
  """Returns how many steps of an epoch its sums are over."""
  skips = setup.config.nonfinite == 'skip'
  return num_steps - (int(state.nonfinite) if skips else 0)


def mean_loss(setup: Setup, state: train.TrainState, num_steps: int) -> float:
  """Returns the mean over these steps; NaN if there is none."""
  counted = num_counted(setup, state, num_steps)
  return float(state.loss) / counted if counted else math.nan


def report_epoch(
  setup: Setup,
  session: Session,
  segment: Segment,
  state: train.TrainState,
  num_steps: int,
  *,
  last: bool,
) -> train.TrainState:
  """Writes the line of an epoch or of what there is of it; evaluates if due.

  Args:
    setup: of the run.
    session: that writes.
    segment: that trains.
    state: at the end of the epoch.
    num_steps: that it has had.
    last: whether the segment ends here.

  Returns:
    The state, with the network that the next line compares with.
  """
  method = segment.method(None)
  params = method.effective(state.trainable, state.opt_state, None)
  _, mask = jax.eval_shape(method.finish, state.trainable, state.opt_state)
  used, shares = telemetry.look(state.telemetry, params, mask)
  gathered = sharding.whole(setup.mesh, params)
  seconds, steps = 0.0, 0
  for timing in reversed(session.timings):
    if steps < num_steps:
      seconds, steps = seconds + timing.seconds, steps + timing.steps
  nonfinite = int(state.nonfinite)
  counted = num_counted(setup, state, num_steps)
  loss = mean_loss(setup, state, num_steps)
  images = max(counted, 1) * setup.config.batch_size
  line = {
    'step': int(state.step),
    'epoch': int(state.step) / setup.steps_per_epoch,
    'train_loss': loss if math.isfinite(loss) else None,
    'train_accuracy': int(state.correct) / images,
    'nonfinite_steps': nonfinite,
    **_accuracy(setup, params, state, last=last),
    **metrics.describe(gathered, mask, setup.macs),
    **metrics.connectivity(gathered, mask, setup.connected),
    **shares,
    **telemetry.flops(used, setup.macs, setup.config.batch_size),
    'seconds': seconds,
  }
  tested = ''
  if 'test_accuracy' in line:
    session.accuracies[int(state.step)] = line['test_accuracy']
    tested = f'test {line["test_accuracy"]:.2%}, '
  write(session, line)
  console.log(
    f'epoch {line["epoch"]:.4g}: loss {loss:.4f}, train '
    f'{line["train_accuracy"]:.2%}, {tested}'
    f'sparsity {line["sparsity"]:.2%}, {seconds:.1f} s'
    + (f', {nonfinite} steps not finite' if nonfinite else '')
    + (', skipped' if counted < num_steps else '')
  )
  return state.replace(telemetry=used)


def _accuracy(
  setup: Setup, params: Any, state: train.TrainState, *, last: bool
) -> dict[str, float]:
  """Evaluates where a segment ends, and every so many epochs."""
  every = setup.config.evaluate_every * setup.steps_per_epoch
  if not last and (every == 0 or int(state.step) % every):
    return {}
  accuracy = setup.evaluate(params, state.stats, setup.test_data)
  return {'test_accuracy': accuracy}
