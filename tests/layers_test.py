import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from flax import nnx

from ong_jax import layers, selection


class Everything(nn.Module):
  """Layers of all kinds, one after the other."""

  @nn.compact
  def __call__(self, x):
    x = nn.Conv(8, (3, 3), 2, padding=1, feature_group_count=2)(x)
    x = nn.relu(nn.Conv(8, (3, 2), kernel_dilation=2)(x))
    x = nn.ConvTranspose(8, (3, 2), strides=(2, 2))(x)
    x = x.reshape(len(x), -1, 8)
    x = nn.MultiHeadDotProductAttention(num_heads=2)(x, x)
    x = nn.DenseGeneral((2, 3), axis=(1, 2))(x)
    return nn.Einsum((3, 5), '...i,io->...o')(x)


class Transformer(nnx.Module):
  def __init__(self, rngs):
    self.attention = nnx.MultiHeadAttention(2, 8, rngs=rngs, decode=False)
    self.mlp = nnx.Linear(8, 4, rngs=rngs)

  def __call__(self, x):
    return nnx.jit(lambda mlp, x: mlp(x))(self.mlp, self.attention(x))


class FindTest(parameterized.TestCase):
  def test_products_are_what_the_layers_put_out(self):
    x = jax.random.normal(jax.random.key(1), (2, 8, 8, 4))
    variables = Everything().init(jax.random.key(0), x)
    params, outputs = variables['params'], {}

    def keep(next_fun, args, kwargs, context):
      y = next_fun(*args, **kwargs)
      if context.method_name == '__call__':
        outputs['/'.join(context.module.path)] = y
      return y

    def apply(params, x):
      return Everything().apply({'params': params}, x)

    with nn.intercept_methods(keep):
      apply(params, x)
    found = layers.find(apply, params, x)
    self.assertLen(found, 9)
    fed = layers.observer(apply, lambda x: x, [x])(params, range(9))
    kernels = jax.tree.leaves(selection.select(params))
    for layer, inputs in zip(found, fed):
      weights = np.ravel(kernels[layer.leaf])[layer.index]
      out = outputs[layer.name.removesuffix('/kernel')]
      bias = functools.reduce(
        lambda tree, key: tree[key], layer.name.split('/')[:-1], params
      )['bias']
      made = np.einsum('gpf,gfo->pgo', inputs, weights).ravel()
      np.testing.assert_allclose(made, np.ravel(out - bias), atol=1e-5)

  def test_order_is_that_of_the_data_and_not_of_the_names(self):
    params = {name: {'kernel': jnp.ones((2, 2))} for name in 'abc'}

    def apply(params, x):
      for name in 'cab':
        x = x @ params[name]['kernel']
      return x

    found = layers.find(jax.checkpoint(apply), params, jnp.ones((1, 2)))
    self.assertEqual([layer.name[0] for layer in found], ['c', 'a', 'b'])

  def test_knows_which_axes_of_attention_are_inputs(self):
    graph, params, rest = nnx.split(Transformer(nnx.Rngs(0)), nnx.Param, ...)

    def apply(params, x):
      return nnx.merge(graph, params, rest)(x)

    found = layers.find(apply, params, jnp.ones((3, 5, 8)))
    shapes = {layer.name: layer.index.shape for layer in found}
    self.assertEqual(
      shapes,
      {
        'attention/query/kernel/value': (1, 8, 8),
        'attention/key/kernel/value': (1, 8, 8),
        'attention/value/kernel/value': (1, 8, 8),
        'attention/out/kernel/value': (1, 8, 8),
        'mlp/kernel/value': (1, 8, 4),
      },
    )
    kernel = params['attention']['query']['kernel'].get_value()
    query = next(layer for layer in found if 'query' in layer.name)
    np.testing.assert_array_equal(
      kernel.ravel()[query.index[0]], kernel.reshape(8, 8)
    )

  def test_experts_are_groups_and_parts_are_layers_of_their_own(self):
    params = {
      'experts': {'kernel': jnp.ones((3, 4, 5))},
      'fused': {'kernel': jnp.ones((5, 6))},
    }

    def apply(params, x):
      x = jnp.einsum('ebi,eio->ebo', x, params['experts']['kernel']).sum(0)
      first, second = jnp.split(params['fused']['kernel'], 2, axis=1)
      return jnp.tanh(x @ first) + x @ second

    found = layers.find(apply, params, jnp.ones((3, 7, 4)))
    self.assertEqual(
      [layer.index.shape for layer in found],
      [(3, 4, 5), (1, 5, 3), (1, 5, 3)],
    )

  def test_what_is_met_twice_is_added_up(self):
    params = {'kernel': 2 * jnp.eye(3)}

    def apply(params, x):
      return jnp.tanh(x @ params['kernel']) @ params['kernel']

    x = jnp.ones((4, 3))
    (total,) = layers.observer(apply, jnp.sum, [x, x])(params, [0])
    np.testing.assert_allclose(total, 2 * 12 * (1 + np.tanh(2)), rtol=1e-6)

  def test_half_precision_is_counted_in_float32(self):
    params = {'kernel': jnp.ones((3, 1), jnp.bfloat16)}
    x = jnp.ones((1000, 3), jnp.bfloat16)
    observe = layers.observer(
      lambda p, x: x @ p['kernel'], lambda x: x.sum(1), [x]
    )
    (total,) = observe(params, [0])
    np.testing.assert_array_equal(total, [[1000.0] * 3])

  @parameterized.named_parameters(
    (
      'not_met',
      lambda p, x: x,
      "Of leaf 'kernel', 9 of 9 weights meet no input",
    ),
    (
      'met_in_part',
      lambda p, x: x @ p['kernel'][:, 1:],
      "Of leaf 'kernel', 3 of 9 weights meet no input",
    ),
    (
      'arithmetic',
      lambda p, x: x @ (2 * p['kernel']),
      "Leaf 'kernel' goes into a `mul`",
    ),
    (
      'loop',
      lambda p, x: jax.lax.scan(
        lambda x, _: (x @ p['kernel'], None), x, length=2
      )[0],
      "Leaf 'kernel' goes into a `scan`",
    ),
    (
      'itself',
      lambda p, x: x @ (p['kernel'] @ p['kernel']),
      "Leaf 'kernel' goes into a `dot_general`",
    ),
  )
  def test_refuses(self, apply, message):
    params = {'kernel': jnp.ones((3, 3))}
    with self.assertRaisesRegex(ValueError, message):
      layers.find(apply, params, jnp.ones((2, 3)))


if __name__ == '__main__':
  absltest.main()
