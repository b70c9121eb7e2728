from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from absl.testing import parameterized
from flax import nnx

from ong_jax import selection


class Net(nn.Module):
  @nn.compact
  def __call__(self, tokens):
    x = nn.Embed(5, 4)(tokens)
    x = nn.Conv(3, (2,))(x)
    x = nn.BatchNorm(use_running_average=True)(x)
    x = nn.LayerNorm()(x)
    x = nn.MultiHeadDotProductAttention(num_heads=3)(x)
    return nn.Dense(2, use_bias=False)(x)


class NnxNet(nnx.Module):
  def __init__(self, rngs):
    self.embed = nnx.Embed(5, 4, rngs=rngs)
    self.convs = nnx.List([nnx.Conv(4, 3, (2,), rngs=rngs)])
    self.norm = nnx.BatchNorm(3, rngs=rngs)
    self.fc = nnx.Linear(3, 2, rngs=rngs)


class Linear(NamedTuple):
  """Keeps its kernel as Equinox does, [out, in] and named `weight`."""

  weight: Any
  bias: Any
  activation: Any = None


def names(tree):
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return [selection.name_of(path) for path, _ in leaves]


class IsKernelTest(parameterized.TestCase):
  def test_linen(self):
    params = jax.eval_shape(
      Net().init, jax.random.key(0), jnp.zeros((1, 6), int)
    )['params']
    attention = 'MultiHeadDotProductAttention_0'
    self.assertEqual(
      names(selection.select(params)),
      ['Conv_0/kernel', 'Dense_0/kernel']
      + [f'{attention}/{x}/kernel' for x in ('key', 'out', 'query', 'value')],
    )
    self.assertIn('Embed_0/embedding', names(params))
    self.assertIn('BatchNorm_0/scale', names(params))

  def test_nnx(self):
    state = nnx.eval_shape(lambda: nnx.state(NnxNet(nnx.Rngs(0)), nnx.Param))
    self.assertEqual(
      names(selection.select(state)),
      ['convs/0/kernel/value', 'fc/kernel/value'],
    )

  def test_nested_dicts_and_lists(self):
    params = {
      'kernel': jnp.ones(3),  # Of one dimension.
      'factors': {'kernel': {'left': jnp.ones((2, 2))}},
      'layers': [
        {'kernel': jnp.ones((1, 2)), 'kernel_scale': jnp.ones((2, 2))}
      ],
      'value': {'kernel': jnp.ones((2, 1)), 'value': jnp.ones((2, 2))},
    }
    self.assertEqual(
      names(selection.select(params)), ['layers/0/kernel', 'value/kernel']
    )


class InputAxesTest(parameterized.TestCase):
  def test_linen_attention(self):
    params = jax.eval_shape(
      Net().init, jax.random.key(0), jnp.zeros((1, 6), int)
    )['params']
    weights = selection.select(params)
    found = dict(zip(names(weights), selection.matrix_shapes(weights)))
    attention = 'MultiHeadDotProductAttention_0'
    expected = {'Conv_0/kernel': (8, 3), 'Dense_0/kernel': (3, 2)}
    for name in ('query', 'key', 'value', 'out'):  # Three heads of one.
      expected[f'{attention}/{name}/kernel'] = (3, 3)
    self.assertEqual(found, expected)

  def test_nnx_attention(self):
    state = nnx.eval_shape(
      lambda: nnx.state(
        nnx.MultiHeadAttention(2, 6, 8, decode=False, rngs=nnx.Rngs(0)),
        nnx.Param,
      )
    )
    weights = selection.select(state)
    found = dict(zip(names(weights), selection.matrix_shapes(weights)))
    expected = {f'{x}/kernel/value': (6, 8) for x in ('query', 'key', 'value')}
    self.assertEqual(found, expected | {'out/kernel/value': (8, 6)})

  @parameterized.named_parameters(
    ('of_two_axes', ('query', 'kernel'), (6, 8), 1),
    ('no_attention', ('conv', 'kernel'), (3, 6, 8), 2),
    ('convolution_of_two_axes', ('key', 'kernel'), (3, 3, 6, 8), 3),
    ('no_kernel', ('query', 'weight'), (6, 2, 4), 2),
    ('no_layer', ('kernel',), (6, 2, 4), 2),
    ('vector', ('query', 'kernel'), (6,), 0),
  )
  def test_all_but_the_last(self, path, shape, expected):
    path = [jax.tree_util.DictKey(name) for name in path]
    found = selection.input_axes(path, jnp.ones(shape))
    self.assertEqual(found, expected)

  def test_refuses_axes_that_are_not_there(self):
    with self.assertRaisesRegex(ValueError, "for leaf 'fc/kernel' of"):
      selection.matrix_shapes(
        {'fc': {'kernel': jnp.ones((2, 3))}}, lambda path, leaf: 3
      )


class SelectTest(parameterized.TestCase):
  def test_keeps_the_very_leaves_and_the_structure(self):
    params = {'kernel': jnp.ones((2, 2)), 'bias': jnp.ones(2), 'none': None}
    weights = selection.select(params)
    self.assertIs(weights['kernel'], params['kernel'])
    self.assertEqual(set(weights), set(params))
    self.assertIsNone(weights['bias'])
    self.assertEqual(selection.select({}), {})
    self.assertEqual(selection.select({'a': None}), {'a': None})

  def test_another_predicate(self):
    def prunable(path, leaf):
      return selection.name_of(path).endswith('weight') and leaf.ndim > 1

    model = [Linear(jnp.ones((3, 2)), jnp.ones(3)), Linear(jnp.ones(4), None)]
    found = selection.select(model, prunable)
    self.assertEqual(names(found), ['0/weight'])
    self.assertIsInstance(found[0], Linear)
    with self.assertRaisesRegex(ValueError, '^No leaf is prunable among'):
      selection.select(model)

  @parameterized.named_parameters(
    ('integer', jnp.int8, 'int8'),
    ('complex', jnp.complex64, 'complex64'),
    ('bool', bool, 'bool'),
  )
  def test_refuses_other_than_real_floats(self, dtype, name):
    params = {'fc': {'kernel': jnp.ones((2, 2), dtype)}}
    with self.assertRaisesRegex(
      TypeError,
      f"^Leaf 'fc/kernel' is prunable, but its dtype is {name}; weights must "
      'be real floating-point numbers of at least 16 bits. Pass a `prunable` '
      'that leaves it out.$',
    ):
      selection.select(params)
    with self.assertRaisesRegex(ValueError, '^No leaf is prunable'):
      selection.select(params, lambda path, leaf: False)

  def test_refuses_an_empty_kernel(self):
    params = {'fc': {'kernel': jnp.ones((0, 2))}, 'kernel': jnp.ones((1, 1))}
    with self.assertRaisesRegex(
      ValueError,
      "^Leaf 'fc/kernel' is prunable, but has no weights: its shape is "
      r'\(0, 2\). Pass a `prunable` that leaves it out.$',
    ):
      selection.select(params)

  def test_refuses_a_tree_without_kernels_by_name(self):
    with self.assertRaisesRegex(
      ValueError,
      r"^No leaf is prunable among \['bias', 'scale'\]. Pass another "
      '`prunable`.$',
    ):
      selection.select({'bias': jnp.ones(2), 'scale': jnp.ones((2, 2))})
    many = {f'layer{i}': jnp.ones(1) for i in range(9)}
    message = r"'layer7'\] and 1 more. Pass another `prunable`.$"
    with self.assertRaisesRegex(ValueError, message):
      selection.select(many)


class LeafKeysTest(parameterized.TestCase):
  def test_keys_are_of_the_path_alone(self):
    key = jax.random.key(3)
    tree = {'a': {'kernel': 0, 'b': 1}, 'c': None, 'd': 2}
    keys = selection.leaf_keys(key, tree)
    self.assertEqual(names(keys), names(tree))
    data = [
      tuple(jax.random.key_data(k).tolist()) for k in jax.tree.leaves(keys)
    ]
    self.assertLen(set(data), 3)
    alone = selection.leaf_keys(key, {'a': {'b': jnp.ones(7)}})['a']['b']
    self.assertEqual(alone, keys['a']['b'])
    other = selection.leaf_keys(jax.random.key(4), {'d': 0})['d']
    self.assertNotEqual(other, keys['d'])

  def test_keys_are_the_same_in_every_process(self):
    # By CRC-32, as Python's own hash of a text changes from run to run.
    found = selection.leaf_keys(jax.random.key(0), {'fc': {'kernel': 0}})
    expected = jax.random.fold_in(jax.random.key(0), 0x42F139A5)
    self.assertEqual(found['fc']['kernel'], expected)


class GroupsTest(parameterized.TestCase):
  def test_positions_and_unstack_are_inverse(self):
    labels = ['a', 'b', 'a', 'c', 'b', 'a']
    groups = selection.positions(labels)
    self.assertEqual([g.tolist() for g in groups], [[0, 2, 5], [1, 4], [3]])
    stacks = [{'x': 10.0 * g, 'y': [g]} for g in groups]
    for i, item in enumerate(selection.unstack(groups, stacks)):
      self.assertEqual(item, {'x': 10.0 * i, 'y': [i]})
    self.assertEqual(selection.unstack(selection.positions([]), []), [])
