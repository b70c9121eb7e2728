import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized

from ong_jax import masks

NAN, INF = np.nan, np.inf


def sized(*sizes):
  """Trees of given sizes, without the memory."""
  return [jax.ShapeDtypeStruct((n,), jnp.float32) for n in sizes]


def like(**shapes):
  return {k: jnp.ones(v, bool) for k, v in shapes.items()}


class NumKeptTest(parameterized.TestCase):
  @parameterized.named_parameters(
    ('none_removed', 0, (2, 8), 10),
    ('float_zero', 0.0, (2, 8), 10),
    ('half_to_even_down', 0.5, (2, 3), 3),  # round(2.5) == 2
    ('half_to_even_up', 0.5, (4, 3), 3),  # round(3.5) == 4
    ('over_all_leaves', 0.95, (10, 90), 5),
    ('not_leaf_by_leaf', 0.5, (3, 3), 3),
    ('as_many_as_leaves', 0.8, (5, 5), 2),
    ('more_than_float32_counts', 0.9, (20_000_003,), 2_000_000),
    ('more_than_int32_counts', 0.999, (2**31, 2**31), 4_294_967),
  )
  def test_by_hand(self, sparsity, sizes, expected):
    kept = masks.num_kept(sized(*sizes), sparsity)
    self.assertEqual(kept, expected)
    self.assertIsInstance(kept, int)

  def test_the_sparsity_of_an_error_is_accepted(self):
    weights = [jax.ShapeDtypeStruct((7,), jnp.float32)] * 3
    with self.assertRaisesRegex(ValueError, 'it can be 0.857142.$'):
      masks.num_kept(weights, 0.99)
    self.assertEqual(masks.num_kept(weights, 0.857142), 3)

  def test_a_sparsity_of_numpy_is_a_number(self):
    for sparsity in (np.float32(0.5), np.float64(0.5)):
      self.assertEqual(masks.num_kept(sized(9), sparsity), 5)

  def test_skips_what_is_not_prunable(self):
    self.assertEqual(masks.num_kept({'a': jnp.ones(4), 'b': None}, 0.5), 2)
    self.assertEqual(masks.num_kept({}, 0.5), 0)

  def test_refuses_fewer_weights_than_leaves(self):
    with self.assertRaisesRegex(
      ValueError,
      '^`sparsity`=0.9 keeps 1 of 10 weights, fewer than the 2 prunable '
      'leaves. With these params it can be 0.8.$',
    ):
      masks.num_kept(sized(4, 6), 0.9)

  @parameterized.named_parameters(
    ('one', 1.0),
    ('percent', 95),
    ('negative', -0.1),
    ('nan', NAN),
    ('infinite', INF),
    ('text', '0.9'),
    ('none', None),
  )
  def test_refuses_a_sparsity_out_of_range(self, sparsity):
    for check in (
      masks.check_sparsity,
      lambda s: masks.num_kept({'kernel': jnp.ones(100)}, s),
    ):
      with self.assertRaisesRegex(
        ValueError,
        r'^`sparsity` must be a number in \[0, 1\), the fraction of the '
        f'prunable weights to remove; got {sparsity!r}.$',
      ):
        check(sparsity)


class ApplyMaskTest(parameterized.TestCase):
  @chex.variants(with_jit=True, without_jit=True)
  def test_zeros_what_is_not_kept(self):
    tree = {
      'fc': {'kernel': jnp.array([[3.0, NAN, INF, -2.0]]), 'bias': jnp.ones(2)}
    }
    mask = {'fc': {'kernel': jnp.array([[True, 0, 0, 0]], bool), 'bias': None}}
    found = self.variant(masks.apply_mask)(tree, mask)
    expected = {
      'fc': {'kernel': jnp.array([[3.0, 0, 0, 0]]), 'bias': jnp.ones(2)}
    }
    chex.assert_trees_all_equal(found, expected)

  def test_keeps_bits_and_dtypes_of_what_is_kept(self):
    values = jnp.array([NAN, -0.0, 1e-3, -INF, 7.0], jnp.bfloat16)
    mask = jnp.array([True, True, True, True, False])
    found = masks.apply_mask([values, values], [mask, None])
    bits = [np.asarray(x).view(np.uint16) for x in (values, *found)]
    np.testing.assert_array_equal(bits[1][:4], bits[0][:4])
    np.testing.assert_array_equal(bits[2], bits[0])
    self.assertEqual(found[0][4], 0)

  @parameterized.named_parameters(
    (
      'shape',
      {'fc': like(kernel=(4,)), 'b': None},
      ValueError,
      r"^Mask leaf 'fc/kernel' has shape \(4,\), but its parameter has shape "
      r'\(3, 4\).$',
    ),
    (
      'dtype',
      {'fc': {'kernel': jnp.ones((3, 4), jnp.uint8)}, 'b': None},
      TypeError,
      "^Mask leaf 'fc/kernel' must be bool, True = kept; got uint8.$",
    ),
    (
      'names',
      {'fc': like(weight=(3, 4)), 'b': None},
      ValueError,
      '^The mask must have the tree structure of the params, with `None` for '
      r"what is not prunable. Only the mask has \['fc/weight'\]; only the "
      r"params have \['fc/kernel'\]. ",
    ),
    (
      'missing',
      {'fc': like(kernel=(3, 4))},
      ValueError,
      r"^The mask must have the tree structure .* only the params have \['b'\]",
    ),
    (
      'deeper',
      {'fc': {'kernel': like(value=(3, 4))}, 'b': None},
      ValueError,
      '^The mask must have the tree structure of the params',
    ),
    (
      'none_for_a_subtree',
      {'fc': None, 'b': jnp.ones(4, bool)},
      ValueError,
      r"^The mask must have the tree .* the params have \['fc/kernel'\]",
    ),
    (
      'other_containers',
      [like(kernel=(3, 4)), None],
      ValueError,
      '^The mask must have the tree structure of the params',
    ),
  )
  def test_refuses_a_mask_that_does_not_fit(self, mask, error, message):
    params = {'fc': {'kernel': jnp.ones((3, 4))}, 'b': jnp.ones(4)}
    for check in (masks.check_like, masks.apply_mask):
      with self.assertRaisesRegex(error, message):
        jax.eval_shape(lambda p, check=check: check(p, mask), params)

  def test_names_the_containers_if_nothing_else_differs(self):
    with self.assertRaisesRegex(ValueError, 'list.*tuple|tuple.*list'):
      masks.check_like([jnp.ones(1)], (jnp.ones(1, bool),))

  def test_refuses_a_mask_where_there_is_no_leaf(self):
    with self.assertRaisesRegex(ValueError, r"Only the mask has \['b'\]"):
      masks.check_like({'b': None}, like(b=(4,)))


class SparsityTest(parameterized.TestCase):
  def test_counts_over_all_leaves(self):
    mask = {
      'a': jnp.array([True, False, False, False]),
      'b': None,
      'c': np.zeros((2, 2), bool),
    }
    self.assertEqual(masks.sparsity(mask), 0.875)
    self.assertEqual(masks.sparsity(like(a=(3,))), 0)
    self.assertEqual(masks.sparsity({'a': None}), 0)


class PackTest(parameterized.TestCase):
  @parameterized.named_parameters(
    ('scalar', ()), ('bit', (1,)), ('byte', (8,)), ('many', (3, 5, 2))
  )
  def test_unpack_gives_the_mask_back(self, shape):
    mask = {
      'kernel': jnp.asarray(np.random.default_rng(0).random(shape) < 0.5),
      'bias': None,
    }
    bits = masks.pack(mask)
    self.assertEqual(bits['kernel'].dtype, jnp.uint8)
    chex.assert_shape(bits['kernel'], (-(-mask['kernel'].size // 8),))
    shapes = {
      'kernel': jax.ShapeDtypeStruct(shape, jnp.float32),
      'bias': jax.ShapeDtypeStruct((2,), jnp.float32),
    }
    chex.assert_trees_all_equal(masks.unpack(bits, shapes), mask)
    chex.assert_trees_all_equal_dtypes(masks.unpack(bits, shapes), mask)

  def test_refuses_other_shapes(self):
    bits = masks.pack({'a': jnp.ones(9, bool)})
    message = (
      r'^`bits` has 2 bytes for a leaf of shape \(17,\), which takes 3. '
    )
    with self.assertRaisesRegex(ValueError, message):
      masks.unpack(bits, {'a': jnp.ones(17)})

  def test_bits_by_hand(self):
    mask = jnp.array([True] + [False] * 7 + [False, True])
    chex.assert_trees_all_equal(masks.pack(mask), jnp.array([128, 64], 'uint8'))
