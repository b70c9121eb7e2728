import json
import pathlib

import chex
import jax
import numpy as np
from absl.testing import absltest, parameterized

from experiments import (
  checkpoints,
  convolution,
  run,
)
from experiments.config import Config

_TINY = Config(
  method='magnitude',
  sparsity=0.9,
  model='resnet8',
  dataset='synthetic',
  epochs=1,
  batch_size=128,
)


class RunTest(parameterized.TestCase):
  """Runs of one epoch of four steps, on eight devices."""

  def tiny(self, **fields):
    return Config(**{**vars(_TINY), **fields})

  def test_result_says_what_was_run_and_what_came_out(self):
    workdir = self.create_tempdir().full_path
    result = run.run(self.tiny(), workdir=workdir)
    stored = json.loads(pathlib.Path(workdir, 'result.json').read_text())
    self.assertEqual(stored, json.loads(json.dumps(result)))
    self.assertEqual(result['method'], 'magnitude')
    self.assertEqual(result['prunable'], 74_800)
    self.assertEqual(result['kept'], 7_480)
    self.assertEqual(result['sparsity'], 0.9)
    self.assertBetween(result['test_accuracy'], 0, 1)
    self.assertLen(result['layers'], 8)
    self.assertEqual(sum(x['kept'] for x in result['layers']), 7_480)
    self.assertGreater(result['steps_per_second'], 0)
    self.assertEqual(result['versions']['jax'], jax.__version__)
    self.assertEqual(result['device'], '8 x cpu')
    params, _, config = checkpoints.load_final(workdir)
    nonzero = sum(
      np.count_nonzero(leaf)
      for path, leaf in jax.tree_util.tree_leaves_with_path(params)
      if path[-1].key == 'kernel'
    )
    self.assertEqual(nonzero, 7_480)
    self.assertLen(config['image_mean'], 3)
    lines = pathlib.Path(workdir, 'metrics.jsonl').read_text().splitlines()
    self.assertLen(lines, 1)
    self.assertEqual(json.loads(lines[0])['step'], 4)
    self.assertEqual(json.loads(lines[0])['nonfinite_steps'], 0)
    # Again: it is finished, and not run a second time.
    again = run.run(self.tiny(), workdir=workdir)
    self.assertEqual(again['seconds'], result['seconds'])
    with self.assertRaisesRegex(ValueError, 'has another config: seed'):
      run.run(self.tiny(seed=1), workdir=workdir)
    # Its network can be pruned further, without training.
    further = run.run(self.tiny(init_from=workdir, epochs=0, sparsity=0.95))
    self.assertEqual(further['kept'], 3_740)
    self.assertIsNone(further['steps_per_second'])
    chex.assert_trees_all_close(further['image_mean'], result['image_mean'])
    with self.assertRaisesRegex(ValueError, 'holds another network than'):
      run.run(self.tiny(init_from=workdir, model='resnet20'))

  def test_convolutions_of_split_kernels_are_those_of_jax(self):
    # The gradients of ours are products, which would gather them.
    for model_parallel, expected in (
      (1, convolution.conv),
      (2, jax.lax.conv_general_dilated),
    ):
      setup, *_ = run.set_up(self.tiny(model_parallel=model_parallel), None)
      self.assertIs(setup.model.convolve, expected)

  def test_steps_that_are_not_finite_are_counted(self):
    workdir = self.create_tempdir().full_path
    config = self.tiny(learning_rate=1e38, warmup_fraction=0, nonfinite='skip')
    result = run.run(config, workdir=workdir)  # The first step is finite.
    (line,) = pathlib.Path(workdir, 'metrics.jsonl').read_text().splitlines()
    line = json.loads(line)
    self.assertEqual(line['nonfinite_steps'], 3)
    self.assertBetween(line['train_loss'], 2, 4)  # The mean of one step.
    self.assertGreaterEqual(result['sparsity'], 0.9)  # Zeros stay, though.
    self.assertNotEmpty(result['not_finite'])

  def test_dense_epochs_come_first_and_pruning_redoes_the_statistics(self):
    workdir = self.create_tempdir().full_path
    result = run.run(self.tiny(dense_epochs=1, epochs=0), workdir=workdir)
    self.assertEqual(result['kept'], 7_480)
    dense = self.create_tempdir().full_path
    run.run(self.tiny(method='dense', epochs=1), workdir=dense)
    before, old_stats, _ = checkpoints.load_final(dense)
    after, new_stats, _ = checkpoints.load_final(workdir)
    for a, b in zip(*map(jax.tree.leaves, (before, after))):
      np.testing.assert_array_equal(b, np.where(b == 0, 0, a))
    self.assertTrue(
      (
        old_stats['layer3_0']['bn2']['var']
        != new_stats['layer3_0']['bn2']['var']
      ).any()
    )

  @parameterized.named_parameters(
    (
      'method',
      {'method': 'ongg'},
      "`method` must be one of .*nearest is 'ong'",
    ),
    ('sparsity', {'sparsity': 1.0}, r'`sparsity` must lie in \[0, 1\)'),
    (
      'dataset',
      {'dataset': 'cifar'},
      "`dataset` must .* The nearest is 'cifar10'",
    ),
    ('batch', {'batch_size': 100}, '`batch_size`=100 must be a multiple of 8'),
    ('large_batch', {'batch_size': 1024}, 'must not exceed the 512 training'),
    ('too_sparse', {'sparsity': 0.99995}, 'fewer than the 8 prunable leaves'),
    (
      'too_sparse_in_the_end',
      {'method': 'lth', 'sparsity': 0.99995},
      'fewer than the 8 prunable leaves',
    ),
    ('no_file', {'init_from': 'none.npz'}, "'none.npz' is not there"),
    (
      'no_safetensors',
      {'init_from': 'none.safetensors'},
      "'none.safetensors' is not there",
    ),
    ('no_run', {'init_from': 'no_such_run'}, '`init_from`: .*no_such_run'),
    (
      'option',
      {'method': 'dpf', 'options': {'refrsh': '3'}},
      "`option` must be .* The nearest is 'refresh'",
    ),
    (
      'interval',
      {'method': 'gmp', 'options': {'interval': 3}},
      '`interval`=3 must be at most half of the 4 steps',
    ),
    (
      'no_time',
      {'method': 'dpf', 'epochs': 0},
      '`interval`=1 must be at most half of the 0 steps',
    ),
    (
      'untrained_imp',
      {'method': 'imp'},
      '`imp` prunes a trained network: pass `dense_epochs` or `init_from`',
    ),
    (
      'empty_parts',
      {'method': 'lth', 'options': {'phases': 4}},
      r'`lth` would make \[4, 0, 0, 0, 0\] steps',
    ),
    (
      'unused_option',
      {'options': {'retraining': 'lll'}},
      "`retraining` must .* The nearest is 'llr'",
    ),
    (
      'initializer',
      {'initializer': 'hee'},
      "`initializer` must .* The nearest is 'he'",
    ),
  )
  def test_bad_input_gets_a_sentence(self, fields, sentence):
    with self.assertRaisesRegex((ValueError, OSError), sentence):
      run.run(self.tiny(**fields))


if __name__ == '__main__':
  absltest.main()
