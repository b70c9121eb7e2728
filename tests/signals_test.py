import signal

from absl.testing import absltest, parameterized

from experiments import signals


class CaughtTest(parameterized.TestCase):
  @parameterized.parameters(signal.SIGINT, signal.SIGTERM)
  def test_the_first_is_collected_and_the_second_kills(self, number):
    with signals.caught() as numbers:
      self.assertEmpty(numbers)
      signal.raise_signal(number)
      self.assertEqual(numbers, [number])
      with self.assertRaises(KeyboardInterrupt):
        signal.raise_signal(number)

  def test_gives_the_handlers_back(self):
    before = signal.getsignal(signal.SIGTERM)
    with signals.caught():
      self.assertNotEqual(signal.getsignal(signal.SIGTERM), before)
    self.assertEqual(signal.getsignal(signal.SIGTERM), before)


if __name__ == '__main__':
  absltest.main()
