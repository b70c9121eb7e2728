import jax
import jax.numpy as jnp
from absl.testing import parameterized

from experiments import models, timing

STEM = models.ResNet((), width=4, projection=False, num_classes=5)


class TimingTest(parameterized.TestCase):
  def test_calls_are_made_in_turns_after_one_that_is_not_counted(self):
    made = []
    calls = {name: lambda name=name: made.append(name) for name in 'ab'}
    self.assertEqual([*timing.time_in_turns(calls, 2)], ['a', 'b'])
    self.assertEqual(''.join(made), 'ababab')

  def test_the_clock_and_the_first_call_which_is_not_counted(self):
    ticks = iter([0, 9000, 10_000, 11_000, 20_000, 25_000])
    times = timing.time_in_turns({'a': lambda: None}, 2, ticks.__next__)
    self.assertEqual(times, {'a': 3})  # The median of 1 and 5; not the first.

  def test_networks(self):
    network = STEM, timing.fill(timing.shapes(STEM))
    times = timing.network_latency(
      {'a': network, 'b': network}, batch_size=2, repeats=1
    )
    self.assertEqual([*times], ['a', 'b'])
    self.assertGreater(min(times.values()), 0)

  def test_activations_are_of_the_size_of_the_input(self):
    model = models.create('resnet8', 10)
    call = timing.network_call(
      model, timing.fill(timing.shapes(model)), 2, (32, 32, 3)
    )
    logits = call()
    self.assertEqual(logits.shape, (2, 10))
    self.assertBetween(float(jnp.abs(logits).max()), 1e-2, 1e3)

  def test_shapes_are_traced(self):
    variables = timing.shapes(STEM, batch_size=3, image_shape=(8, 8, 3))
    kernel = variables['params']['conv1']['kernel']
    self.assertIsInstance(kernel, jax.ShapeDtypeStruct)
    self.assertEqual(kernel.shape, (3, 3, 3, 4))
