import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized

from ong_jax import starts

KEY = jax.random.key(0)


class StartTest(parameterized.TestCase):
  def test_random_start_has_the_scale_of_the_matrix(self):
    v = jnp.full((400, 300), 10.0)
    w, h = starts.random_start(KEY, v, 5)
    chex.assert_shape([w, h], [(400, 5), (5, 300)])
    self.assertGreaterEqual(min(w.min(), h.min()), 0)
    # E |N(0, 1)|^2 = 1, so the mean square is mean(V) / rank.
    np.testing.assert_allclose(jnp.mean(w**2), 2, 0.1)
    np.testing.assert_allclose(jnp.mean(h**2), 2, 0.1)
    chex.assert_trees_all_equal(starts.random_start(KEY, v, 5), (w, h))
    other, _ = starts.random_start(jax.random.key(1), v, 5)
    self.assertFalse(np.any(other == w))

  def test_nndsvd_by_hand(self):
    # Eigenvalues 3 +- sqrt(2), the first vector (cos pi/8, sin pi/8). Of the
    # second, (sin pi/8, -cos pi/8), only the larger part is taken.
    v = jnp.array([[4.0, 1.0], [1.0, 2.0]])
    big, small = np.sqrt([3 + 2**0.5, 3 - 2**0.5])
    cos, sin = np.cos(np.pi / 8), np.sin(np.pi / 8)
    expected = np.array([[big * cos, 0], [big * sin, small * cos]])
    w, h = starts.nndsvd(KEY, v, 2)
    np.testing.assert_allclose(w, expected, atol=1e-6)
    np.testing.assert_allclose(h, expected.T, atol=1e-6)
    filled = np.where(expected > 0, expected, 2.0)  # The mean of V.
    w, h = starts.nndsvda(KEY, v, 2)
    np.testing.assert_allclose(w, filled, atol=1e-6)
    np.testing.assert_allclose(h, filled.T, atol=1e-6)
