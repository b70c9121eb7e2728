import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest
from jax.sharding import PartitionSpec as P

from ong_jax import taylor

_NAMES = {
  'bn1': {'scale': P('a'), 'bias': P('a')},
  'bn2': {'scale': P('a'), 'bias': P('a')},
  'conv': {'kernel': P(None, None, None, 'b')},
  'linear': {'kernel': P('b', None), 'bias': P(None)},
}


def _params():
  keys = iter(jax.random.split(jax.random.key(0), 7))
  shapes = {
    'bn1': {'scale': (4,), 'bias': (4,)},
    'bn2': {'scale': (4,), 'bias': (4,)},
    'conv': {'kernel': (3, 3, 2, 5)},
    'linear': {'kernel': (5, 2), 'bias': (2,)},
  }
  return jax.tree.map(
    lambda s: jax.random.normal(next(keys), s),
    shapes,
    is_leaf=lambda x: isinstance(x, tuple),
  )


def _loss(params):
  conv = jnp.tanh(params['conv']['kernel']).sum((0, 1, 2))
  norm = sum(
    jnp.sin(params[x]['scale'] * (i + 1)) + params[x]['bias'] ** 2
    for i, x in enumerate(('bn1', 'bn2'))
  )
  return norm.sum() + (jnp.sin(conv) @ params['linear']['kernel']).sum()


class ChannelsTest(absltest.TestCase):
  def test_is_the_derivative_under_scaling_a_channel(self):
    params = _params()
    found = taylor.channels(_NAMES)(params, jax.grad(_loss)(params))
    self.assertEqual(
      {k: v.shape for k, v in found.items()}, {'a': (4,), 'b': (5,)}
    )
    for group, leaves in (
      (
        'a',
        [('bn1', 'scale'), ('bn1', 'bias'), ('bn2', 'scale'), ('bn2', 'bias')],
      ),
      ('b', [('conv', 'kernel')]),
    ):
      for channel in range(len(found[group])):

        def scaled(factor, leaves=leaves, channel=channel):
          moved = jax.tree.map(jnp.array, params)
          for layer, name in leaves:
            leaf = moved[layer][name]
            moved[layer][name] = leaf.at[..., channel].multiply(factor)
          return _loss(moved)

        eps = 1e-2
        slope = (scaled(1 + eps) - scaled(1 - eps)) / (2 * eps)
        np.testing.assert_allclose(
          found[group][channel], abs(slope), rtol=1e-2, atol=1e-2
        )

  def test_a_channel_that_is_nothing_scores_nothing(self):
    params = _params()
    for layer in ('bn1', 'bn2'):
      for name in ('scale', 'bias'):
        params[layer][name] = params[layer][name].at[2].set(0)
    found = taylor.channels(_NAMES)(params, jax.tree.map(jnp.ones_like, params))
    self.assertEqual(float(found['a'][2]), 0)
    self.assertTrue((np.delete(np.asarray(found['a']), 2) > 0).all())

  def test_a_useless_copy_of_a_channel_ranks_last(self):
    params = _params()
    conv = params['conv']['kernel']
    params['conv']['kernel'] = conv.at[..., 3].set(conv[..., 1])
    read = params['linear']['kernel']
    params['linear']['kernel'] = read.at[3].set(0)  # Nobody reads the copy.
    found = taylor.channels(_NAMES)(params, jax.grad(_loss)(params))
    self.assertEqual(int(found['b'].argmin()), 3)
    self.assertGreater(float(found['b'][1]), float(found['b'][3]))

  def test_a_bias_without_a_scale_is_of_its_layer(self):
    names = {'kernel': P(None, 'a'), 'bias': P('a')}
    params = {'kernel': jnp.ones((3, 2)), 'bias': jnp.array([0.0, 2.0])}
    grads = {'kernel': jnp.array([[1.0, 5.0]] * 3), 'bias': jnp.ones(2)}
    for tree in (lambda x: x, lambda x: {'layer': x}):
      found = taylor.channels(tree(names))(tree(params), tree(grads))
      np.testing.assert_array_equal(found['a'], [3, 17])

  def test_refuses_names_that_do_not_fit(self):
    params = {'kernel': jnp.ones((3, 2)), 'bias': jnp.ones(2)}
    with self.assertRaisesRegex(ValueError, "'bias' .* as many"):
      taylor.channels({'kernel': P(None, 'a'), 'bias': None})(params, params)

  def test_small_numbers_of_16_bits_are_not_lost(self):
    params = {'kernel': jnp.full((1, 2), 1e-3, jnp.float16)}
    grads = {'kernel': jnp.full((1, 2), 1e-5, jnp.float16)}
    self.assertTrue((taylor.weights()(params, grads)['kernel'] > 0).all())
    found = taylor.channels({'kernel': P(None, 'a')})(params, grads)
    self.assertTrue((found['a'] > 0).all())


class AverageTest(absltest.TestCase):
  def test_leaves_out_what_is_not_finite_and_what_is_not_asked_for(self):
    params = {'kernel': jnp.array([[1.0, -2.0]])}
    observe = taylor.weights()
    average = taylor.nothing(observe, params)
    for factor, when in (
      (1.0, True),
      (jnp.nan, True),
      (9.0, False),
      (3.0, True),
    ):
      grads = {'kernel': jnp.full((1, 2), factor)}
      average = taylor.add(average, observe(params, grads), when)
    self.assertEqual(int(average.count), 2)
    np.testing.assert_array_equal(taylor.mean(average)['kernel'], [[2, 4]])

  def test_of_no_batch_is_zero(self):
    average = taylor.nothing(taylor.weights(), {'kernel': jnp.ones((1, 2))})
    np.testing.assert_array_equal(taylor.mean(average)['kernel'], [[0, 0]])


if __name__ == '__main__':
  absltest.main()
