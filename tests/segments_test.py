import pathlib
import signal

import jax
from absl.testing import absltest

import ong_jax
from experiments import checkpoints, run, segments, signals
from experiments.config import Config

_CONFIG = Config(
  method='magnitude',
  sparsity=0.9,
  model='resnet8',
  dataset='synthetic',
  epochs=2,
  batch_size=128,
)


class StopTest(absltest.TestCase):
  """Segments of an epoch of four steps, which is one look at the clock."""

  def run_stopped(self, epochs):
    """Runs segments, with a signal that came before the first step."""
    path = self.create_tempdir().full_path
    setup, params, stats = run._set_up(_CONFIG, None)
    directory = checkpoints.RunDirectory(path, setup.config)
    self.addCleanup(directory.close)
    session = segments.Session(
      directory, 60.0, lambda step, note: None, [signal.SIGTERM], []
    )
    pruner = ong_jax.magnitude(sparsity=0.9)
    segment = segments.Segment(epochs, ong_jax.static(pruner))
    state = segments._hand_over(setup, segment, 0, params, stats)
    try:
      state = segments._train(setup, session, segment, state, 4 * epochs)
    finally:
      directory.close()
      self.saved = sorted(
        p.name for p in pathlib.Path(path, 'checkpoints').iterdir()
      )
    return state

  def test_is_saved_in_the_middle_of_a_segment(self):
    with self.assertRaisesRegex(signals.Interrupted, 'Stopped at step 4'):
      self.run_stopped(epochs=2)
    self.assertEqual(self.saved, ['4'])

  def test_at_the_end_of_a_segment_is_left_to_who_saves_there(self):
    state = self.run_stopped(epochs=1)
    self.assertEqual(int(state.step), 4)
    self.assertEmpty(self.saved)

  def test_the_mask_is_split_like_its_params(self):
    setup, params, stats = run._set_up(_CONFIG, None)
    method = ong_jax.static(ong_jax.magnitude(sparsity=0.9))
    state = segments._hand_over(
      setup, segments.Segment(1, method), 0, params, stats
    )
    mask = ong_jax.mask_of(state.opt_state)
    weights = ong_jax.selection.select(state.trainable)
    for m, w in zip(*map(jax.tree.leaves, (mask, weights))):
      self.assertEqual(m.sharding, w.sharding)


if __name__ == '__main__':
  absltest.main()
