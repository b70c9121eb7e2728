"""What is said and written of an epoch."""

import math

import jax

from experiments import console, metrics, sharding, telemetry, train
from experiments.handover import Setup
from experiments.plan import Segment
from experiments.session import Session, write


def report_epoch(
  setup: Setup,
  session: Session,
  segment: Segment,
  state: train.TrainState,
  num_steps: int,
) -> train.TrainState:
  """Evaluates, and writes the line of an epoch or of what there is of it.

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
  skipped = nonfinite if setup.config.nonfinite == 'skip' else 0
  counted = max(num_steps - skipped, 1)
  loss = float(state.loss) / counted if skipped < num_steps else math.nan
  line = {
    'step': int(state.step),
    'epoch': int(state.step) / setup.steps_per_epoch,
    'train_loss': loss if math.isfinite(loss) else None,
    'train_accuracy': int(state.correct) / counted / setup.config.batch_size,
    'nonfinite_steps': nonfinite,
    'test_accuracy': setup.evaluate(params, state.stats, setup.test_data),
    **metrics.describe(gathered, mask, setup.macs),
    **metrics.connectivity(gathered, mask, setup.connected),
    **shares,
    **telemetry.flops(used, setup.macs, setup.config.batch_size),
    'seconds': seconds,
  }
  session.accuracies[int(state.step)] = line['test_accuracy']
  write(session, line)
  console.log(
    f'epoch {line["epoch"]:.4g}: loss {loss:.4f}, train '
    f'{line["train_accuracy"]:.2%}, test {line["test_accuracy"]:.2%}, '
    f'sparsity {line["sparsity"]:.2%}, {seconds:.1f} s'
    + (f', {nonfinite} steps not finite' if nonfinite else '')
    + (', skipped' if skipped else '')
  )
  return state.replace(telemetry=used)
