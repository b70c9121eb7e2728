import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized

from ong_jax import costs, knapsack
from ong_jax.costs import Costs, LayerCost

# Three groups of which none shares a layer, and a chain of two that do.
APART = Costs(
  {'a': 2, 'b': 1, 'c': 1},
  [
    LayerCost(None, 'a', np.array([[0, 4, 5, 11]])),
    LayerCost('a', None, np.array([[0], [1], [3], [4]])),
    LayerCost(None, 'b', np.array([[0, 2, 2, 6, 7]])),
    LayerCost('c', None, np.array([[0], [3], [8]])),
  ],
  rest=10,
)
SHARED = Costs(
  {'a': 1, 'b': 2},
  [
    LayerCost(None, 'a', np.array([[0, 30, 60, 90, 120]])),
    LayerCost('a', 'b', 10 * np.outer(np.arange(5), np.arange(4))),
    LayerCost('b', None, np.array([[0], [5], [10], [15]])),
  ],
  rest=20,
)
# Costs that have to be rounded to ticks.
DEAR = APART._replace(
  layers=[x._replace(table=x.table * 1_000_003) for x in APART.layers]
)


def sum_of(table, picked):
  return sum(row[i] for row, i in zip(table, picked))


def random_scores(rng, problem):
  return {
    g: rng.exponential(size=n * problem.blocks[g]).astype('f4')
    for g, n in costs.num_blocks(problem).items()
  }


def value_of(scores, kept):
  return sum(float(scores[g][kept[g]].sum()) for g in scores)


def cost_of(problem, kept):
  left = {g: int(k.sum()) // problem.blocks[g] for g, k in kept.items()}
  return int(costs.total(problem, left))


def best_value(scores, problem, capacity):
  """Tries every number of blocks of every group."""
  sizes = costs.num_blocks(problem)
  ranked = {g: np.sort(scores[g])[::-1] for g in sizes}
  values = [
    sum(ranked[g][: n * problem.blocks[g]].sum() for g, n in zip(sizes, left))
    for left in itertools.product(*(range(1, n + 1) for n in sizes.values()))
    if _total(problem, dict(zip(sizes, left))) <= capacity
  ]
  return max(values)


def _total(problem, left):
  return problem.rest + sum(
    table[left.get(inputs, 0), left.get(outputs, 0)]
    for inputs, outputs, table in problem.layers
  )


@functools.partial(jax.jit, static_argnums=1)
def choose(scores, name, capacity):
  problem = {'apart': APART, 'shared': SHARED, 'dear': DEAR}[name]
  return knapsack.choose(scores, problem, capacity)


class SolveTest(chex.TestCase):
  def test_agrees_with_brute_force(self):
    rng = np.random.default_rng(0)
    for trial in range(60):
      shape = ((4, 5), (2, 3))[trial % 2]
      values = rng.integers(-3, 9, shape)
      prices = rng.integers(-1, 7, shape)  # -1 is not offered.
      capacity = int(rng.integers(0, 20))
      combinations = [
        picked
        for picked in itertools.product(*map(range, [shape[1]] * shape[0]))
        if min(row[i] for row, i in zip(prices, picked)) >= 0
        and sum_of(prices, picked) <= capacity
      ]
      picked = knapsack.solve(
        jnp.array(values), jnp.array(prices), capacity, max_capacity=24
      )
      if not combinations:
        np.testing.assert_array_equal(picked, [-1] * shape[0])
        continue
      picked = tuple(picked.tolist())
      self.assertIn(picked, combinations)
      best = max(sum_of(values, c) for c in combinations)
      self.assertEqual(sum_of(values, picked), best)

  def test_of_equal_sums_the_lowest_option_of_the_last_group(self):
    values = jnp.array([[0, 3, 3], [0, 3, 3]])
    prices = jnp.array([[0, 1, 2], [0, 1, 2]])
    for capacity, expected in ((1, [1, 0]), (2, [1, 1]), (9, [1, 1])):
      picked = knapsack.solve(values, prices, capacity, max_capacity=9)
      np.testing.assert_array_equal(picked, expected)

  @chex.variants(with_jit=True, without_jit=True)
  def test_capacity_can_be_traced(self):
    solve = self.variant(
      lambda capacity: knapsack.solve(
        jnp.array([[1, 2]]), jnp.array([[1, 3]]), capacity, max_capacity=4
      )
    )
    picked = [int(solve(c)[0]) for c in (-5, 0, 1, 2, 3, 4, 100)]
    self.assertEqual(picked, [-1, -1, 0, 0, 1, 1, 1])

  def test_exact_where_a_float_is_not(self):
    values = jnp.array([[0, 2**30], [0, 1]])
    picked = knapsack.solve(values, jnp.array([[0, 1]] * 2), 2, max_capacity=2)
    np.testing.assert_array_equal(picked, [1, 1])


class ChooseTest(parameterized.TestCase):
  def test_agrees_with_brute_force_where_no_layer_is_shared(self):
    rng = np.random.default_rng(0)
    scores = random_scores(rng, APART)
    last = 0
    for capacity in range(20, 42):  # From a block of each group to all.
      kept = choose(scores, 'apart', capacity)
      value = value_of(scores, kept)
      self.assertLessEqual(cost_of(APART, kept), capacity)
      best = best_value(scores, APART, capacity)
      self.assertAlmostEqual(value, best, places=5)
      self.assertGreaterEqual(value, last)
      last = value
    self.assertEqual(
      {g: k.all() for g, k in kept.items()}, dict.fromkeys('abc', True)
    )

  def test_shared_layers_within_the_budget_and_near_the_best(self):
    rng = np.random.default_rng(1)
    for capacity in range(65, 296, 11):
      scores = random_scores(rng, SHARED)
      kept = choose(scores, 'shared', capacity)
      self.assertLessEqual(cost_of(SHARED, kept), capacity)
      best = best_value(scores, SHARED, capacity)
      self.assertGreater(value_of(scores, kept), 0.9 * best)

  @parameterized.parameters(275, 1000)
  def test_all_is_kept_if_it_can_be_paid_for(self, capacity):
    scores = random_scores(np.random.default_rng(2), SHARED)
    kept = choose(scores, 'shared', capacity)
    self.assertTrue(all(k.all() for k in kept.values()))

  def test_keeps_the_best_prefix_and_the_first_of_equals(self):
    scores = {
      'a': jnp.array([1.0, 5, 2, 5, 1, 2]),  # In blocks of two: 5 5, 2 2, 1 1.
      'b': jnp.array([3.0, 3, 3, 3]),
      'c': jnp.array([0.0, 1]),
    }
    kept = choose(scores, 'apart', 10 + 8 + 2 + 3)
    np.testing.assert_array_equal(kept['a'], [0, 1, 1, 1, 0, 1])
    np.testing.assert_array_equal(kept['b'], [1, 1, 0, 0])
    np.testing.assert_array_equal(kept['c'], [0, 1])

  def test_a_group_that_may_go_altogether(self):
    scores = {
      'a': jnp.arange(6.0) / 100,
      'b': jnp.array([3.0, 3, 3, 3]),
      'c': jnp.array([1.0, 1]),
    }
    without = APART._replace(least={'a': 0})
    dense = costs.num_blocks(APART)
    budget = int(costs.total(APART, dense | {'a': 0}))
    kept = knapsack.choose(scores, without, budget)
    self.assertEqual(
      {g: int(k.sum()) for g, k in kept.items()}, {'a': 0, 'b': 4, 'c': 2}
    )

  def test_what_is_mandatory_stays_and_what_is_not_eligible_goes(self):
    scores = {
      'a': jnp.array([jnp.inf, 0.1, -jnp.inf, 9, 9, jnp.nan]),
      'b': jnp.array([-jnp.inf, 1, 1, 1]),
      'c': jnp.array([-jnp.inf, -jnp.inf]),
    }
    kept = choose(scores, 'apart', 1000)
    np.testing.assert_array_equal(kept['a'], [1, 1, 0, 1, 1, 0])
    np.testing.assert_array_equal(kept['b'], [0, 1, 1, 1])
    np.testing.assert_array_equal(kept['c'], [1, 0])  # One block stays.
    kept = choose(scores, 'apart', 0)  # Nothing can be paid for.
    np.testing.assert_array_equal(kept['a'], [1, 0, 0, 1, 0, 0])

  def test_what_is_mandatory_stays_where_it_costs_nothing_more(self):
    flat = Costs({'a': 1}, [LayerCost(None, 'a', np.array([[0, 5, 5]]))], 0)
    kept = knapsack.choose({'a': jnp.array([jnp.inf, jnp.inf])}, flat, 5)
    np.testing.assert_array_equal(kept['a'], [1, 1])

  def test_scores_of_zero(self):
    scores = {'a': jnp.zeros(6), 'b': jnp.zeros(4), 'c': jnp.zeros(2)}
    kept = choose(scores, 'apart', 41)
    self.assertEqual([int(k.sum()) for k in kept.values()], [2, 1, 1])

  def test_costs_above_the_number_of_ticks(self):
    scores = random_scores(np.random.default_rng(3), APART)
    for capacity in (22, 28, 33, 38):
      capacity = 10 + (capacity - 10) * 1_000_003
      kept = choose(scores, 'dear', capacity)
      self.assertLessEqual(cost_of(DEAR, kept), capacity)
      best = best_value(scores, DEAR, capacity)
      self.assertAlmostEqual(value_of(scores, kept), best, places=5)

  def test_bad_scores(self):
    with self.assertRaisesRegex(
      ValueError, r"^`scores` must be of .* {'a': 4, 'b': 6}, got {'a': 4}\.$"
    ):
      knapsack.choose({'a': jnp.ones(4)}, SHARED, 100)
