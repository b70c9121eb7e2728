import json
import pathlib

import jax.numpy as jnp
from absl.testing import absltest, parameterized

from experiments import epochs, handover, plan, run, session
from experiments.config import Config
from experiments.directory import RunDirectory
from experiments.recipes import once

_CONFIG = Config(
  method='magnitude', sparsity=0.9, model='resnet8', dataset='synthetic'
)


class EvaluateTest(parameterized.TestCase):
  @parameterized.parameters(
    (1, [1, 2, 3, 4, 5, 6, 6.5]),
    (3, [3, 6, 6.5]),
    (4, [4, 6.5]),
    (0, [6.5]),
  )
  def test_every_so_many_epochs_and_where_a_part_ends(self, every, wanted):
    setup, params, stats = run.set_up(_CONFIG, None)
    config = Config(**vars(setup.config) | {'evaluate_every': every})
    looks = []
    setup = setup._replace(
      config=config,
      evaluate=lambda params, stats, data: looks.append(1) or 0.125,
      connected=None,
    )
    path = self.create_tempdir().full_path
    directory = RunDirectory(path)
    directory.take(config)
    self.addCleanup(directory.close)
    process = session.Session(
      directory, 1e9, lambda step, note: None, [], [], [], {}, {}
    )
    segment = once.magnitude(plan.Run(config, setup.steps_per_epoch))[0]
    network = handover.Network(params, params, None, stats)
    state, _ = handover.start(setup, segment, 0, network, None)
    for epoch in 1, 2, 3, 4, 5, 6, 6.5:  # Of four steps.
      state = state.replace(step=jnp.int32(4 * epoch))
      state = epochs.report_epoch(
        setup, process, segment, state, num_steps=4, last=epoch == 6.5
      )
    text = pathlib.Path(path, 'metrics.jsonl').read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    self.assertEqual(
      [line['epoch'] for line in lines if 'test_accuracy' in line], wanted
    )
    self.assertLen(looks, len(wanted))
    self.assertLen(lines, 7)
    self.assertEqual(process.accuracies, {int(4 * e): 0.125 for e in wanted})


if __name__ == '__main__':
  absltest.main()
