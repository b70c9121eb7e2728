import signal
from unittest import mock

from absl.testing import absltest, parameterized

from experiments import session, signals


def _session(directory, stop):
  return session.Session(
    directory, 60.0, lambda step, note: None, stop, [], [], {}, {}
  )


class SessionTest(parameterized.TestCase):
  @parameterized.parameters(
    (signal.SIGTERM, True, 0, 'The same command goes on from there'),
    (signal.SIGINT, True, 130, 'The same command goes on from there'),
    (signal.SIGTERM, False, 143, 'It could not be saved; the same command'),
    (signal.SIGTERM, None, 143, 'Nothing was saved, as there is no --workdir'),
  )
  def test_stops_with_what_became_of_the_state(
    self, number, saved, code, sentence
  ):
    directory = None
    if saved is not None:
      directory = mock.Mock(has=lambda step: saved and step == 7)
    with self.assertRaisesRegex(
      signals.Interrupted, f'Stopped at step 7. {sentence}'
    ) as caught:
      session.stop_if_asked(_session(directory, [number]), 7)
    self.assertEqual(caught.exception.code, code)

  def test_goes_on_without_a_signal(self):
    session.stop_if_asked(_session(None, []), 7)

  def test_a_save_is_due_by_the_clock_or_by_a_signal(self):
    self.assertTrue(session.is_due(_session(None, []), 60))
    self.assertFalse(session.is_due(_session(None, []), 59.9))
    self.assertTrue(session.is_due(_session(None, [15]), 0))


if __name__ == '__main__':
  absltest.main()
