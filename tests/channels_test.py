import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized
from jax.sharding import PartitionSpec as P

from ong_jax import channels

# Two layers around a hidden group, with a stream 'out' that a bias shares.
NAMES = {
  'first': {'kernel': P(None, 'hidden')},
  'second': {'kernel': P('hidden', 'out'), 'bias': P('out')},
  'scalar': P(),
}
PARAMS = {
  'first': {'kernel': jnp.arange(6.0).reshape(2, 3)},
  'second': {'kernel': jnp.arange(6.0).reshape(3, 2), 'bias': jnp.arange(2.0)},
  'scalar': jnp.array(1.0),
}
KEPT = {
  'hidden': jnp.array([True, False, True]),
  'out': jnp.array([False, True]),
}


class ExpandTest(chex.TestCase, parameterized.TestCase):
  @chex.variants(with_jit=True, without_jit=True)
  def test_an_entry_is_kept_iff_all_its_channels_are(self):
    mask = self.variant(lambda kept: channels.expand(NAMES, kept, PARAMS))(KEPT)
    expected = {
      'first': {'kernel': [[1, 0, 1], [1, 0, 1]]},
      'second': {'kernel': [[0, 1], [0, 0], [0, 1]], 'bias': [0, 1]},
    }
    self.assertIsNone(mask.pop('scalar'))
    chex.assert_trees_all_equal(mask, _bools(expected))

  @chex.variants(with_jit=True, without_jit=True)
  def test_collapse_undoes_it(self):
    mask = channels.expand(NAMES, KEPT, PARAMS)
    kept = self.variant(lambda mask: channels.collapse(NAMES, mask))(mask)
    chex.assert_trees_all_equal(kept, KEPT)

  def test_collapse_keeps_a_channel_with_a_single_entry(self):
    names = {'a': P(None, 'g'), 'b': P('g')}
    mask = {'a': jnp.zeros((2, 3), bool).at[1, 2].set(True), 'b': None}
    kept = channels.collapse(names, mask)
    np.testing.assert_array_equal(kept['g'], [False, False, True])


class ShrinkTest(parameterized.TestCase):
  def test_takes_out_every_axis(self):
    small = channels.shrink(PARAMS, NAMES, KEPT)
    expected = {
      'first': {'kernel': np.array([[0.0, 2], [3, 5]])},
      'second': {'kernel': np.array([[1.0], [5]]), 'bias': np.array([1.0])},
      'scalar': np.array(1.0),
    }
    chex.assert_trees_all_equal(small, expected)
    self.assertEqual(channels.widths(KEPT), {'hidden': 2, 'out': 1})
    self.assertEqual(channels.sizes(NAMES, small), channels.widths(KEPT))


class ErrorTest(parameterized.TestCase):
  def test_as_many_names_as_axes(self):
    with self.assertRaisesRegex(
      ValueError,
      r"^Leaf 'bn/scale' of shape \(4,\) must have as many names as axes, "
      r'None for an axis without a group; got P(artitionSpec)?\(None, .a.\)\.$',
    ):
      channels.sizes({'bn': {'scale': P(None, 'a')}}, {'bn': {'scale': _of(4)}})

  def test_groups_of_one_size(self):
    message = (
      "Leaf 'b/kernel' has 5 channels of group 'g', but a leaf before it has 4."
    )
    names = {'a': {'kernel': P('g', None)}, 'b': {'kernel': P(None, 'g')}}
    params = {'a': {'kernel': _of(4, 3)}, 'b': {'kernel': _of(3, 5)}}
    with self.assertRaisesRegex(ValueError, f'^{re.escape(message)}$'):
      channels.expand(names, {'g': np.ones(4, bool)}, params)

  @parameterized.named_parameters(
    ('length', {'g': np.ones(3, bool)}, "has {'g': 3}"),
    ('missing', {}, 'has {}'),
    ('unknown', {'g': np.ones(4), 'h': np.ones(1)}, "has {'g': 4, 'h': 1}"),
  )
  def test_kept_of_other_groups(self, kept, message):
    for call in (
      lambda: channels.expand([P('g')], kept, [np.ones(4)]),
      lambda: channels.shrink([np.ones(4)], [P('g')], kept),
    ):
      with self.assertRaisesRegex(ValueError, message):
        call()


def _of(*shape):
  return jax.ShapeDtypeStruct(shape, jnp.float32)


def _bools(tree):
  return jax.tree.map(
    lambda x: np.array(x, bool), tree, is_leaf=lambda x: isinstance(x, list)
  )
