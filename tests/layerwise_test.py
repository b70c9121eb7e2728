import jax
import jax.numpy as jnp
from absl.testing import absltest, parameterized

from ong_jax import layerwise, selection

PARAMS = {
  name: {'kernel': (i + 1.0) * jnp.eye(2)} for i, name in enumerate('abc')
}


def network(params, x):
  for name in 'cab':  # Not the order of the names.
    x = x @ params[name]['kernel']
  return x


class InOrderTest(parameterized.TestCase):
  @parameterized.parameters(True, False)
  def test_each_is_shown_what_comes_before_it(self, sequential):
    visit = layerwise.in_order(network, [jnp.ones((1, 2))], jnp.sum, sequential)
    seen = []

    def double(leaf, kernel, layers, sums):
      seen.append((layers[0].name[0], float(sums[0])))
      return 2 * kernel, kernel > 0

    params, mask = visit(PARAMS, double)
    # Twos, threefold and onefold; each before is doubled, or is not.
    expected = [2.0, 12.0, 24.0] if sequential else [2.0, 6.0, 6.0]
    self.assertEqual(seen, list(zip('cab', expected)))
    self.assertEqual(float(network(params, jnp.ones((1, 2)))[0, 0]), 48)
    self.assertEqual(sum(int(m.sum()) for m in jax.tree.leaves(mask)), 6)

  def test_counts_by_leaf_or_refuses(self):
    prunable = selection.is_kernel
    count = layerwise.counter(0.5, None, None, prunable)
    self.assertEqual(count(PARAMS), [2, 2, 2])
    count = layerwise.counter(None, (1, 2), None, prunable)
    self.assertEqual(count(PARAMS), [None] * 3)
    for sparsity, n_of_m in ((None, None), (0.5, (1, 2))):
      with self.assertRaisesRegex(ValueError, '^One of `sparsity` and `n_of'):
        layerwise.counter(sparsity, n_of_m, None, prunable)


if __name__ == '__main__':
  absltest.main()
