import json
import math
import pathlib

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
from absl.testing import absltest

import ong_jax
from experiments import (
  data,
  draws,
  evaluation,
  handover,
  inputs,
  learning_rates,
  metrics,
  plan,
  segments,
  sharding,
)
from experiments.config import Config
from experiments.directory import RunDirectory

_CONFIG = Config(
  batch_size=64, augment=False, image_mean=(0.5,) * 3, image_std=(0.25,) * 3
)


class Tiny(nn.Module):
  """A BatchNorm of a few pixels and one layer: 480 weights."""

  num_classes: int = 10
  bn_momentum: float = 0.9

  @nn.compact
  def __call__(self, x, train):
    x = x[:, ::8, ::8].reshape(len(x), -1)
    x = nn.BatchNorm(not train, momentum=self.bn_momentum, name='norm')(x)
    return nn.Dense(self.num_classes, name='linear')(x)


def _setup():
  mesh = sharding.make_mesh(1, 64, jax.devices()[:1])
  dataset = data.load('synthetic')
  images = inputs.Images(dataset.train_images[:512], dataset.train_labels[:512])
  return handover.Setup(
    config=_CONFIG,
    model=Tiny(),
    mesh=mesh,
    train_data=sharding.replicate(mesh, images),
    test_data=None,  # To read it is an error.
    steps_per_epoch=8,
    macs={'linear/kernel': 480},
    evaluate=evaluation.make_evaluate(_CONFIG, Tiny(), mesh),
    reestimate=evaluation.make_reestimate(_CONFIG, Tiny(), mesh),
  )


def _segment(steps=4, num_draws=5):
  method = ong_jax.probmask(
    sparsity=0.8, interval=1, num_intervals=10, rate=0.1
  )
  return plan.Segment(
    steps,
    lambda mask: method,
    learning_rates.Rate(lambda step: 1.0),
    draws=num_draws,
  )


def _network():
  variables = Tiny().init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), False)
  params = variables['params']
  return handover.Network(params, params, None, variables['batch_stats'])


def _state(setup, segment, step=4):
  """At a step where the probabilities are far from 0 and 1."""
  state = handover.begin(setup, segment, step, _network())
  uneven = jax.random.uniform(jax.random.key(1), (48, 10)) * 0.4
  extra = state.trainable.extra | {
    'linear': state.trainable.extra['linear'] | {'kernel': uneven}
  }
  return state.replace(trainable=state.trainable._replace(extra=extra))


class DrawsTest(absltest.TestCase):
  def test_keeps_the_most_accurate_on_training_images(self):
    setup, segment = _setup(), _segment()
    state = _state(setup, segment)
    network = handover.end(segment, state)
    found, record = draws.best_of(setup, segment, state, network)
    accuracies, kept = record['train_accuracies'], record['kept']
    self.assertLen(set(accuracies), 5)  # They can be told apart.
    self.assertEqual(accuracies[record['best']], max(accuracies))
    stats = setup.reestimate(found.params, state.stats, setup.train_data)
    accuracy = setup.evaluate(found.params, stats, setup.train_data)
    self.assertEqual(accuracy, max(accuracies))
    # What is handed over beside the mask is as without.
    chex.assert_trees_all_equal(found.deployed, network.deployed)
    chex.assert_trees_all_equal(
      found.params, ong_jax.apply_mask(state.trainable.params, found.mask)
    )
    self.assertEqual(kept[record['best']], _count(found.params))
    p = state.trainable.extra['linear']['kernel']
    for count in kept:
      deviation = math.sqrt(float((p * (1 - p)).sum()))
      self.assertBetween(count, *(p.sum() + 5 * s * deviation for s in (-1, 1)))
    # Another process, which has only the state, keeps the same; at another
    # step, other masks are drawn.
    again = draws.best_of(_setup(), _segment(), state, network)
    self.assertEqual(again[1], record)
    chex.assert_trees_all_equal(again[0].params, found.params)
    later = draws.best_of(setup, segment, state.replace(step=5), network)
    self.assertNotEqual(later[1]['kept'], kept)

  def test_without_any_the_method_chooses(self):
    setup, segment = _setup(), _segment(num_draws=0)
    state = _state(setup, segment)
    network = draws.end_segment(setup, None, segment, state, last=True)
    self.assertEqual(_count(network.params), 96)

  def test_a_run_that_resumes_ends_with_the_same_one(self):
    path = self.create_tempdir().full_path
    setup = _setup()
    setup = setup._replace(test_data=setup.train_data)
    network, outcomes, lines = _network(), [], []
    for _ in range(2):  # The second has nothing left but to end.
      directory = RunDirectory(path)
      directory.take(_CONFIG)
      outcomes.append(
        segments.run_segments(
          setup, [_segment()], network.params, network.stats, directory, 60
        )
      )
      directory.close()
      text = pathlib.Path(path, 'metrics.jsonl').read_text()
      lines.append([json.loads(line) for line in text.splitlines()])
    self.assertEqual([outcome.resumed_at_step for outcome in outcomes], [0, 4])
    chex.assert_trees_all_equal(outcomes[0].params, outcomes[1].params)
    self.assertEqual(*lines)
    (record,) = [line['draws'] for line in lines[0] if 'draws' in line]
    self.assertLen(record['train_accuracies'], 5)
    self.assertEqual(record['kept'][record['best']], _count(outcomes[0].params))

  def test_what_ends_soft_is_evaluated_with_statistics_of_the_mask(self):
    setup = _setup()
    setup = setup._replace(test_data=setup.train_data)
    found = []
    for soft in (False, True):
      network = _network()  # What a run begins with is given away.
      segment = _segment(12, num_draws=0)._replace(soft=soft)
      found.append(
        segments.run_segments(
          setup, [segment], network.params, network.stats, None, 60
        )
      )
    hard, soft = found
    chex.assert_trees_all_equal(hard.params, soft.params)
    self.assertEmpty(hard.prunings)
    (record,) = soft.prunings
    self.assertEqual(record['accuracy_before'], hard.accuracy)
    expected = setup.reestimate(soft.params, soft.stats, setup.train_data)
    chex.assert_trees_all_equal(soft.stats, expected)


def _count(params):
  return metrics.drop(params, params).nonzero_after


if __name__ == '__main__':
  absltest.main()
