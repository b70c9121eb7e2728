import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized

from ong_jax import saliency

V = jnp.array([[1.0, 4.0], [3.0, 0.5]])
W = jnp.array([[1.0, 0.0], [0.5, 1.0]])
H = jnp.array([[2.0, 1.0], [0.0, 1.5]])  # W H = [[2, 1], [1, 2]].
SALIENCIES = (
  ('residual', saliency.residual, [[1, 3], [2, 1.5]]),
  ('recon', saliency.recon, [[2, 1], [1, 2]]),
  ('recon_mag', saliency.recon_mag, [[2, 4], [3, 1]]),
  # V - W H = [[-1, 3], [2, -1.5]], and the highest of W H is 2.
  ('signed_residual', saliency.signed_residual, [[1, 5], [4, 0.5]]),
  ('rel_residual', saliency.rel_residual, [[0.5, 3], [2, 0.75]]),
  # The mean of W H is 1.5.
  ('tempered', saliency.tempered, [[1.154701, 3.265986], [2.449490, 0.577350]]),
  ('component', saliency.component, [[2, 1], [1, 1.5]]),
)


class SaliencyTest(parameterized.TestCase):
  @parameterized.named_parameters(*SALIENCIES)
  def test_by_hand(self, score, expected):
    np.testing.assert_allclose(score(V, W, H), expected, rtol=1e-5)

  @parameterized.named_parameters(x[:2] for x in SALIENCIES)
  def test_scale_and_order_of_components_do_not_matter(self, score):
    d, order = jnp.array([4.0, 0.5]), np.array([1, 0])
    gauged = score(V, (W * d)[:, order], (H / d[:, None])[order])
    chex.assert_trees_all_equal(gauged, score(V, W, H))

  @parameterized.named_parameters(
    ('recon', saliency.recon), ('recon_mag', saliency.recon_mag)
  )
  def test_an_exact_fit_ranks_by_magnitude(self, score):
    v = np.random.default_rng(0).permutation(12).reshape(4, 3).astype('float32')
    scores = score(v, v, np.eye(3, dtype=np.float32))
    np.testing.assert_array_equal(
      np.argsort(scores.ravel()), np.argsort(v.ravel())
    )

  def test_tempered_is_at_the_scale_of_magnitude(self):
    # Of a constant, it is the magnitude; of nothing fitted, nothing.
    ones = jnp.ones((2, 2))
    np.testing.assert_allclose(saliency.tempered(V, ones, ones), V, rtol=1e-6)
    zeros = jnp.zeros((2, 2))
    chex.assert_trees_all_equal(saliency.tempered(V, zeros, zeros), zeros)

  def test_rel_residual_is_finite_where_nothing_is_fitted(self):
    zeros = jnp.zeros((2, 2))
    chex.assert_tree_all_finite(saliency.rel_residual(V, zeros, zeros))
    chex.assert_trees_all_equal(
      saliency.rel_residual(zeros, zeros, zeros), zeros
    )

  @parameterized.named_parameters(
    ('tenth', 0.1, (144, 16), 2),
    ('all', 1.0, (144, 16), 16),
    ('of_the_smaller_side', 0.6, (7, 100), 5),
    ('whole', 0.25, (16, 16), 4),
  )
  def test_rank_ratio_rounds_up(self, ratio, shape, expected):
    self.assertEqual(saliency.rank_ratio(ratio)(jnp.ones(shape)), expected)

  def test_rank_ratio_does_not_round_up_what_is_whole(self):
    # In floats 0.07 * 100 is 7.000000000000001.
    self.assertEqual(saliency.rank_ratio(0.07)(jnp.ones((100, 100))), 7)

  @parameterized.named_parameters(
    ('first', 0.85, 1), ('first_two', 0.95, 2), ('nearly_all', 0.9999, 3)
  )
  def test_rank_energy_by_hand(self, energy, expected):
    # Energies 9, 1 and 0.04: the first has 0.896 of all, two have 0.996.
    v = jnp.diag(jnp.array([0.2, 3.0, 1.0]))
    self.assertEqual(saliency.rank_energy(energy)(v), expected)


class FactorizeTest(parameterized.TestCase):
  def test_other_limits_are_not_compiled_again(self):
    key, weights = jax.random.key(0), {'a': jnp.asarray(V), 'b': jnp.ones(3)}
    before = saliency._solve._cache_size()
    for limits in {}, {'max_sweeps': 2, 'tol': 0}, {'tol': 0.1}:
      found = saliency.factorize(key, weights, 1, **limits)
    self.assertEqual(saliency._solve._cache_size(), before + 1)
    self.assertLess(found['a'].sweeps, 200)

  @parameterized.named_parameters(
    ('sweeps', {'max_sweeps': 0}, '^`max_sweeps` must be .* 1; got 0.$'),
    ('tol', {'tol': 1.0}, r'^`tol` must lie in \[0, 1\); got 1.0.$'),
  )
  def test_refuses_limits_before_they_are_traced(self, limits, message):
    with self.assertRaisesRegex(ValueError, message):
      saliency.factorize(jax.random.key(0), {'a': jnp.ones((4, 4))}, **limits)
