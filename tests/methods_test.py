import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl.testing import absltest, parameterized

from experiments import methods
from experiments.config import Config


def _params():
  key = jax.random.key(0)
  return {
    'conv1': {'kernel': jax.random.normal(key, (3, 3, 4, 8))},
    'block': {
      'shortcut_conv': {'kernel': jax.random.normal(key, (1, 1, 8, 8))}
    },
    'linear': {
      'kernel': jax.random.normal(key, (16, 10)),
      'bias': jnp.zeros(10),
    },
  }


def _mask(name, **fields):
  """The mask that the last segment of a method starts with."""
  segment = methods.METHODS[name].segments(Config(method=name, **fields))[-1]
  state = segment.method.transform(optax.identity()).init(_params())
  return state.mask


class MethodsTest(parameterized.TestCase):
  @parameterized.parameters(sorted(methods.METHODS))
  def test_ends_with_the_sparsity_asked_for(self, name):
    mask = _mask(name, sparsity=0.9)
    leaves = jax.tree.leaves(mask)
    total = sum(leaf.size for leaf in leaves)
    kept = sum(int(leaf.sum()) for leaf in leaves)
    expected = total if name == 'dense' else total - round(0.9 * total)
    self.assertEqual(kept, expected)

  @parameterized.parameters('ong', 'magnitude', 'ong-recon-mag')
  def test_training_seed_does_not_change_the_mask(self, name):
    chex.assert_trees_all_equal(_mask(name, seed=0), _mask(name, seed=1))

  def test_random_follows_the_seed(self):
    first, second = _mask('random', seed=0), _mask('random', seed=1)
    same = [
      bool((a == b).all())
      for a, b in zip(*map(jax.tree.leaves, (first, second)))
    ]
    self.assertFalse(all(same))

  def test_reference_set_leaves_classifier_and_shortcuts_dense(self):
    mask = _mask('ong-refset')
    self.assertIsNone(mask['linear']['kernel'])
    self.assertIsNone(mask['block']['shortcut_conv']['kernel'])
    self.assertIsNotNone(mask['conv1']['kernel'])

  def test_variants_are_different(self):
    names = [name for name in methods.METHODS if name.startswith('ong')]
    masks = {
      name: np.concatenate(
        [np.ravel(leaf) for leaf in jax.tree.leaves(_mask(name, sparsity=0.5))]
      ).tobytes()
      for name in names
    }
    self.assertLen(set(masks.values()), len(names))

  @parameterized.named_parameters(
    ('at_the_outset', 'ong', 0, [5]),
    ('after_dense_epochs', 'ong', 3, [3, 5]),
    ('only_prunes_afterwards', 'magnitude', 3, [3, 5]),
    ('dense', 'dense', 3, [8]),
  )
  def test_epochs_of_segments(self, name, dense_epochs, expected):
    config = Config(method=name, epochs=5, dense_epochs=dense_epochs)
    segments = methods.METHODS[name].segments(config)
    self.assertEqual([segment.epochs for segment in segments], expected)

  def test_every_summary_is_one_line(self):
    for name, entry in methods.METHODS.items():
      self.assertNotIn('\n', entry.summary, name)
      self.assertTrue(entry.summary.endswith('.'), name)


if __name__ == '__main__':
  absltest.main()
