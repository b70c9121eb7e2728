import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized

from ong_jax import allocation, masks, schedules

CURVES = (('cubic', schedules.cubic), ('geometric', schedules.geometric))


class CurvesTest(parameterized.TestCase):
  @parameterized.named_parameters(
    ('cubic', schedules.cubic, 0.81, [0, 0.57, 0.78, 0.81]),
    ('geometric', schedules.geometric, 0.488, [0, 0.2, 0.36, 0.488]),
  )
  def test_by_hand(self, curve, sparsity, expected):
    np.testing.assert_allclose(curve(sparsity, 3), expected, rtol=1e-12)

  @parameterized.named_parameters(*CURVES)
  def test_starts_dense_never_falls_and_ends_exactly(self, curve):
    for sparsity in (0, 0.1, 1 / 3, 0.9, 0.999):
      for num_updates in (1, 2, 7, 10):
        found = curve(sparsity, num_updates)
        self.assertLen(found, num_updates + 1)
        self.assertEqual((found[0], found[-1]), (0, sparsity))
        self.assertEqual(found, sorted(found))

  @parameterized.named_parameters(*CURVES)
  def test_refuses_what_is_out_of_range(self, curve):
    with self.assertRaisesRegex(
      ValueError, r'^`sparsity` must be a number in \[0, 1\), .* got 1.$'
    ):
      curve(1, 3)
    with self.assertRaisesRegex(
      ValueError, '^`num_updates` must be an integer of at least 1; got 0.$'
    ):
      curve(0.5, 0)

  def test_latency_falls_geometrically(self):
    left = [100 * (1 - s) for s in schedules.geometric(0.45, 30)]
    np.testing.assert_allclose(
      [left[i] for i in (1, 10, 15, 30)],
      [98.0269, 81.9321, 74.1620, 55],
      atol=1e-4,
    )


class DecayTest(parameterized.TestCase):
  @parameterized.named_parameters(
    ('exponential', lambda n: schedules.exponential_decay(0.3, 0.003, n)),
    ('cosine', lambda n: schedules.cosine_decay(0.3, n)),
    ('power', lambda n: schedules.power_decay(0.3, n)),
  )
  def test_falls_from_the_first(self, decay):
    for num in (1, 2, 9):
      found = decay(num)
      self.assertLen(found, num)
      self.assertAlmostEqual(found[0], 0.3)
      self.assertEqual(found, sorted(found, reverse=True))
      self.assertGreater(found[-1], 0)
    with self.assertRaisesRegex(ValueError, '^`num` must be an integer'):
      decay(0)

  def test_refuses_what_does_not_fall(self):
    for decay, message in (
      (lambda: schedules.exponential_decay(0.3, 0.0, 4), '`last` must lie in'),
      (lambda: schedules.exponential_decay(-0.3, 0.1, 4), '`first` must lie'),
      (lambda: schedules.cosine_decay(1.0, 4), '`first` must lie'),
      (lambda: schedules.power_decay(0.3, 4, -1.0), '`power` must lie'),
    ):
      with self.assertRaisesRegex(ValueError, message):
        decay()

  def test_by_hand(self):
    np.testing.assert_allclose(
      schedules.exponential_decay(0.3, 0.003, 3), [0.3, 0.03, 0.003]
    )
    np.testing.assert_allclose(
      schedules.cosine_decay(0.3, 4)[:3], [0.3, 0.256066, 0.15], atol=1e-6
    )
    np.testing.assert_allclose(
      schedules.power_decay(0.8, 2, power=2), [0.8, 0.2]
    )


class TableTest(parameterized.TestCase):
  def test_a_row_for_each_sparsity(self):
    weights = {'a': jnp.ones((2, 5)), 'b': None, 'c': jnp.ones((3, 10))}
    rows = [0.0, 0.5, 0.9]
    pooled = schedules.tabulate(weights, rows, allocation.pooled)
    chex.assert_trees_all_equal(pooled, jnp.array([40, 20, 4]))
    uniform = schedules.tabulate(weights, rows, allocation.uniform)
    expected = {'a': jnp.array([10, 5, 1]), 'b': None}
    expected['c'] = jnp.array([30, 15, 3])
    chex.assert_trees_all_equal(uniform, expected)
    for counts in jax.tree.leaves((pooled, uniform)):
      self.assertEqual(counts.dtype, jnp.int32)

  def test_counts_what_float32_cannot(self):
    weights = [jax.ShapeDtypeStruct((20_000_003,), jnp.float32)]
    sparsities = schedules.cubic(1e-7, 2)
    table = schedules.tabulate(weights, sparsities, allocation.pooled)
    # 1.75 and 2 weights go.
    self.assertEqual(table.tolist(), [20_000_003, 20_000_001, 20_000_001])
    self.assertEqual(table[-1], masks.num_kept(weights, 1e-7))

  def test_refuses_a_row_without_a_weight_for_each_leaf(self):
    with self.assertRaisesRegex(ValueError, '^`sparsity`=0.9 keeps 1 of 10 '):
      schedules.tabulate(
        [jnp.ones(4), jnp.ones(6)], [0.0, 0.9], allocation.pooled
      )

  @chex.variants(with_jit=True, without_jit=True)
  def test_rows_are_looked_up_and_the_last_one_lasts(self):
    table = {'a': jnp.array([10, 5, 1]), 'b': None, 'c': jnp.array([30, 15, 3])}
    look_up = self.variant(schedules.counts_at)
    found = [look_up(table, row) for row in (0, 1, 2, 3, 100)]
    self.assertEqual([x['a'] for x in found], [10, 5, 1, 1, 1])
    self.assertEqual([x['c'] for x in found], [30, 15, 3, 3, 3])
    self.assertIsNone(found[0]['b'])
    self.assertEqual(look_up(jnp.array([10, 5]), 1), 5)


class CheckStepsTest(parameterized.TestCase):
  def test_accepts_integers_from_1(self):
    schedules.check_steps(interval=1, refresh=np.int64(16))

  @parameterized.parameters(0, -3, 2.0, None, '3')
  def test_refuses_other_numbers_by_name(self, value):
    with self.assertRaisesRegex(
      ValueError,
      f'^`refresh` must be an integer of at least 1; got {value!r}.$',
    ):
      schedules.check_steps(interval=1, refresh=value)
