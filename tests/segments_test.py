import dataclasses
import pathlib
import signal

from absl.testing import absltest, parameterized

from experiments import (
  handover,
  plan,
  run,
  segments,
  session,
  sharding,
  signals,
)
from experiments.config import Config
from experiments.directory import RunDirectory
from experiments.recipes import once, throughout

_CONFIG = Config(
  method='magnitude',
  sparsity=0.9,
  model='resnet8',
  dataset='synthetic',
  epochs=2,
  batch_size=128,
)


def _segment(setup, num_steps):
  run = plan.Run(setup.config, setup.steps_per_epoch)
  return once.magnitude(run)[0]._replace(steps=num_steps)


class StopTest(absltest.TestCase):
  """Of the first look at the clock, which is after the first step."""

  def run_stopped(self, num_steps):
    """Runs segments, with a signal that came before the first step."""
    path = self.create_tempdir().full_path
    setup, params, stats = run.set_up(_CONFIG, None)
    directory = RunDirectory(path)
    directory.take(setup.config)
    self.addCleanup(directory.close)
    process = session.Session(
      directory, 1e9, lambda step, note: None, [signal.SIGTERM], [], [], {}, {}
    )
    network = handover.Network(params, params, None, stats)
    segment = _segment(setup, num_steps)
    state, _ = handover.start(setup, segment, 0, network, None)
    try:
      state = segments._train(setup, process, segment, state, 0)
    finally:
      directory.close()
      self.saved = sorted(
        p.name for p in pathlib.Path(path, 'checkpoints').iterdir()
      )
    return state

  def test_is_saved_in_the_middle_of_a_segment(self):
    with self.assertRaisesRegex(signals.Interrupted, 'Stopped at step 1'):
      self.run_stopped(8)
    self.assertEqual(self.saved, ['1'])

  def test_at_the_end_of_a_segment_is_left_to_who_saves_there(self):
    state = self.run_stopped(1)
    self.assertEqual(int(state.step), 1)
    self.assertEmpty(self.saved)


class MeasuredTest(parameterized.TestCase):
  @parameterized.named_parameters(
    ('and_is_not_measured_again', False, 3),
    ('unless_what_is_pruned_lives_on', True, 4),
  )
  def test_what_is_pruned_and_not_trained(self, latent, times):
    setup, params, stats = run.set_up(_CONFIG, None)
    trained = dataclasses.replace(setup.config, init_from='trained.npz')
    seen = []

    def evaluate(*args):
      seen.append(setup.evaluate(*args))
      return seen[-1]

    outcome = segments.run_segments(
      setup._replace(config=trained, evaluate=evaluate),
      [_segment(setup, 0)._replace(latent=latent)],
      *(params, stats, None, 1e9),
    )
    self.assertLen(seen, times)  # Before, with old averages, with new ones.
    self.assertEqual(outcome.accuracy, seen[2])
    self.assertEqual(outcome.accuracy, outcome.prunings[0]['accuracy_after'])

  def test_what_prunes_without_a_step_is_not_taken_for_what_was_before(self):
    config = dataclasses.replace(_CONFIG, method='dnw')
    setup, params, stats = run.set_up(config, None)
    context = plan.Run(setup.config, setup.steps_per_epoch)
    (pruned,) = throughout.dnw(context)
    outcome = segments.run_segments(
      setup,
      [plan.dense_segment(context, 1), pruned._replace(steps=0)],
      *(params, stats, None, 1e9),
    )
    trees = sharding.replicate(setup.mesh, (outcome.params, outcome.stats))
    expected = setup.evaluate(*trees, setup.test_data)
    self.assertEqual(outcome.accuracy, expected)


if __name__ == '__main__':
  absltest.main()
