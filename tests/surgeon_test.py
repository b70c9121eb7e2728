import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

import ong_jax
from ong_jax import allocation, surgeon

RNG = np.random.default_rng(0)
INPUTS = RNG.normal(size=(200, 12)) @ RNG.normal(size=(12, 12))
KERNEL = RNG.normal(size=(12, 5))
PARAMS = {'kernel': jnp.asarray(KERNEL, jnp.float32), 'bias': jnp.zeros(5)}
BATCHES = [jnp.asarray(INPUTS[i : i + 50], jnp.float32) for i in (0, 50, 100)]
BATCHES.append(jnp.asarray(INPUTS[150:], jnp.float32))


def dense(params, x):
  return x @ params['kernel'] + params['bias']


def least_squares(kept):
  """The best weights of each output for its mask, by NumPy."""
  best = np.zeros_like(KERNEL)
  for j, rows in enumerate(kept.T):
    target = INPUTS @ KERNEL[:, j]
    best[rows, j] = np.linalg.lstsq(INPUTS[:, rows], target, rcond=None)[0]
  return best


def error(kernel):
  return np.square(INPUTS @ (np.asarray(kernel, np.float64) - KERNEL)).sum()


class SurgeonTest(parameterized.TestCase):
  def test_removing_the_first_input_is_the_optimal_brain_surgeon(self):
    """All others may move: the sweep is the whole closed form."""
    mask = np.ones(KERNEL.shape, bool)
    mask[0, 2] = False
    update = surgeon.compensate(dense, BATCHES, damping=1e-7)
    found = update(PARAMS, {'kernel': jnp.asarray(mask), 'bias': None})
    np.testing.assert_allclose(found['kernel'], least_squares(mask), atol=2e-3)
    inverse = np.linalg.inv(INPUTS.T @ INPUTS)
    cost = KERNEL[0, 2] ** 2 / inverse[0, 0]
    np.testing.assert_allclose(error(found['kernel']), cost, rtol=2e-2)

  def test_follows_numpy(self):
    """The sweep as the paper writes it, input by input."""
    n = len(KERNEL)
    hessian = INPUTS.T @ INPUTS
    hessian += 0.01 * np.diag(hessian).mean() * np.eye(n)
    upper = np.linalg.cholesky(np.linalg.inv(hessian)).T
    w, kept = KERNEL.copy(), np.zeros(KERNEL.shape, bool)
    scores = (w / np.diag(upper)[:, None]) ** 2
    kept.ravel()[np.argsort(-scores.ravel())[:24]] = True
    for i in range(n):
      errors = np.where(kept[i], 0, w[i]) / upper[i, i]
      w[i:] -= np.outer(upper[i, i:], errors)
    w[~kept] = 0
    params, mask = surgeon.sparsegpt(dense, BATCHES, sparsity=0.6)(PARAMS)
    np.testing.assert_array_equal(mask['kernel'], kept)
    np.testing.assert_allclose(params['kernel'], w, rtol=1e-3, atol=1e-3)
    self.assertIs(params['bias'], PARAMS['bias'])

  @parameterized.parameters(0.0, 0.3, 0.5, 0.8, 0.95)
  def test_is_never_worse_than_the_same_mask_alone(self, sparsity):
    params, mask = surgeon.sparsegpt(dense, BATCHES, sparsity=sparsity)(PARAMS)
    kept = np.asarray(mask['kernel'])
    self.assertEqual(kept.sum(), 60 - round(sparsity * 60))
    np.testing.assert_array_equal(np.asarray(params['kernel']) != 0, kept)
    alone = error(np.where(kept, KERNEL, 0))
    self.assertLessEqual(error(params['kernel']), alone + 1e-6)
    if sparsity:
      self.assertLess(error(params['kernel']), alone)

  def test_beats_magnitude_with_and_without_its_mask(self):
    mask = ong_jax.magnitude(sparsity=0.5)(PARAMS)
    pruned = error(ong_jax.apply_mask(PARAMS, mask)['kernel'])
    update = surgeon.compensate(dense, BATCHES)
    updated = error(update(PARAMS, mask)['kernel'])
    own, _ = surgeon.sparsegpt(dense, BATCHES, sparsity=0.5)(PARAMS)
    self.assertLess(updated, pruned)
    self.assertLess(error(own['kernel']), updated)

  def test_without_correlations_it_is_magnitude(self):
    eye = [jnp.eye(12)]
    params, mask = surgeon.sparsegpt(dense, eye, sparsity=0.5)(PARAMS)
    expected = ong_jax.magnitude(sparsity=0.5)(PARAMS)
    np.testing.assert_array_equal(mask['kernel'], expected['kernel'])
    kept = np.asarray(mask['kernel'])
    np.testing.assert_array_equal(
      np.asarray(params['kernel'])[kept],
      np.asarray(PARAMS['kernel'])[kept],
    )

  @parameterized.parameters((2, 4), (1, 4), (3, 5))
  def test_keeps_n_of_every_m(self, n, m):
    prune = surgeon.sparsegpt(dense, BATCHES, n_of_m=(n, m))
    params, mask = prune(PARAMS)
    kept = np.asarray(mask['kernel'])
    np.testing.assert_array_equal(np.asarray(params['kernel']) != 0, kept)
    for start in range(0, 12, m):
      group = kept[start : start + m]
      np.testing.assert_array_equal(group.sum(0), min(n, len(group)))

  @parameterized.parameters((128, 3), (129, 2), (300, 1), (256, 4))
  def test_counts_are_exact_in_blocks_and_under_ties(self, fan_in, outputs):
    params = {'kernel': jnp.ones((fan_in, outputs))}
    x = jax.random.normal(jax.random.key(0), (fan_in + 50, fan_in))
    prune = surgeon.sparsegpt(lambda p, x: x @ p['kernel'], [x], sparsity=0.7)
    pruned, mask = prune(params)
    size = fan_in * outputs
    self.assertEqual(int(mask['kernel'].sum()), size - round(0.7 * size))
    np.testing.assert_array_equal(pruned['kernel'] != 0, mask['kernel'])

  def test_blocks_agree_with_one_long_sweep(self):
    """A given mask, over three blocks, against NumPy."""
    fan_in = 300
    x = RNG.normal(size=(500, fan_in)) @ RNG.normal(size=(fan_in, fan_in))
    x /= 10
    w = RNG.normal(size=(fan_in, 2))
    kept = RNG.random(size=w.shape) < 0.5
    params = {'kernel': jnp.asarray(w, jnp.float32)}
    update = surgeon.compensate(
      lambda p, x: x @ p['kernel'], [jnp.asarray(x, jnp.float32)], damping=0.1
    )
    found = update(params, {'kernel': jnp.asarray(kept)})['kernel']
    hessian = x.T @ x
    hessian += 0.1 * np.diag(hessian).mean() * np.eye(fan_in)
    upper = np.linalg.cholesky(np.linalg.inv(hessian)).T
    for i in range(fan_in):
      errors = np.where(kept[i], 0, w[i]) / upper[i, i]
      w[i:] -= np.outer(upper[i, i:], errors)
    np.testing.assert_allclose(
      found, np.where(kept, w, 0), rtol=1e-2, atol=1e-2
    )

  def test_inputs_that_are_always_0_lose_their_weights(self):
    batches = [b.at[:, 3].set(0) for b in BATCHES]
    params, mask = surgeon.sparsegpt(dense, batches, sparsity=0.5)(PARAMS)
    self.assertFalse(np.asarray(params['kernel'])[3].any())
    self.assertTrue(np.isfinite(params['kernel']).all())

  def test_of_a_mask_only_what_it_has_is_updated(self):
    batches = [b.at[:, 3].set(0) for b in BATCHES]
    update = surgeon.compensate(dense, batches)
    everything = {'kernel': jnp.ones((12, 5), bool), 'bias': None}
    found = update(PARAMS, everything)
    np.testing.assert_array_equal(found['kernel'], PARAMS['kernel'])
    two = {'a': PARAMS, 'b': {'kernel': jnp.ones((5, 2))}}
    half = jnp.arange(10).reshape(5, 2) % 2 == 0
    mask = jax.tree.map(lambda _: None, two) | {'b': {'kernel': half}}
    found = surgeon.compensate(
      lambda p, x: dense(p['a'], x) @ p['b']['kernel'], BATCHES
    )(two, mask)
    self.assertIs(found['a']['kernel'], PARAMS['kernel'])
    np.testing.assert_array_equal(found['b']['kernel'] != 0, half)

  def test_later_layers_see_what_the_pruned_ones_put_out(self):
    keys = jax.random.split(jax.random.key(0), 3)
    params = {
      'a': {'kernel': jax.random.normal(keys[0], (12, 8))},
      'b': {'kernel': jax.random.normal(keys[1], (8, 4))},
    }

    def network(params, x):
      return jnp.tanh(x @ params['a']['kernel'] / 5) @ params['b']['kernel']

    prune = surgeon.sparsegpt(network, BATCHES, sparsity=0.5)
    at_once = surgeon.sparsegpt(
      network, BATCHES, sparsity=0.5, sequential=False
    )
    (one, masks), (other, _) = prune(params), at_once(params)
    np.testing.assert_array_equal(one['a']['kernel'], other['a']['kernel'])
    self.assertTrue((one['b']['kernel'] != other['b']['kernel']).any())
    # The second as a layer of its own, on what the pruned first puts out.
    hidden = [jnp.tanh(x @ one['a']['kernel'] / 5) for x in BATCHES]
    alone = surgeon.sparsegpt(
      lambda p, x: x @ p['kernel'], hidden, sparsity=0.5
    )
    expected, mask = alone(params['b'])
    np.testing.assert_array_equal(masks['b']['kernel'], mask['kernel'])
    np.testing.assert_allclose(
      one['b']['kernel'], expected['kernel'], rtol=1e-3, atol=1e-4
    )

  def test_refuses(self):
    for options, message in (
      ({}, 'One of `sparsity` and `n_of_m` must be given'),
      ({'sparsity': 1.0}, '`sparsity` must be a number in'),
      ({'n_of_m': (4, 4)}, '`n`=4 must be below `m`=4'),
      ({'sparsity': 0.5, 'damping': 0.0}, '`damping` must be above 0'),
    ):
      with self.assertRaisesRegex(ValueError, message):
        surgeon.sparsegpt(dense, BATCHES, **options)
    with self.assertRaisesRegex(TypeError, '`batches` must be a list'):
      surgeon.sparsegpt(dense, iter(BATCHES), sparsity=0.5)
    with self.assertRaisesRegex(ValueError, '`allocate` must split'):
      surgeon.sparsegpt(
        dense, BATCHES, sparsity=0.5, allocate=allocation.pooled
      )(PARAMS)
    with self.assertRaisesRegex(ValueError, "'kernel' make no positive"):
      surgeon.sparsegpt(dense, [BATCHES[0] * jnp.nan], sparsity=0.5)(PARAMS)
    with self.assertRaisesRegex(ValueError, 'weights that are not finite'):
      nan = jax.tree.map(lambda x: x * jnp.nan, PARAMS)
      surgeon.sparsegpt(dense, BATCHES, sparsity=0.5)(nan)
    with self.assertRaisesRegex(ValueError, 'at least one batch'):
      surgeon.sparsegpt(dense, [], sparsity=0.5)(PARAMS)
    with self.assertRaisesRegex(ValueError, "'kernel' is multiplied in two"):
      surgeon.sparsegpt(
        lambda p, x: x @ p['kernel'] @ p['kernel'].T, BATCHES, sparsity=0.5
      )(PARAMS)


if __name__ == '__main__':
  absltest.main()
