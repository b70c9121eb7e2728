import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

import ong_jax
from ong_jax import allocation, flow


class Mlp(nn.Module):
  @nn.compact
  def __call__(self, x):
    for features in (7, 5, 3):
      x = nn.relu(nn.Dense(features, use_bias=False)(x))
    return x


def _mlp():
  params = Mlp().init(jax.random.key(0), jnp.ones((1, 4)))['params']
  return params, lambda p: Mlp().apply({'params': p}, jnp.ones((1, 4))).sum()


def _kernels(tree):
  return [np.asarray(tree[f'Dense_{i}']['kernel']) for i in range(3)]


class FlowTest(parameterized.TestCase):
  def test_is_conserved(self):
    params, run = _mlp()
    with jax.enable_x64(True):
      rest, weights = flow.linear(params)
      value, scores = flow.flow_scores(run, rest, weights)
    first, second, third = _kernels(scores)
    for layer in (first, second, third):
      self.assertEqual(layer.dtype, np.float64)
      np.testing.assert_allclose(layer.sum(), value, rtol=1e-13)
    np.testing.assert_allclose(first.sum(0), second.sum(1), rtol=1e-13)
    np.testing.assert_allclose(second.sum(0), third.sum(1), rtol=1e-13)
    a, b, c = (np.abs(w).astype(np.float64) for w in _kernels(params))
    np.testing.assert_allclose(value, (np.ones(4) @ a @ b @ c).sum())
    np.testing.assert_allclose(
      second, b * np.outer(np.ones(4) @ a, c.sum(1)), rtol=1e-13
    )

  @parameterized.parameters(0.5, 0.9, 0.95)
  def test_follows_numpy(self, sparsity):
    params, run = _mlp()
    ws = [np.abs(w).astype(np.float64) for w in _kernels(params)]
    kept, size = np.ones(78, bool), 78
    for t in range(1, 11):
      a, b, c = (w * k for w, k in zip(ws, self._split(kept)))
      into, out = np.ones(4) @ a, c.sum(1)
      scores = [a * (b @ out), b * np.outer(into, out), c * (into @ b)[:, None]]
      flat = np.where(kept, np.concatenate([s.ravel() for s in scores]), -1)
      density = (1 - sparsity) ** (t / 10)
      k = size - round((1 - density if t < 10 else sparsity) * size)
      kept = np.zeros(size, bool)
      kept[np.argsort(-flat, kind='stable')[:k]] = True
    mask = flow.synflow(run, sparsity=sparsity, rounds=10)(params)
    for found, expected in zip(_kernels(mask), self._split(kept)):
      np.testing.assert_array_equal(found, expected)

  def _split(self, flat):
    parts = np.split(flat, [28, 63])
    return [p.reshape(s) for p, s in zip(parts, [(4, 7), (7, 5), (5, 3)])]

  def test_conserves_in_convolutions(self):
    keys = jax.random.split(jax.random.key(0))
    params = {
      'a': {'kernel': jax.random.normal(keys[0], (3, 3, 2, 4))},
      'b': {'kernel': jax.random.normal(keys[1], (3, 3, 4, 3))},
    }

    def run(params):
      x = jnp.ones((1, 5, 5, 2))
      for name in params:
        x = jax.lax.conv_general_dilated(
          x,
          params[name]['kernel'],
          (1, 1),
          'SAME',
          dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
        )
      return x.sum()

    with jax.enable_x64(True):
      value, scores = flow.flow_scores(run, *flow.linear(params))
    into, out = (np.asarray(scores[name]['kernel']) for name in 'ab')
    np.testing.assert_allclose(into.sum(), value, rtol=1e-13)
    np.testing.assert_allclose(
      into.sum((0, 1, 2)), out.sum((0, 1, 3)), rtol=1e-13
    )

  def test_empties_no_layer_of_a_deep_network(self):
    """Whose flow no float32 could hold, and of which magnitude empties some."""
    draws = jax.random.normal(jax.random.key(0), (16, 6, 6))
    draws /= jnp.arange(1, 17)[:, None, None]
    params = {f'{i:02}': {'kernel': draw} for i, draw in enumerate(draws)}

    def run(params):
      x = jnp.ones(6)
      for i, name in enumerate(sorted(params)):
        x = 1e4 * (1 + i) * x @ params[name]['kernel']
      return x.sum()

    mask = flow.synflow(run, sparsity=0.95, rounds=50)(params)
    counts = [int(m.sum()) for m in jax.tree.leaves(mask)]
    self.assertEqual(sum(counts), 29)
    self.assertGreater(min(counts), 0)
    by_size = ong_jax.magnitude(sparsity=0.95)(params)
    self.assertEqual(min(int(m.sum()) for m in jax.tree.leaves(by_size)), 0)

  def test_counts_are_exact_and_nested_by_leaf(self):
    params, run = _mlp()
    prune = flow.synflow(run, sparsity=0.75, allocate=allocation.uniform)
    self.assertEqual([m.sum() for m in _kernels(prune(params))], [7, 9, 4])
    self.assertEqual(jax.tree.leaves(prune(params))[0].dtype, jnp.bool_)

  def test_what_is_no_weight_lets_through(self):
    params = {
      'bn': {'scale': jnp.array([5.0]), 'bias': jnp.array([2.0])},
      'table': jnp.array([-3.0]),
      'fc': {'kernel': jnp.array([[-2.0]])},
      'steps': jnp.array(3),
    }
    with jax.enable_x64(True):
      rest, weights = flow.linear(params)
    self.assertEqual(float(rest['bn']['scale'][0]), 1)
    self.assertEqual(float(rest['bn']['bias'][0]), 0)
    self.assertEqual(float(rest['table'][0]), 3)
    self.assertEqual(float(weights['fc']['kernel'][0, 0]), 2)
    self.assertEqual(int(rest['steps']), 3)

  def test_jitted_it_is_one_loop(self):
    params, run = _mlp()
    prune = flow.synflow(run, sparsity=0.8, rounds=10)
    expected, found = prune(params), jax.jit(prune)(params)
    for a, b in zip(*map(jax.tree.leaves, (expected, found))):
      np.testing.assert_array_equal(a, b)
    self.assertIn('while', str(jax.make_jaxpr(prune)(params)))

  def test_refuses(self):
    params, run = _mlp()
    with self.assertRaisesRegex(ValueError, '`rounds` must be an integer'):
      flow.synflow(run, sparsity=0.5, rounds=0)
    with self.assertRaisesRegex(ValueError, 'The flow is inf'):
      flow.synflow(lambda p: run(p) * jnp.inf, sparsity=0.5)(params)
    with self.assertRaisesRegex(ValueError, 'The flow is 0.0'):
      flow.synflow(lambda p: 0 * run(p), sparsity=0.5)(params)


if __name__ == '__main__':
  absltest.main()
