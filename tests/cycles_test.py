import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from experiments.config import Config
from experiments.plan import Run
from experiments.recipes import cycles
from ong_jax import apply_mask, schedules

_PARAMS = {
  'a': {'kernel': jax.random.normal(jax.random.key(0), (20, 30))},
  'b': {'kernel': jax.random.normal(jax.random.key(1), (10, 40))},
}


def _run(**fields):
  return Run(Config(sparsity=0.9, **fields), steps_per_epoch=10)


def _counts(segments, params=_PARAMS):
  """Prunes again and again, without training in between."""
  mask, counts, masks = None, [], []
  for segment in segments:
    if segment.prune:
      params, mask = segment.prune(params, mask)
      params = apply_mask(params, mask)
      counts.append(sum(int(m.sum()) for m in jax.tree.leaves(mask)))
      masks.append(mask)
  return counts, masks


class ImpTest(parameterized.TestCase):
  @parameterized.parameters(1, 2, 3, 7)
  def test_phases_remove_one_share_each(self, phases):
    counts, _ = _counts(cycles.imp(_run(init_from='x'), phases=phases))
    share = 0.1 ** (1 / phases)
    expected = [1000 * share**j for j in range(1, phases + 1)]
    np.testing.assert_allclose(counts, expected, atol=0.51)
    self.assertEqual(counts[-1], 100)

  def test_the_shares_multiply_to_the_density(self):
    sparsities = schedules.geometric(0.9, 5)
    left = 1 - np.array(sparsities)
    np.testing.assert_allclose(np.prod(left[1:] / left[:-1]), 0.1)
    np.testing.assert_allclose(left[1:] / left[:-1], 0.1**0.2)

  def test_what_is_pruned_does_not_come_back(self):
    segments = cycles.imp(_run(init_from='x'), phases=3)
    _, mask = segments[0].prune(_PARAMS, None)
    # Survivors that training has made 0 tie with what was pruned.
    zeros = jax.tree.map(jnp.zeros_like, _PARAMS)
    _, again = segments[1].prune(zeros, mask)
    for old, new in zip(*map(jax.tree.leaves, (mask, again))):
      self.assertFalse((new & ~old).any())

  def test_phases_of_one_length_share_a_program(self):
    first, second, third = cycles.imp(_run(epochs=10, init_from='x'), phases=3)
    self.assertEqual([s.steps for s in (first, second, third)], [33, 33, 34])
    self.assertIs(first.rate, second.rate)
    self.assertIsNot(first.rate, third.rate)

  def test_without_retraining_there_is_one_phase(self):
    segments = cycles.imp(_run(init_from='x', epochs=0), phases=5)
    self.assertEqual([segment.steps for segment in segments], [0])
    self.assertEqual(_counts(segments)[0], [100])

  def test_refuses_more_phases_than_steps(self):
    with self.assertRaisesRegex(
      ValueError, '`phases`=11 must not exceed the 1'
    ):
      cycles.imp(_run(epochs=1, init_from='x'), phases=11)

  def test_names_the_nearest_retraining(self):
    with self.assertRaisesRegex(ValueError, "`retraining` must .*'allr'"):
      cycles.imp(_run(init_from='x'), retraining='alr')

  def test_refuses_an_untrained_network(self):
    with self.assertRaisesRegex(ValueError, 'prunes a trained network: pass'):
      cycles.imp(_run())

  def test_refuses_an_unknown_allocation_before_training(self):
    for make in (cycles.bimp, cycles.rewinding):
      with self.assertRaisesRegex(ValueError, "`allocate` must .* 'erk'"):
        make(_run(), allocate='erkk')


class BimpTest(parameterized.TestCase):
  def test_its_budget_is_trained_dense(self):
    segments = cycles.bimp(_run(epochs=10), budget=0.4, phases=2)
    self.assertEqual([s.steps for s in segments], [40, 30, 30])
    counts, _ = _counts(segments)
    self.assertEqual(counts, [1000, 316, 100])

  def test_adapts_its_rates(self):
    from experiments import metrics

    segments = cycles.bimp(_run(epochs=10), budget=0.4, phases=2)
    harmless = metrics.Drop(1000, 316, 1.0, 1.0)
    self.assertAlmostEqual(segments[1].rate.adapt(harmless), 30 / 40)

  def test_a_loaded_network_has_had_its_budget(self):
    segments = cycles.bimp(_run(epochs=10, init_from='x'), phases=2)
    self.assertEqual([s.steps for s in segments], [50, 50])

  def test_budget_is_a_fraction(self):
    with self.assertRaisesRegex(ValueError, r'`budget` must lie in \[0, 1\)'):
      cycles.bimp(_run(), budget=1.0)


class RewindingTest(parameterized.TestCase):
  @parameterized.parameters((0.0, 0), (0.1, 8))
  def test_trains_again_from_the_weights_kept(self, rewind, keep_at):
    first, *others = cycles.rewinding(_run(epochs=20), rewind=rewind)
    self.assertEqual(first.keep_at, keep_at)
    self.assertEqual(first.steps + sum(s.steps for s in others), 200)
    self.assertTrue(all(s.rewind for s in others))
    self.assertFalse(first.rewind)

  def test_replays_the_rates_of_what_is_repeated(self):
    first, *others = cycles.rewinding(_run(epochs=20), rewind=0.25)
    for other in others:
      for step in (0, 1, other.steps - 1):
        np.testing.assert_allclose(
          other.rate.shape(step), first.rate.shape(first.keep_at + step)
        )

  @parameterized.parameters({'init_from': 'x'}, {'dense_epochs': 1})
  def test_refuses_what_was_trained_before(self, **fields):
    with self.assertRaisesRegex(ValueError, 'leave out `dense_epochs` and'):
      cycles.rewinding(_run(**fields))


if __name__ == '__main__':
  absltest.main()
