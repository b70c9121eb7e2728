import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
from absl.testing import absltest, parameterized
from jax import lax

import ong_jax
from experiments import data, models, timing
from ong_jax.export import onnx_graph

(BATCH,) = jax.export.symbolic_shape('batch')


def normal(seed, *shape):
  return np.random.default_rng(seed).normal(size=shape).astype('f4')


def evaluate(model, *inputs):
  options = onnxruntime.SessionOptions()
  options.intra_op_num_threads = 1
  session = onnxruntime.InferenceSession(
    model.SerializeToString(), options, providers=['CPUExecutionProvider']
  )
  feed = {f'input_{i}': np.asarray(x) for i, x in enumerate(inputs)}
  return session.run(None, feed)


def conv(x, kernel, strides=(1, 1), padding=((1, 1), (1, 1)), **options):
  numbers = ('NHWC', 'HWIO', 'NHWC')
  return lax.conv_general_dilated(
    x, kernel, strides, padding, dimension_numbers=numbers, **options
  )


def conv_of_transposed(x, kernel):
  """Takes the inputs of a kernel for its outputs, without transposing it."""
  return lax.conv_general_dilated(
    x, kernel, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWOI', 'NHWC')
  )


W, KERNEL, IMAGES = (
  normal(0, 3, 5),
  normal(1, 3, 3, 4, 6),
  normal(2, 2, 7, 6, 4),
)

# Each case: a function of params and x, the params, x.
CASES = (
  ('dense', lambda w, x: x @ w['w'] + w['b'], {'w': W, 'b': W[0]}, W.T),
  ('product_with_transposed', lambda w, x: x @ w.T, W, W),
  ('product_of_the_first_axis', lambda w, x: lax.dot(x.T, w), W, W),
  (
    'both_ways',
    lambda p, x: (x @ p['w']) @ p['w'].T,
    {'w': normal(0, 3, 3)},
    W.T,
  ),
  ('inputs_alone', lambda _, x: x @ x.T, {}, W),
  ('conv', lambda k, x: conv(x, k), KERNEL, IMAGES),
  (
    'conv_and_more',
    lambda k, x: conv(x, k, (2, 1), ((0, 2), (1, 0)), rhs_dilation=(1, 2)),
    KERNEL,
    IMAGES,
  ),
  (
    'conv_in_groups',
    lambda k, x: conv(x, k, feature_group_count=2),
    KERNEL[:, :, :2],
    IMAGES,
  ),
  (
    'conv_with_a_kernel_that_is_computed',
    lambda k, x: conv(x, x[0, :3, :3, :, None] * k),
    KERNEL[:1, :1],
    IMAGES,
  ),
  (
    'conv_of_channels_first',
    lambda k, x: lax.conv(
      x.transpose(0, 3, 1, 2), k.transpose(3, 2, 0, 1), (1, 1), 'VALID'
    ),
    KERNEL,
    IMAGES,
  ),
  (
    'conv_of_what_is_broadcast',
    lambda k, x: conv(jnp.broadcast_to(x[:, :1], x.shape), k),
    KERNEL,
    IMAGES,
  ),
  (
    'one_kernel_in_two_ways',
    lambda p, x: conv(x, p['k']) + conv_of_transposed(x, p['k']),
    {'k': normal(3, 3, 3, 4, 4)},
    IMAGES,
  ),
  (
    'sums',
    lambda _, x: (x.sum(), x.mean((1, 2)), x.max(0), x.min(-1)),
    {},
    IMAGES,
  ),
  (
    'no_axes',
    lambda _, x: lax.reduce_sum_p.bind(x, axes=(), out_sharding=None),
    {},
    W,
  ),
  (
    'elementwise',
    lambda _, x: {
      'a': jnp.tanh(-x) - jax.nn.sigmoid(x),
      'b': lax.rsqrt(jnp.exp(x)),
      'c': jnp.sqrt(jnp.abs(x)) / 3,
      'd': jnp.log(jnp.maximum(x, 0.1)),
      'e': jnp.minimum(x, 0.5) * x,
    },
    {},
    W,
  ),
  (
    'broadcasts',
    lambda w, x: x[:, None] * w[0] + jnp.broadcast_to(x.sum(), (3, 3, 5)),
    W,
    W[:, :5],
  ),
  (
    'a_broadcast_that_is_read',
    lambda _, x: jnp.broadcast_to(x[:, :1], (3, 4)).sum(1),
    {},
    W,
  ),
  (
    'a_broadcast_that_is_returned',
    lambda _, x: jnp.broadcast_to(x[None], (2, 3, 5)),
    {},
    W,
  ),
  ('pad', lambda _, x: jnp.pad(x, ((0, 1), (2, 0)), constant_values=3), {}, W),
  ('slices', lambda _, x: (x[1:], x[:, ::2], x[1:3, 1:4:2]), {}, W),
  ('gathers', lambda _, x: lax.squeeze(x[:, jnp.array([3, 0, 0])], ()), {}, W),
  ('reshape', lambda _, x: x.reshape(5, -1).T, {}, W),
  ('cast', lambda _, x: x.astype('int32').astype('float32') + 1, {}, W),
  ('a_constant', lambda w, x: (w + 1, x), W, W),
  ('called', jax.jit(lambda w, x: jax.nn.relu(jax.nn.silu(x) + w)), W, W),
)


class OnnxTest(parameterized.TestCase):
  @parameterized.named_parameters(*CASES)
  def test_equals_jax(self, function, params, x):
    model = onnx_graph.to_onnx(
      function, params, jax.ShapeDtypeStruct(x.shape, x.dtype)
    )
    expected = jax.tree.leaves(jax.jit(function)(params, x))
    found = evaluate(model, x)
    self.assertLen(found, len(expected))
    for a, b in zip(found, expected):
      self.assertEqual(a.shape, b.shape)
      np.testing.assert_allclose(a, b, 1e-5, 1e-5)

  @parameterized.parameters('resnet8', 'resnet18')
  def test_a_pruned_network(self, name):
    model = models.create(name, 10)
    variables = timing.fill(timing.shapes(model))
    mask = ong_jax.magnitude(sparsity=0.9)(variables['params'])
    variables['params'] = ong_jax.apply_mask(variables['params'], mask)

    def logits(variables, x):
      return model.apply(variables, x, train=False)

    dataset = data.load('synthetic', None)
    images = np.float32(dataset.test_images[:5] / 255)
    proto = onnx_graph.to_onnx(
      logits, variables, jax.ShapeDtypeStruct((BATCH, 32, 32, 3), 'float32')
    )
    expected = jax.jit(logits)(variables, images)
    for num_images in 5, 2:  # Of any size.
      (found,) = evaluate(proto, images[:num_images])
      np.testing.assert_allclose(
        found, expected[:num_images], atol=1e-4 * abs(expected).max()
      )
    stored = {
      x.name: onnx.numpy_helper.to_array(x) for x in proto.graph.initializer
    }
    for path, m in jax.tree_util.tree_leaves_with_path(mask):
      kernel = stored[f'params/{ong_jax.selection.name_of(path)}']
      if kernel.ndim == 4:
        kernel = kernel.transpose(2, 3, 1, 0)
      np.testing.assert_array_equal(kernel != 0, m)

  def test_params_have_their_names_and_are_stored_once(self):
    x = jax.ShapeDtypeStruct((2, 3), 'float32')
    proto = onnx_graph.to_onnx(
      lambda p, x: (x @ p['a']['w'] + x) @ p['a']['w'] @ p['b'],
      {'a': {'w': normal(0, 3, 3)}, 'b': normal(1, 3, 2)},
      x,
    )
    names = [constant.name for constant in proto.graph.initializer]
    self.assertEqual(names, ['a/w', 'b'])
    self.assertEqual(proto.graph.input[0].name, 'input_0')
    self.assertEqual(proto.opset_import[0].version, 18)

  @parameterized.named_parameters(
    ('primitive', lambda x: jnp.sort(x), "the primitive 'sort', which is not"),
    (
      'batches_of_matrices',
      lambda x: jnp.einsum('bi,bi->b', x, x),
      "'dot_general' with other than one matrix",
    ),
    (
      'inner_padding',
      lambda x: lax.pad(x, 0.0, [(0, 0, 0), (0, 0, 1)]),
      "'pad'",
    ),
    (
      'negative_padding',
      lambda x: conv(
        x[:, :, None, None], KERNEL[:, :, :1], (1, 1), ((-1, 2),) * 2
      ),
      'negative padding',
    ),
    (
      'dilated_inputs',
      lambda x: conv(
        x[:, :, None, None], KERNEL[:, :, :1], lhs_dilation=(2, 2)
      ),
      'dilated inputs',
    ),
    (
      'sums_in_another_type',
      lambda x: jnp.dot(
        x.astype('bfloat16'),
        jnp.ones((5, 2), 'bfloat16'),
        preferred_element_type='float32',
      ),
      'a change of the dtype',
    ),
    (
      'single_places',
      lambda x: x[jnp.array([[0, 1], [1, 2]]), jnp.array([[2, 3], [3, 4]])],
      'places that are no grid',
    ),
    (
      'places_outside',
      lambda x: x[:, jnp.array([0, 5])],
      'places that are no grid',
    ),
    (
      'places_around_an_axis',
      lambda x: x[None][jnp.array([[0], [0]]), :, jnp.array([1, 2, 4])],
      "'gather' with other than",
    ),
    (
      'pairs_of_places',
      lambda x: x[jnp.array([0, 1]), jnp.array([2, 3])],
      "'gather' with other than",
    ),
    (
      'places_that_are_known_later',
      lambda x: x.at[x[:, 0].astype('int32')].get(wrap_negative_indices=False),
      "'gather' with other than",
    ),
  )
  def test_what_is_not_known(self, function, message):
    with self.assertRaisesRegex(NotImplementedError, message):
      onnx_graph.to_onnx(
        lambda _, x: function(x), {}, jax.ShapeDtypeStruct((3, 5), 'float32')
      )

  @parameterized.named_parameters(
    ('slice', lambda x: lax.slice_in_dim(x, 1, None), "'slice' with an end"),
    ('reshape', lambda x: x[:, None], "'reshape' with two"),
  )
  def test_sizes_that_are_not_known(self, function, message):
    x = jax.ShapeDtypeStruct(jax.export.symbolic_shape('a, b, 3'), 'float32')
    with self.assertRaisesRegex(NotImplementedError, message):
      onnx_graph.to_onnx(lambda _, x: function(x), {}, x)

  def test_a_broadcast_to_an_unknown_size(self):
    x = jax.ShapeDtypeStruct((BATCH, 3), 'float32')
    with self.assertRaisesRegex(NotImplementedError, 'inputs of a known size'):
      onnx_graph.to_onnx(lambda w, x: jnp.zeros_like(x), {}, x)

  def test_file(self):
    path = self.create_tempdir().full_path + '/net.onnx'
    x = jax.ShapeDtypeStruct((BATCH, 3), 'float32')
    onnx_graph.save(path, lambda w, x: x @ w, W, x)
    (found,) = evaluate(onnx.load(path), W.T)
    np.testing.assert_allclose(found, W.T @ W, 1e-5)


if __name__ == '__main__':
  absltest.main()
