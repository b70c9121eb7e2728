import json
import pathlib
import shutil

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest

import ong_jax
from experiments import handover, plan, run, telemetry
from experiments.config import Config

_CONFIG = Config(
  method='set',
  sparsity=0.9,
  model='resnet8',
  dataset='synthetic',
  epochs=3,
  batch_size=128,
  options={'interval': 2},
)


def _network(*kernel, bias=1.0):
  return {'fc': {'kernel': jnp.array([kernel]), 'bias': jnp.array([bias])}}


def _update(used, *networks):
  return jax.jit(telemetry.update)(
    used, [telemetry.active(n) for n in networks]
  )


class TelemetryTest(absltest.TestCase):
  def test_counts_every_step(self):
    used = telemetry.begin(_network(1.0, 0.0, 0.0, 0.0))
    used = _update(used, _network(1.0, 0.0, 0.0, 0.0))
    used = _update(used, _network(1.0, -2.0, 0.0, 0.0))
    used = _update(used, _network(1.0, 0.0, 0.0, 0.0))
    np.testing.assert_array_equal(used.ever['fc']['kernel'], [[1, 1, 0, 0]])
    self.assertEqual(used.nonzero.tolist(), [[0, 4]])
    # And each pass of one: of 4 weights of 3 uses, and 2 images.
    used = _update(
      used, _network(0.0, 0.0, 0.0, 0.0), _network(0.0, 0.0, 1.0, 1.0)
    )
    flops = telemetry.flops(used, {'fc/kernel': 12}, batch_size=2)
    self.assertEqual(flops['train_flops'], 6 * 2 * 3 * (4 + 2))
    self.assertEqual(flops['train_flops_dense'], 6 * 2 * 12 * 5)

  def test_is_exact_where_no_float_is(self):
    used = telemetry.begin(_network(1.0, 1.0))
    used = used._replace(nonzero=jnp.array([[7, 2**32 - 1]], jnp.uint32))
    used = _update(used, _network(1.0, 1.0))
    self.assertEqual(used.nonzero.tolist(), [[8, 1]])
    flops = telemetry.flops(used, {'fc/kernel': 2}, batch_size=1)
    self.assertEqual(flops['train_flops'], 6 * (8 * 2**32 + 1))

  def test_compares_with_the_last_line(self):
    used = telemetry.begin(_network(1.0, 1.0, 0.0, 0.0))
    used = _update(used, _network(0.0, 0.0, 0.0, 1.0))
    now = _network(1.0, 0.0, 5.0, 0.0)
    mask = telemetry.active(now)
    used, shares = telemetry.look(used, now, mask)
    self.assertEqual(shares, {'churn': 0.5, 'ever_active': 0.75})
    used, shares = telemetry.look(used, now, mask)
    self.assertEqual(shares, {'churn': 0.0, 'ever_active': 0.75})

  def test_shares_are_of_prunable_weights(self):
    one, other = _network(1.0, 0.0), _network(0.0, 0.0)
    used = telemetry.begin({'a': one, 'b': other})
    mask = {
      'a': {'fc': {'kernel': one['fc']['kernel'] != 0, 'bias': None}},
      'b': {'fc': {'kernel': None, 'bias': None}},
    }
    _, shares = telemetry.look(used, {'a': other, 'b': one}, mask)
    self.assertEqual(shares, {'churn': 0.5, 'ever_active': 0.0})


class RunTest(absltest.TestCase):
  def test_says_it_in_lines_and_result_and_resumes_to_the_same(self):
    path = pathlib.Path(self.create_tempdir().full_path)
    whole, stopped = path / 'whole', path / 'stopped'
    setup, *_ = run.set_up(_CONFIG, None)
    result = run.run(_CONFIG, workdir=whole, save_every_s=0)
    lines = self.lines(whole)
    self.assertLen(lines, 3)
    for line in lines:
      self.assertGreaterEqual(line['effective_sparsity'], line['sparsity'])
      self.assertGreaterEqual(line['disconnected_units'], line['dead_filters'])
    self.assertGreater(lines[0]['churn'], 0)
    ever = [line['ever_active'] for line in lines]
    self.assertGreater(ever[0], 0.1)
    self.assertEqual(ever, sorted(ever))
    self.assertEqual(result['ever_active'], ever[-1])
    # 4 steps an epoch.
    dense = 6 * 128 * sum(setup.macs.values())
    self.assertEqual(
      [line['train_flops_dense'] for line in lines],
      [4 * dense, 8 * dense, 12 * dense],
    )
    for name in ('train_flops', 'train_flops_dense', 'effective_sparsity'):
      self.assertEqual(result[name], lines[-1][name])
    self.assertLess(result['train_flops'], result['train_flops_dense'])
    # From the state before the last.
    shutil.copytree(whole, stopped)
    shutil.rmtree(stopped / 'final')
    shutil.rmtree(stopped / 'checkpoints' / '12')
    (stopped / 'result.json').unlink()
    again = run.run(_CONFIG, workdir=stopped)
    self.assertEqual(again['resumed_at_step'], 8)
    self.assertEqual(self.lines(stopped), lines)
    for name in ('ever_active', 'train_flops', 'disconnected_units'):
      self.assertEqual(again[name], result[name])

  def lines(self, path):
    lines = (path / 'metrics.jsonl').read_text().splitlines()
    return [
      {k: v for k, v in json.loads(line).items() if k != 'seconds'}
      for line in lines
    ]

  def test_is_split_as_its_params_and_carried_on(self):
    setup, params, stats = run.set_up(_CONFIG, None)
    network = handover.Network(params, params, None, stats)
    context = plan.Run(setup.config, setup.steps_per_epoch)
    segment = plan.dense_segment(context, 4)
    state, _ = handover.start(setup, segment, 0, network, None)
    weights = ong_jax.selection.select(state.trainable)
    for tree in (state.telemetry.ever, state.telemetry.last):
      for m, w in zip(*map(jax.tree.leaves, (tree, weights))):
        self.assertEqual(m.sharding, w.sharding)
    used = state.telemetry._replace(passes=jnp.uint32(3))
    network = handover.end(segment, state.replace(telemetry=used))
    after = handover.begin(setup, segment, 4, network)
    chex.assert_trees_all_equal(after.telemetry, used)


if __name__ == '__main__':
  absltest.main()
