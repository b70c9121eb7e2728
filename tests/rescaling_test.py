import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import ong_jax
from ong_jax import masks
from ong_jax.rescaling import rescale

_KINDS = [
  (keep, per) for keep in ('rms', 'norm') for per in ('layer', 'filter')
]


def sizes(w, m, keep, per):
  """Of what `m` keeps of `w`, in float64."""
  w, m = np.asarray(w, np.float64), np.asarray(m)
  axes = None if per == 'layer' else tuple(range(w.ndim - 1))
  squares = np.where(m, w**2, 0).sum(axes)
  return np.sqrt(squares / m.sum(axes) if keep == 'rms' else squares)


class RescaleTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    keys = jax.random.split(jax.random.key(0))
    self.params = {
      'conv': {'kernel': jax.random.normal(keys[0], (3, 3, 8, 16))},
      'fc': {'kernel': 3 * jax.random.normal(keys[1], (16, 10))},
      'bn': {'scale': jnp.ones(16)},
    }
    self.mask = ong_jax.magnitude(sparsity=0.8)(self.params)

  @parameterized.parameters(*_KINDS)
  def test_what_is_kept_is_of_the_size_that_all_were(self, keep, per):
    found = rescale(self.params, self.mask, keep=keep, per=per)
    for name in 'conv', 'fc':
      w, m = self.params[name]['kernel'], self.mask[name]['kernel']
      wanted = sizes(w, np.ones_like(m), keep, per)
      got = sizes(found[name]['kernel'], m, keep, per)
      left = np.asarray(m).any(
        None if per == 'layer' else tuple(range(m.ndim - 1))
      )
      np.testing.assert_allclose(np.where(left, got, wanted), wanted, rtol=1e-5)

  @parameterized.parameters(*_KINDS)
  def test_what_is_pruned_is_0_and_the_rest_as_it_was(self, keep, per):
    found = rescale(self.params, self.mask, keep=keep, per=per)
    kept = masks.apply_mask(self.params, self.mask)
    chex.assert_trees_all_equal_shapes_and_dtypes(found, self.params)
    chex.assert_trees_all_equal(found['bn'], self.params['bn'])
    for name in 'conv', 'fc':
      np.testing.assert_array_equal(
        jnp.sign(found[name]['kernel']), jnp.sign(kept[name]['kernel'])
      )

  @parameterized.parameters(*_KINDS)
  def test_empty_filters_and_zeros_stay_0(self, keep, per):
    params = {'kernel': jnp.array([[1.0, 2.0, 0.0], [3.0, 4.0, 5.0]])}
    mask = {'kernel': jnp.array([[1, 0, 1], [1, 0, 0]], bool)}
    found = rescale(params, mask, keep=keep, per=per)['kernel']
    self.assertTrue(jnp.isfinite(found).all())
    np.testing.assert_array_equal(found[:, 1:], 0)

  @parameterized.parameters(*_KINDS)
  def test_under_a_full_mask_nothing_changes(self, keep, per):
    full = ong_jax.magnitude(sparsity=0)(self.params)
    found = rescale(self.params, full, keep=keep, per=per)
    chex.assert_trees_all_close(found, self.params, rtol=1e-6)

  def test_norm_is_what_an_initializer_asks_of_the_new_fan_in(self):
    w = jax.random.normal(jax.random.key(1), (1000, 50)) / jnp.sqrt(1000)
    mask = ong_jax.random(jax.random.key(2), sparsity=0.9)({'kernel': w})
    found = rescale({'kernel': w}, mask, keep='norm')['kernel']
    kept = found[np.asarray(mask['kernel'])]
    self.assertAlmostEqual(float(kept.std() * jnp.sqrt(100)), 1, delta=0.03)

  @parameterized.parameters(*_KINDS)
  def test_squares_neither_overflow_nor_vanish(self, keep, per):
    for dtype, sizes_ in (
      (jnp.float16, (1e-3, 1, 300)),
      (jnp.bfloat16, (1e-20, 1e20)),
      (jnp.float32, (1e-23, 1e-10, 1e20)),
    ):
      mask = {'kernel': jnp.arange(600).reshape(300, 2) < 300}
      for size in sizes_:
        params = {'kernel': jnp.full((300, 2), size, dtype)}
        found = rescale(params, mask, keep=keep, per=per)['kernel']
        self.assertEqual(found.dtype, dtype)
        wanted = params['kernel'] * (1 if keep == 'rms' else 2**0.5)
        np.testing.assert_allclose(
          np.float64(found[:150]), np.float64(wanted[:150]), rtol=2e-2
        )
        np.testing.assert_array_equal(found[150:], 0)

  def test_weights_that_are_not_finite_are_refused_kept_or_not(self):
    for i in range(2):
      params = {'a': {'kernel': jnp.ones((2, 2)).at[0, i].set(jnp.nan)}}
      mask = {'a': {'kernel': jnp.array([[True, False], [True, True]])}}
      with self.assertRaisesRegex(ValueError, "'a/kernel' .* not finite"):
        rescale(params, mask)

  def test_what_is_not_prunable_may_be_anything(self):
    params = {'kernel': jnp.ones((2, 2)), 'mean': jnp.array([jnp.inf])}
    mask = {'kernel': jnp.ones((2, 2), bool), 'mean': None}
    chex.assert_trees_all_equal(rescale(params, mask), params)

  @parameterized.parameters(*_KINDS)
  def test_eight_devices_scale_bit_for_bit_as_one_does(self, keep, per):
    mesh = jax.make_mesh((8,), ('model',), axis_types=(AxisType.Auto,))
    sharding = NamedSharding(mesh, P(None, 'model'))
    params = {'kernel': jax.random.normal(jax.random.key(0), (64, 48))}
    mask = ong_jax.magnitude(sparsity=0.8)(params)
    divided = jax.device_put((params, mask), sharding)
    found = rescale(*divided, keep=keep, per=per)
    self.assertEqual(found['kernel'].sharding, sharding)
    chex.assert_trees_all_equal(
      found, rescale(params, mask, keep=keep, per=per)
    )

  @parameterized.parameters(
    ({'keep': 'mean'}, "`keep` must be one of .*'norm'.*; got 'mean'"),
    ({'per': 'row'}, "`per` must be one of .*'filter'.*; got 'row'"),
  )
  def test_other_names_are_refused(self, options, message):
    with self.assertRaisesRegex(ValueError, message):
      rescale(self.params, self.mask, **options)

  def test_a_mask_of_another_shape_is_refused(self):
    with self.assertRaisesRegex(ValueError, 'kernel'):
      rescale({'kernel': jnp.ones((3, 4))}, {'kernel': jnp.ones(4, bool)})


if __name__ == '__main__':
  absltest.main()
