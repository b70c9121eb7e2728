"""The end of a segment, with the best of several drawn masks if it has any."""

from typing import Any

import jax

from experiments import console, handover, metrics, sharding, train
from experiments.handover import Network, Setup
from experiments.plan import Segment
from experiments.session import Session, write

_IMAGES = 10_000  # Of the training split, the first ones: all draws meet these.


def end_segment(
  setup: Setup,
  session: Session,
  segment: Segment,
  state: train.TrainState,
  last: bool,
) -> Network:
  """Returns what a segment leaves, and writes what its draws have come to.

  Args:
    setup: of the run.
    session: with the directory to write to.
    segment: that ends.
    state: at its end.
    last: whether it is that of the run, whose line a resumed run writes anew.
  """
  state = sharding.whole(setup.mesh, state)
  network = handover.end(segment, state)
  if segment.draws:
    network, record = best_of(setup, segment, state, network)
    record['final'] = last
    write(session, {'step': int(state.step), 'draws': record})
  return network


def best_of(
  setup: Setup, segment: Segment, state: train.TrainState, network: Network
) -> tuple[Network, dict[str, Any]]:
  """Draws masks, and keeps the one that is most accurate on training images.

  Each is evaluated with BatchNorm re-estimated; of equals, the first is kept.
  Nothing of the test set is read. The draws follow from the seed and the step,
  so that a run that resumes keeps the same one.

  Args:
    setup: of the run.
    segment: that ends, with at least one of `draws`.
    state: at its end.
    network: that it would leave without.

  Returns:
    The network with the best mask, and a record for `metrics.jsonl`.
  """
  # The train step's keys are the first two.
  key = jax.random.split(jax.random.key(setup.config.seed), 3)[2]
  keys = jax.random.split(
    jax.random.fold_in(key, int(state.step)), segment.draws
  )
  finish = jax.jit(segment.method(None).finish)
  images = jax.tree.map(lambda x: x[:_IMAGES], setup.train_data)
  best, accuracies, kept = 0, [], []
  for i, key in enumerate(keys):
    params, mask = finish(state.trainable, state.opt_state, key)
    accuracies.append(_accuracy(setup, params, state.stats, images))
    kept.append(metrics.drop(params, params).nonzero_after)
    if i == 0 or accuracies[i] > accuracies[best]:
      best, network = i, network._replace(params=params, mask=mask)
  console.log(
    f'Of {segment.draws} masks, the best has {kept[best]:,} weights, and '
    f'{accuracies[best]:.2%} on {len(images.labels):,} training images.'
  )
  return network, {
    'train_accuracies': accuracies,
    'kept': kept,
    'best': best,
    'num_images': len(images.labels),
  }


def _accuracy(setup: Setup, params: Any, stats: Any, images: Any) -> float:
  params, stats = sharding.replicate(setup.mesh, (params, stats))
  if setup.config.bn_images:
    stats = setup.reestimate(params, stats, images)
  return setup.evaluate(params, stats, images)
