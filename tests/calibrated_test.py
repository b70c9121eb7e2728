import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

import ong_jax
from ong_jax import allocation, calibrated, scores

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 6))
Y = RNG.normal(size=(40, 3))
W = RNG.normal(size=(6, 3))
PARAMS = {'kernel': jnp.asarray(W, jnp.float32), 'bias': jnp.ones(3)}
BATCHES = [
  (jnp.asarray(X[i : i + 10], jnp.float32), jnp.asarray(Y[i : i + 10]))
  for i in range(0, 40, 10)
]


def loss(params, batch):
  x, y = batch
  return 0.5 * jnp.mean(
    jnp.square(x @ params['kernel'] + params['bias'] - y).sum(-1)
  )


def gradient(w):
  return X.T @ (X @ w + 1 - Y) / len(X)


class SensitivityTest(parameterized.TestCase):
  def test_of_least_squares_is_the_closed_form(self):
    found = calibrated.sensitivity(loss, BATCHES)(PARAMS)
    self.assertIsNone(found['bias'])
    np.testing.assert_allclose(
      found['kernel'], np.abs(W * gradient(W)), rtol=1e-4, atol=1e-6
    )

  def test_is_the_derivative_in_a_gate_of_every_weight(self):
    def gated(gates):
      return sum(loss(PARAMS | {'kernel': W * gates}, b) for b in BATCHES) / 4

    gates = jax.grad(gated)(jnp.ones(W.shape))
    found = calibrated.sensitivity(loss, BATCHES)(PARAMS)
    np.testing.assert_allclose(
      found['kernel'], np.abs(gates), rtol=1e-4, atol=1e-6
    )

  def test_no_batch_is_held(self):
    alive, most = 0, 0

    class Batch:
      def __init__(self, x, y):
        nonlocal alive, most
        self.x, self.y = x, y
        alive += 1
        most = max(most, alive)

      def __del__(self):
        nonlocal alive
        alive -= 1

    class Batches:
      def __iter__(self):
        return (Batch(*BATCHES[i % 4]) for i in range(20))

    find = jax.tree_util.Partial(lambda params, b: loss(params, (b.x, b.y)))
    jax.tree_util.register_pytree_node(
      Batch, lambda b: ((b.x, b.y), None), lambda _, xy: Batch(*xy)
    )
    calibrated.sensitivity(find, Batches())(PARAMS)
    self.assertLessEqual(most, 3)  # The next, the last, and JAX's own.

  def test_half_precision_is_added_up_in_float32(self):
    params = {'kernel': jnp.ones((1, 2), jnp.bfloat16)}
    ones = [jnp.ones((1, 2))] * 300
    found = calibrated.sensitivity(lambda p, b: jnp.sum(p['kernel'] * b), ones)
    np.testing.assert_array_equal(found(params)['kernel'], [[1.0, 1.0]])

  def test_what_is_no_weight_need_not_be_differentiable(self):
    params = PARAMS | {'steps': jnp.array(3)}
    expected = ong_jax.snip(loss, BATCHES, sparsity=0.5)(PARAMS)
    found = ong_jax.snip(loss, BATCHES, sparsity=0.5)(params)
    np.testing.assert_array_equal(found['kernel'], expected['kernel'])
    ong_jax.grasp(loss, BATCHES, sparsity=0.5)(params)

  def test_infinite_gradients_are_no_floors(self):
    prune = ong_jax.snip(
      lambda p, b: jnp.sum(p['kernel'] * b),
      [jnp.array([[jnp.inf, 1.0]])],
      sparsity=0.5,
    )
    with self.assertRaisesRegex(ValueError, '1 measured values are not finite'):
      prune({'kernel': jnp.ones((1, 2))})

  def test_snip_keeps_the_most_sensitive(self):
    mask = ong_jax.snip(loss, BATCHES, sparsity=0.5)(PARAMS)
    found = np.abs(W * gradient(W))
    kept = np.asarray(mask['kernel'])
    self.assertEqual(kept.sum(), 9)
    self.assertGreater(found[kept].min(), found[~kept].max())

  def test_every_score_can_be_made_of_it(self):
    prune = ong_jax.one_shot(
      scores.at_least(scores.identity, 2),
      0.5,
      allocate=allocation.pooled,
      measure=calibrated.sensitivity(loss, BATCHES),
    )
    self.assertGreaterEqual(prune(PARAMS)['kernel'].sum(0).min(), 2)


class GradientFlowTest(parameterized.TestCase):
  @parameterized.parameters('general', 'identity')
  def test_of_a_quadratic_is_the_closed_form(self, kind):
    root = RNG.normal(size=(6, 6))
    a = root @ root.T if kind == 'general' else np.eye(6)
    a = jnp.asarray(a, jnp.float32)
    w = jnp.asarray(RNG.normal(size=(6, 1)), jnp.float32)

    def quadratic(params, batch):
      del batch
      return 0.5 * jnp.sum(params['kernel'] * (a @ params['kernel']))

    found = calibrated.gradient_flow(quadratic, [None, None])({'kernel': w})
    expected = w * (a @ (a @ w))
    np.testing.assert_allclose(found['kernel'], expected, rtol=1e-4)
    if kind == 'identity':
      mask = ong_jax.grasp(quadratic, [None], sparsity=0.5)({'kernel': w})
      largest = ong_jax.magnitude(sparsity=0.5)({'kernel': w})
      np.testing.assert_array_equal(mask['kernel'], largest['kernel'])

  def test_what_is_removed_lowers_the_gradient_least(self):
    """To first order, against the norm itself, in prunable weights alone."""

    def norm(kernel):
      grads = [
        jax.grad(loss)(PARAMS | {'kernel': kernel}, b)['kernel']
        for b in BATCHES
      ]
      return 0.5 * jnp.sum(jnp.square(sum(grads) / 4))

    change = PARAMS['kernel'] * jax.grad(norm)(PARAMS['kernel'])
    found = calibrated.gradient_flow(loss, BATCHES)(PARAMS)['kernel']
    np.testing.assert_allclose(found, change, rtol=1e-3, atol=1e-5)
    self.assertLess(found.min(), 0)  # The sign decides.

  def test_counts_are_exact(self):
    for sparsity in (0.0, 0.3, 0.9):
      mask = ong_jax.grasp(loss, BATCHES, sparsity=sparsity)(PARAMS)
      self.assertEqual(int(mask['kernel'].sum()), 18 - round(sparsity * 18))


class BatchesTest(absltest.TestCase):
  def test_refuses(self):
    for make in (ong_jax.snip, ong_jax.grasp):
      with self.assertRaisesRegex(TypeError, r'more than once; got list_iter'):
        make(loss, iter(BATCHES), sparsity=0.5)
      with self.assertRaisesRegex(ValueError, 'at least one batch'):
        make(loss, [], sparsity=0.5)(PARAMS)
      with self.assertRaisesRegex(ValueError, '`sparsity` must be'):
        make(loss, BATCHES, sparsity=1.0)
      with self.assertRaisesRegex(ValueError, "'kernel', 18 measured values"):
        nan = [jax.tree.map(lambda x: x * jnp.nan, BATCHES[0])]
        make(loss, nan, sparsity=0.5)(PARAMS)


if __name__ == '__main__':
  absltest.main()
