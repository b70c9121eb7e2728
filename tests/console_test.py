from absl.testing import absltest

from experiments import console
from experiments.config import Config


class ConsoleTest(absltest.TestCase):
  def test_estimates_a_long_run_and_names_a_short_one(self):
    line = console.estimate(Config(epochs=200), 125_485_696, 50_000)
    self.assertRegex(
      line, r'200 epochs of resnet56 on 50,000 images .* \d+ (hours|days) here'
    )
    self.assertIn('--dataset=cifar10_mini', line)

  def test_a_short_run_needs_no_advice(self):
    line = console.estimate(Config(model='resnet8', epochs=1), 12_000_000, 500)
    self.assertRegex(line, r'about \d+ seconds here\.$')

  def test_nothing_to_estimate_where_nothing_is_trained(self):
    self.assertIsNone(console.estimate(Config(epochs=0), 10**8, 50_000))

  def test_describes_the_result(self):
    result = {
      'method': 'ong',
      'dataset': 'cifar10',
      'model': 'resnet8',
      'seed': 3,
      'test_accuracy': 0.51239,
      'sparsity': 0.5,
      'kept': 1,
      'prunable': 2,
      'empty_layers': 0,
      'empty_filters': 1,
      'not_finite': [],
      'layers': [
        {'path': 'fc/kernel', 'shape': [1, 2], 'kept': 1, 'empty_filters': 1}
      ],
      'sparsity_all': 0.25,
      'seconds': 130.0,
      'steps_per_second': 2.5,
      'device': '1 x cpu',
      'speedup': 1.2345,
    }
    text = console.describe(result)
    self.assertIn('ong on cifar10, resnet8, seed 3', text)
    self.assertIn('test accuracy  51.24%, at the last step', text)
    self.assertIn('50.0000% of the prunable weights, 25.0000% of all', text)
    self.assertIn('2 minutes, 2.50 steps/s, 1 x cpu', text)
    self.assertRegex(text, r'fc/kernel +1x2 +1 +50.00% +1')
    self.assertIn('multiplications 1.23 times fewer', text)
    self.assertNotIn('DIVERGED', text)
    empty = console.describe(result | {'speedup': None})
    self.assertNotIn('multiplications', empty)
    self.assertNotIn('MACs', text)  # An older result has none.
    layer = result['layers'][0] | {'macs': 5, 'dense_macs': 10}
    new = result | {'layers': [layer], 'macs': 7, 'dense_macs': 12}
    text = console.describe(new)
    self.assertRegex(text, r'fc/kernel +1x2 +1 +50.00% +1 +5\n')
    self.assertIn('7 of 12 multiply-accumulates (MACs) left, 58.3333%', text)
    text = console.describe(result | {'not_finite': ['fc/kernel']})
    self.assertIn("DIVERGED: not finite are ['fc/kernel']", text)


if __name__ == '__main__':
  absltest.main()
