import math

import numpy as np
from absl.testing import absltest, parameterized

from experiments import learning_rates, metrics
from experiments.config import Config

_ORIGINAL = 1000
_STEPS = 200
_LINEAR = Config(schedule='linear', warmup_fraction=0.05)


def _values(name, config=_LINEAR, num_steps=_STEPS, original_steps=_ORIGINAL):
  make = learning_rates.RETRAINING[name]
  shape = make(config, num_steps, original_steps).shape
  return np.array([float(shape(step)) for step in range(num_steps + 1)])


def _drop(pruned, *, norm_drop, total=1000):
  """Of weights with norm 1, some of this norm are pruned."""
  after = math.sqrt(1 - norm_drop**2)
  return metrics.Drop(total, total - pruned, 1.0, after)


class TrainingTest(parameterized.TestCase):
  @parameterized.parameters('linear', 'cosine')
  def test_rises_to_the_peak_and_decays_to_0(self, schedule):
    config = Config(schedule=schedule, warmup_fraction=0.2)
    shape = learning_rates.training(config, num_steps=100).shape
    for step, value in {0: 0.0, 10: 0.5, 20: 1.0, 60: 0.5, 100: 0.0}.items():
      np.testing.assert_allclose(shape(step), value, atol=1e-6)

  def test_cosine_is_above_linear_in_the_first_half(self):
    linear = learning_rates.training(Config(), 100).shape(30)
    cosine = learning_rates.training(Config(schedule='cosine'), 100).shape(30)
    self.assertGreater(cosine, linear)

  def test_without_warmup_starts_at_the_peak(self):
    config = Config(warmup_fraction=0.0)
    np.testing.assert_allclose(learning_rates.training(config, 9).shape(0), 1.0)


class RetrainingTest(parameterized.TestCase):
  @parameterized.parameters('slr', 'clr', 'llr', 'allr')
  def test_warms_up_by_half_a_cosine(self, name):
    values = _values(name)
    np.testing.assert_allclose(values[[0, 10, 20]], [0, 0.5, 1], atol=1e-6)
    self.assertTrue((np.diff(values[:21]) > 0).all())
    self.assertTrue((np.diff(values[20:]) <= 0).all())

  @parameterized.parameters('llr', 'allr')
  def test_linear_restarts_sum_to_half_the_steps(self, name):
    # 0.05 of them while it rises over a tenth, 0.45 while it decays.
    self.assertAlmostEqual(_values(name).sum(), 0.5 * _STEPS, delta=1)

  def test_fine_tuning_keeps_the_last_rate(self):
    np.testing.assert_allclose(_values('ft'), 1 / 950, rtol=1e-4)

  def test_rewinding_replays_the_end(self):
    original = learning_rates.training(_LINEAR, _ORIGINAL).shape
    expected = [float(original(step)) for step in range(800, 1001)]
    np.testing.assert_allclose(_values('lrw'), expected)
    np.testing.assert_allclose(_values('lrw')[0], 200 / 950, rtol=1e-5)

  def test_rewinding_cannot_replay_more_than_there_was(self):
    with self.assertRaisesRegex(ValueError, 'whose 100 steps are fewer than'):
      _values('lrw', original_steps=100)

  def test_scaled_restarts_compress_the_original(self):
    # 180 steps for 1000; where the original rises (50, so 9 here) is the peak.
    values = _values('slr')
    np.testing.assert_allclose(values[20:29], 1, rtol=1e-6)
    np.testing.assert_allclose(values[20 + 90], 500 / 950, rtol=1e-5)
    self.assertAlmostEqual(values[-1], 0, places=6)

  def test_cyclic_restarts_end_at_the_last_rate(self):
    values = _values('clr')
    low = 1 / 950
    np.testing.assert_allclose(values[-1], low, rtol=1e-4)
    np.testing.assert_allclose(values[20 + 90], (1 + low) / 2, rtol=1e-5)

  @parameterized.parameters(1, 2, 5)
  def test_short_retraining_has_finite_rates(self, num_steps):
    for name in learning_rates.RETRAINING:
      values = _values(name, num_steps=num_steps)
      self.assertTrue(np.isfinite(values).all(), name)
      self.assertBetween(values.min(), 0, 1, name)
      self.assertBetween(values.max(), 0, 1, name)


class AdaptiveTest(parameterized.TestCase):
  def adapt(self, drop, original_steps=_ORIGINAL):
    rate = learning_rates.allr(_LINEAR, _STEPS, original_steps)
    return rate.adapt(drop)

  def test_is_the_norm_drop_over_the_root_of_the_fraction(self):
    # Half of the weights had a tenth of the squared norm.
    drop = _drop(500, norm_drop=math.sqrt(0.1))
    self.assertAlmostEqual(self.adapt(drop), math.sqrt(0.2), places=12)

  @parameterized.named_parameters(
    ('no_harm', 500, 0.0, 0.2),
    ('all_harm', 10, 1.0, 1.0),
    ('nothing_pruned', 0, 0.0, 0.2),
  )
  def test_is_clipped(self, pruned, norm_drop, expected):
    self.assertAlmostEqual(
      self.adapt(_drop(pruned, norm_drop=norm_drop)), expected
    )

  def test_never_leaves_its_bounds(self):
    for pruned in (0, 1, 10, 500, 999):
      for norm_drop in (0, 0.01, 0.3, 0.9, 1.0):
        drop = _drop(pruned, norm_drop=norm_drop)
        self.assertBetween(self.adapt(drop), _STEPS / _ORIGINAL, 1)
        self.assertEqual(self.adapt(drop, original_steps=100), 1)

  @parameterized.parameters('ft', 'lrw', 'slr', 'clr', 'llr')
  def test_others_do_not_adapt(self, name):
    rate = learning_rates.RETRAINING[name](_LINEAR, _STEPS, _ORIGINAL)
    self.assertEqual(rate.adapt(_drop(500, norm_drop=0.1)), 1)


if __name__ == '__main__':
  absltest.main()
