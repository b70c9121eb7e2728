import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl.testing import absltest, parameterized

from ong_jax import trainable
from ong_jax.trainable import Trainable

PARAMS = {
  'a': {'kernel': jnp.array([[1.0, -4, 3], [2, 6, -5]]), 'bias': jnp.ones(3)},
  'b': {'kernel': jnp.array([[-7.0, 8]])},
}


class TrainableTest(parameterized.TestCase):
  def test_an_optimizer_trains_both(self):
    both = Trainable(PARAMS, {'a': {'kernel': jnp.ones(3), 'bias': None}})
    tx = optax.adam(0.1)
    updates, _ = tx.update(both, tx.init(both), both)
    chex.assert_trees_all_equal_structs(updates, both)
    np.testing.assert_allclose(updates.extra['a']['kernel'], -0.1, rtol=1e-5)
    np.testing.assert_allclose(updates.params['a']['bias'], -0.1, rtol=1e-5)


class UndecayedTest(parameterized.TestCase):
  def test_extra_leaves_follow_but_do_not_decay(self):
    inner = optax.chain(optax.add_decayed_weights(0.5), optax.sgd(1.0, 0.5))
    tx = trainable.undecayed(inner)
    both = Trainable({'kernel': jnp.array([8.0])}, {'kernel': jnp.array([8.0])})
    grads, state, found = jax.tree.map(jnp.ones_like, both), tx.init(both), []
    for _ in range(2):
      updates, state = tx.update(grads, state, both)
      both = optax.apply_updates(both, updates)
      found.append([both.params['kernel'][0], both.extra['kernel'][0]])
    # Momentum is 1 + 4, then 2.5 + 1 + 1.5; and 1, then 0.5 + 1.
    self.assertEqual(found, [[3, 7], [-2, 5.5]])

  def test_hands_on_all_else(self):
    def update(updates, state, params=None, *, value):
      return updates, (params, value)

    inner = optax.GradientTransformationExtraArgs(lambda x: x, update)
    tx = trainable.undecayed(inner)
    both = Trainable(
      {'kernel': jnp.ones(1)}, {'kernel': None, 'b': jnp.ones(2)}
    )
    self.assertIs(tx.init(both), both)
    updates, (params, value) = tx.update(both, None, both, value=3.0)
    self.assertIs(updates, both)
    self.assertEqual(value, 3.0)
    self.assertIs(params.params, both.params)
    expected = {'kernel': None, 'b': jnp.zeros(2)}
    chex.assert_trees_all_equal(params.extra, expected)
    self.assertIsNone(tx.update(both, None, value=3.0)[1][0])


if __name__ == '__main__':
  absltest.main()
