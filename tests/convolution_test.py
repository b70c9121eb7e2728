import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from experiments import convolution, models

# Kernel, strides, padding, height and width, channels in and out.
_CASES = (
  ('same', (3, 3), (1, 1), ((1, 1), (1, 1)), (8, 8), (8, 16)),
  ('halved', (3, 3), (2, 2), ((1, 1), (1, 1)), (8, 8), (8, 16)),
  ('projection', (1, 1), (2, 2), ((0, 0), (0, 0)), (8, 8), (8, 16)),
  ('pointwise', (1, 1), (1, 1), ((0, 0), (0, 0)), (5, 4), (8, 3)),
  ('stem', (3, 3), (1, 1), ((1, 1), (1, 1)), (8, 8), (3, 16)),
  ('odd', (3, 5), (1, 1), ((1, 0), (3, 2)), (7, 5), (9, 7)),
  ('odd_halved', (3, 3), (2, 2), ((1, 1), (1, 1)), (7, 5), (9, 7)),
  ('uneven', (2, 3), (1, 2), ((0, 2), (1, 0)), (6, 7), (8, 4)),
  ('unpadded', (3, 3), (1, 1), 'VALID', (6, 5), (8, 4)),
  ('cropped', (3, 3), (2, 2), ((-1, 0), (0, -1)), (8, 8), (8, 4)),
  ('padded_by_name', (3, 3), (2, 2), 'SAME', (6, 5), (8, 4)),
)
_SAME = _CASES[0][1:]


def _problem(kernel, strides, padding, size, channels):
  """Our convolution, XLA's, what goes in, and what is shaped as the output."""
  numbers = ('NHWC', 'HWIO', 'NHWC')
  ours, theirs = (
    lambda x, w, of=of: of(x, w, strides, padding, dimension_numbers=numbers)
    for of in (convolution.conv, jax.lax.conv_general_dilated)
  )
  keys = jax.random.split(jax.random.key(0), 3)
  x = jax.random.normal(keys[0], (4, *size, channels[0]))
  w = jax.random.normal(keys[1], (*kernel, *channels))
  g = jax.random.normal(keys[2], jax.eval_shape(theirs, x, w).shape)
  return ours, theirs, x, w, g


def _names(function, *args):
  """The primitives of a program."""

  def visit(jaxpr):
    for eqn in jaxpr.eqns:
      yield eqn.primitive.name
      for inner in jax.tree.leaves(list(eqn.params.values())):
        inner = getattr(inner, 'jaxpr', inner)
        if hasattr(inner, 'eqns'):
          yield from visit(inner)

  return list(visit(jax.make_jaxpr(function)(*args).jaxpr))


class ConvTest(parameterized.TestCase):
  def assert_close(self, ours, theirs):
    for a, b in zip(*map(jax.tree.leaves, (ours, theirs)), strict=True):
      np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * abs(b).max())

  @parameterized.named_parameters(*_CASES)
  def test_output_and_gradients(self, *case):
    ours, theirs, x, w, g = _problem(*case)
    for of in (ours, theirs):
      self.assertEqual(of(x, w).shape, g.shape)
    found, expected = (
      jax.jit(lambda x, w, g, of=of: (of(x, w), jax.vjp(of, x, w)[1](g)))(
        x, w, g
      )
      for of in (ours, theirs)
    )
    np.testing.assert_array_equal(found[0], expected[0])
    self.assert_close(found, expected)

  @parameterized.named_parameters(*_CASES[:2])
  def test_forwards_over_backwards(self, *case):
    ours, theirs, x, w, g = _problem(*case)

    def moved(of):  # A Hessian times a vector, in both arguments.
      gradient = jax.grad(lambda x, w: (of(x, w) ** 3 * g).sum(), (0, 1))
      return jax.jvp(gradient, (x, w), (jnp.cos(x), jnp.sin(w)))

    self.assert_close(jax.jit(moved, static_argnums=0)(ours), moved(theirs))

  @parameterized.named_parameters(*_CASES[:1])
  def test_backwards_twice(self, *case):
    self.check_twice(*case)

  @parameterized.named_parameters(_CASES[1])
  @pytest.mark.slow
  def test_another_backwards_twice(self, *case):
    self.check_twice(*case)

  def check_twice(self, *case):
    ours, theirs, x, w, g = _problem(*case)

    def twice(of):
      def norm(x, w):
        grads = jax.grad(lambda x, w: (of(x, w) ** 2 * g).sum(), (0, 1))(x, w)
        return sum((grad**2).sum() for grad in grads)

      return jax.grad(norm, (0, 1))(x, w)

    self.assert_close(twice(ours), twice(theirs))

  def test_vmap(self):
    ours, theirs, x, w, g = _problem(*_SAME)
    kernels = jnp.stack([w, 2 * w])

    def gradients(of):
      return jax.vmap(
        jax.grad(lambda w, x: (of(x, w) ** 2 * g).sum()), (0, None)
      )(kernels, x)

    self.assert_close(gradients(ours), gradients(theirs))

  def test_over_a_mesh(self):
    ours, theirs, x, w, g = _problem(*_SAME)
    mesh = jax.make_mesh(
      (4, 2), ('data', 'model'), axis_types=(jax.sharding.AxisType.Auto,) * 2
    )
    x, w, g = (
      jax.device_put(a, NamedSharding(mesh, spec))
      for a, spec in (
        (x, P('data')),
        (w, P(None, None, None, 'model')),
        (g, P('data')),
      )
    )

    def gradients(of):
      return jax.jit(lambda x, w, g: jax.vjp(of, x, w)[1](g))(x, w, g)

    self.assert_close(gradients(ours), gradients(theirs))

  @parameterized.named_parameters(*_CASES[:2])
  def test_the_gradient_of_a_kernel_is_of_products(self, *case):
    ours, theirs, x, w, g = _problem(*case)
    for of, products in ((ours, True), (theirs, False)):
      names = _names(lambda w, of=of: jax.vjp(lambda w: of(x, w), w)[1](g), w)
      self.assertEqual('dot_general' in names, products)

  @parameterized.named_parameters(
    ('groups', {'feature_group_count': 2}),
    ('dilation', {'rhs_dilation': (2, 1)}),
    ('spread', {'lhs_dilation': (2, 1)}),
    ('layout', {'dimension_numbers': ('NCHW', 'HWIO', 'NHWC')}),
  )
  def test_what_is_left_to_xla(self, options):
    options = {'dimension_numbers': ('NHWC', 'HWIO', 'NHWC'), **options}
    groups = options.get('feature_group_count', 1)
    x, w = jnp.ones((16, 16, 16, 16)), jnp.ones((3, 3, 16 // groups, 16))
    names = _names(
      lambda w: convolution.conv(x, w, (1, 1), ((1, 1), (1, 1)), **options), w
    )
    self.assertEqual(names, ['conv_general_dilated'])

  def test_the_networks_use_it(self):
    model = models.create('resnet8', 10)
    x = jnp.zeros((1, 32, 32, 3))
    apply = functools.partial(model.apply, train=False)
    variables = jax.eval_shape(
      lambda: model.init(jax.random.key(0), x, train=False)
    )
    names = _names(apply, variables, x)
    self.assertEqual(names.count('conv_general_dilated'), 7)
    # Of 7 activations, and of all convolutions but the first, of images.
    self.assertEqual(names.count('custom_jvp_call'), 7 + 6)


if __name__ == '__main__':
  absltest.main()
