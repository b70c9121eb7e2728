import json
import math
import pathlib

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized

import ong_jax
from experiments import handover, plan, run
from experiments.config import Config
from ong_jax import selection

_CONFIG = Config(
  method='magnitude',
  sparsity=0.9,
  model='resnet8',
  dataset='synthetic',
  epochs=1,
  batch_size=128,
)


def _setup():
  """A setup of four steps an epoch, and the network that it begins with."""
  setup, params, stats = run.set_up(_CONFIG, None)
  return setup, handover.Network(params, params, None, stats)


def _segment(setup, *, retraining='llr', **fields):
  prune = ong_jax.magnitude(sparsity=0.9)
  context = plan.Run(setup.config, setup.steps_per_epoch)
  segment = plan.Segment(
    4,
    ong_jax.static,
    plan.retraining_rate(context, retraining, 4, 400),
    prune=plan.by(prune),
  )
  return segment._replace(**fields)


def _peak(state):
  return float(state.opt_state.inner_state.hyperparams['peak'])


class StartTest(parameterized.TestCase):
  def test_at_the_outset_there_is_nothing_to_measure(self):
    setup, network = _setup()
    state, record = handover.start(setup, _segment(setup), 0, network, None)
    self.assertIsNone(record)
    chex.assert_trees_all_equal(state.stats, network.stats)
    weights = selection.select(state.trainable)
    nonzero = sum(int((w != 0).sum()) for w in jax.tree.leaves(weights))
    self.assertEqual(nonzero, 7_480)

  def test_the_mask_is_split_like_its_params(self):
    setup, network = _setup()
    state, _ = handover.start(setup, _segment(setup), 0, network, None)
    mask = ong_jax.mask_of(state.opt_state)
    weights = selection.select(state.trainable)
    for m, w in zip(*map(jax.tree.leaves, (mask, weights))):
      self.assertEqual(m.sharding, w.sharding)

  def test_a_trained_network_is_measured_and_its_statistics_redone(self):
    setup, network = _setup()
    segment = _segment(setup, retraining='allr')
    state, record = handover.start(setup, segment, 4, network, 0.5)
    self.assertEqual(record['step'], 4)
    self.assertEqual(record['nonzero_before'], 74_800)
    self.assertEqual(record['nonzero_after'], 7_480)
    self.assertAlmostEqual(record['fraction_pruned'], 0.9)
    self.assertEqual(record['accuracy_before'], 0.5)
    old = record['accuracy_after_old_statistics']
    self.assertAlmostEqual(record['pruning_stability'], old / 0.5)
    self.assertAlmostEqual(
      record['pruning_stability_reestimated'], record['accuracy_after'] / 0.5
    )
    self.assertAlmostEqual(record['sparsity'], 0.9)
    weights, pruned = (
      np.concatenate([np.ravel(w) for w in jax.tree.leaves(x)])
      for x in map(selection.select, (network.params, state.trainable))
    )
    dropped = np.linalg.norm(weights - pruned)
    np.testing.assert_allclose(record['norm_drop'], dropped, rtol=1e-5)
    share = dropped / np.linalg.norm(weights)
    np.testing.assert_allclose(record['relative_norm_drop'], share, rtol=1e-5)
    # And the rate is made of that.
    peak = setup.config.learning_rate * share / math.sqrt(0.9)
    np.testing.assert_allclose(record['peak_learning_rate'], peak, rtol=1e-5)
    np.testing.assert_allclose(_peak(state), peak, rtol=1e-5)
    moved = state.stats['bn1']['mean'] != network.stats['bn1']['mean']
    self.assertTrue(moved.any())

  def test_statistics_stay_if_they_are_to_stay(self):
    setup, network = _setup()
    config = Config(**{**vars(setup.config), 'bn_images': 0})
    setup = setup._replace(config=config)
    state, record = handover.start(setup, _segment(setup), 4, network, None)
    chex.assert_trees_all_equal(state.stats, network.stats)
    self.assertEqual(
      record['accuracy_after'], record['accuracy_after_old_statistics']
    )

  def test_the_mask_comes_from_trained_weights_and_goes_on_kept_ones(self):
    setup, network = _setup()
    early = jax.tree.map(lambda x: x + 1, (network.params, network.stats))
    network = network._replace(kept=early)
    segment = _segment(setup, rewind=True)
    state, _ = handover.start(setup, segment, 4, network, None)
    mask = ong_jax.magnitude(sparsity=0.9)(network.params)
    chex.assert_trees_all_equal(
      jax.device_get(state.trainable),
      jax.device_get(ong_jax.apply_mask(early[0], mask)),
    )
    chex.assert_trees_all_equal(state.stats, early[1])
    chex.assert_trees_all_equal(state.kept, early)

  def test_refuses_to_prune_what_has_diverged(self):
    setup, network = _setup()
    network.params['bn1']['bias'] = jnp.full(16, jnp.nan)
    with self.assertRaisesRegex(
      ValueError, 'diverged: at step 4 .* `learning_rate`, or pass `nonfinite`'
    ):
      handover.start(setup, _segment(setup), 4, network, None)

  def test_norms_that_are_not_finite_are_none(self):
    setup, network = _setup()
    network = network._replace(
      deployed=jax.tree.map(jnp.copy, network.params),
      mask=ong_jax.magnitude(sparsity=0.9)(network.params),
    )
    network.deployed['conv1']['kernel'] *= jnp.nan
    _, record = handover.pruning_record(setup, 4, network, network.params, 0.1)
    self.assertIsNone(record['norm_drop'])
    self.assertIsNone(record['relative_norm_drop'])

  def test_shapes_are_known_without_computing(self):
    setup, network = _setup()
    keeping = _segment(setup, keep_at=0)
    segments = [keeping, _segment(setup, rewind=True)]
    shapes = handover.shapes_at(setup, segments, 4, network)
    state, _ = handover.start(setup, keeping, 0, network, None)
    network = handover.end(keeping, state)
    state, _ = handover.start(setup, segments[1], 4, network, None)
    chex.assert_trees_all_equal_shapes_and_dtypes(shapes, state)
    chex.assert_trees_all_equal(
      *(jax.tree.map(lambda x: x.sharding, x) for x in (shapes, state))
    )


class ProjectionTest(absltest.TestCase):
  def test_one_that_brings_weights_back_is_measured_too(self):
    # Gates that start shut deploy nothing; the projection keeps the best.
    path = self.create_tempdir().full_path
    options = {'start': -0.5, 'final_beta': 2.0, 'retrain': 0.0}
    fields = vars(_CONFIG) | {'method': 'cs', 'options': options}
    result = run.run(Config(**fields), workdir=path)
    (record,) = result['prunings']
    self.assertEqual(record['nonzero_before'], 0)
    self.assertEqual(record['nonzero_after'], 7_480)
    self.assertEqual(result['test_accuracy'], record['accuracy_after'])
    lines = pathlib.Path(path, 'metrics.jsonl').read_text().splitlines()
    self.assertEqual(json.loads(lines[-1])['pruning'], record)
    # As if killed before the result was written.
    pathlib.Path(path, 'result.json').unlink()
    again = run.run(Config(**fields), workdir=path)
    self.assertEqual(again['test_accuracy'], result['test_accuracy'])
    self.assertEqual(again['prunings'], result['prunings'])
    again = pathlib.Path(path, 'metrics.jsonl').read_text().splitlines()
    self.assertEqual(again, lines)


class LotteryTest(absltest.TestCase):
  @pytest.mark.slow
  def test_a_run_rewinds_and_says_what_pruning_did(self):
    path = self.create_tempdir().full_path
    fields = vars(_CONFIG) | {
      'method': 'weight-rewinding',
      'epochs': 2,
      'options': {'phases': 1, 'rewind': 0.5},
    }
    result = run.run(Config(**fields), workdir=path)
    # 6 steps dense, of which the last two are repeated after pruning.
    self.assertEqual(result['kept'], 7_480)
    self.assertLen(result['prunings'], 1)
    self.assertEqual(result['prunings'][0]['step'], 6)
    self.assertEqual(result['options']['rewind'], 0.5)
    lines = pathlib.Path(path, 'metrics.jsonl').read_text().splitlines()
    lines = [json.loads(line) for line in lines]
    self.assertEqual([line['step'] for line in lines], [4, 6, 6, 8])
    self.assertEqual(lines[2]['pruning'], result['prunings'][0])
    self.assertEqual(lines[0]['sparsity'], 0)
    self.assertEqual(lines[3]['sparsity'], 0.9)
    self.assertAlmostEqual(lines[3]['speedup'], result['speedup'])
    self.assertLen(lines[3]['layer_sparsity'], 8)
    self.assertGreater(lines[3]['distance_to_origin'], 0)


if __name__ == '__main__':
  absltest.main()
