from absl.testing import absltest, parameterized

from ong_jax import stages


class CyclesTest(parameterized.TestCase):
  def test_a_cycle_has_its_stages_and_the_last_one_ends_it(self):
    cycles = stages.make_cycles([0.3, 0.1], estimate=2, improve=1, explore=3)
    found = [cycles.at(count) for count in range(14)]

    def when(name):
      return [i for i, now in enumerate(found) if getattr(now, name)]

    self.assertEqual(when('exploring'), [3, 4, 5, 9, 10, 11])
    self.assertEqual(when('observing'), [0, 1, 3, 4, 5, 6, 7, 9, 10, 11])
    self.assertEqual(when('prunes'), [1, 7])
    self.assertEqual(when('grows'), [5, 11])
    self.assertEqual([int(now.cycle) for now in found[::6]], [0, 1, 2])

  @parameterized.named_parameters(
    ('no_exploring', {'explore': 0}, '`explore`=0'),
    ('no_estimate', {'estimate': 0}, '`estimate` must be'),
    ('negative', {'improve': -1}, '`improve` must be .* at least 0'),
    ('nothing', {'improve': None}, '`improve` must be'),
    ('too_much', {'fractions': [1.0]}, r'`fractions` must lie in \[0, 1\)'),
    ('nan', {'fractions': [float('nan')]}, '`fractions` must lie'),
  )
  def test_refuses(self, bad, message):
    good = {'fractions': [0.3], 'estimate': 1, 'improve': 1, 'explore': 1}
    with self.assertRaisesRegex(ValueError, message):
      stages.make_cycles(**(good | bad))

  def test_wants_a_fraction_for_each_cycle(self):
    with self.assertRaisesRegex(TypeError, '`fractions` must have a number'):
      stages.make_cycles(0.3, 1, 1, 1)


if __name__ == '__main__':
  absltest.main()
