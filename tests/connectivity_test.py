import functools
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

import ong_jax
from experiments import calibration, models
from ong_jax import connectivity


def _dense(*kernels):
  return {f'{i}': {'kernel': jnp.asarray(k)} for i, k in enumerate(kernels)}


def _chain(params):
  x = jnp.ones(params['0']['kernel'].shape[0])
  for name in sorted(params, key=int):
    x = jax.nn.relu(x @ params[name]['kernel'])
  return x


def _kernels(mask):
  return [np.asarray(m) for m in jax.tree.leaves(mask)]


def _by_search(kernels):
  """Goes along every path there is."""
  found = [np.zeros(k.shape, bool) for k in kernels]
  widths = [len(k) for k in kernels] + [kernels[-1].shape[1]]
  for path in itertools.product(*map(range, widths)):
    steps = list(zip(path, path[1:]))
    if all(k[step] != 0 for k, step in zip(kernels, steps)):
      for f, step in zip(found, steps):
        f[step] = True
  return found


class Residual(nn.Module):
  @nn.compact
  def __call__(self, x):
    y = nn.Dense(2, use_bias=False, name='a')(x)
    y = nn.BatchNorm(use_running_average=True, name='norm')(y)
    y = nn.Dense(2, use_bias=False, name='b')(nn.relu(y))
    return nn.Dense(1, name='out')(nn.relu(x + y))


class ConnectedTest(parameterized.TestCase):
  def test_a_cut_frees_what_is_before_and_behind_it(self):
    params = _dense(
      [[1.0, -2.0, 0.0], [0.0, 3.0, 0.0]],
      # Nothing reaches the third unit, and nothing leaves the first.
      [[0.0, 0.0], [0.0, -5.0], [6.0, 7.0]],
      [[1.0], [1.0]],
    )
    first, second, third = _kernels(connectivity.connected(_chain, params))
    np.testing.assert_array_equal(first, [[0, 1, 0], [0, 1, 0]])
    np.testing.assert_array_equal(second, [[0, 0], [0, 1], [0, 0]])
    np.testing.assert_array_equal(third, [[0], [1]])
    # 4 of the 14 are left.
    self.assertEqual(connectivity.effective_sparsity(_chain, params), 10 / 14)

  def test_a_shortcut_goes_around_a_branch(self):
    model = Residual()
    variables = model.init(jax.random.key(0), jnp.ones((1, 2)))
    params = jax.tree.map(jnp.zeros_like, variables['params'])
    params['a']['kernel'] = jnp.array([[1.0, 1.0], [0.0, 0.0]])
    params['b']['kernel'] = jnp.array([[-1.0, 0.0], [0.0, 0.0]])
    params['out']['kernel'] = jnp.array([[1.0], [1.0]])

    def outputs(params):
      return model.apply(variables | {'params': params}, jnp.ones((1, 2)))

    found = connectivity.connected(outputs, params)
    np.testing.assert_array_equal(found['a']['kernel'], [[1, 0], [0, 0]])
    np.testing.assert_array_equal(found['b']['kernel'], [[1, 0], [0, 0]])
    # The shortcut alone reaches the second one.
    np.testing.assert_array_equal(found['out']['kernel'], [[1], [1]])
    self.assertIsNone(found['norm']['scale'])

  @parameterized.parameters(range(8))
  def test_is_what_a_search_of_all_paths_finds(self, seed):
    rng = np.random.default_rng(seed)
    widths = rng.integers(1, 5, 5)
    kernels = [
      rng.normal(size=shape) * (rng.random(shape) < 0.4)
      for shape in zip(widths, widths[1:])
    ]
    run = jax.jit(lambda p: connectivity.connected(_chain, p))
    found = run(_dense(*(k.astype(np.float32) for k in kernels)))
    for a, b in zip(_kernels(found), _by_search(kernels)):
      np.testing.assert_array_equal(a, b)

  @parameterized.parameters(1.0, 1e-30, 1e30)
  def test_no_depth_is_too_deep(self, scale):
    # 7^300 paths, and after the first layer a unit that nothing reaches.
    kernel = np.full((300, 8, 8), scale, np.float32)
    kernel[:, :, 5] = 0

    def outputs(params):
      layers = params['kernel']
      return jax.lax.scan(lambda x, w: (x @ w, None), jnp.ones(8), layers)[0]

    found = connectivity.connected(outputs, {'kernel': kernel})['kernel']
    expected = kernel != 0
    expected[1:, 5] = False
    np.testing.assert_array_equal(found, expected)

  def test_a_tap_that_sees_only_padding_is_on_no_path(self):
    def outputs(params):
      return nn.Conv(1, (3, 3), use_bias=False).apply(
        {'params': params}, jnp.ones((1, 1, 1, 2))
      )

    found = connectivity.connected(outputs, {'kernel': jnp.ones((3, 3, 2, 1))})[
      'kernel'
    ]
    self.assertEqual(found.sum(), 2)
    self.assertTrue(found[1, 1].all())

  def test_numbers_that_weights_do_not_make_stay(self):
    params = {'kernel': jnp.ones((3, 1))}

    def outputs(params):
      share = params['kernel'][0, 0] * 0 + jnp.arange(3.0) / 4
      seen = jnp.where(jnp.arange(3.0) / 4 < 0.4, 1.0, 0.0)
      return (seen * (share >= 0)) @ params['kernel']

    found = connectivity.connected(outputs, params)['kernel']
    np.testing.assert_array_equal(found[:, 0], [1, 1, 0])

  def test_of_a_resnet(self):
    model = models.create('resnet8', num_classes=10)
    variables = jax.eval_shape(
      lambda: model.init(
        jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False
      )
    )
    params = jax.tree.map(lambda x: jnp.ones(x.shape), variables['params'])
    run = jax.jit(
      lambda params: connectivity.connected(
        functools.partial(calibration.linear_outputs, model), params
      )
    )
    self.assertEqual(ong_jax.sparsity(run(params)), 0)
    # A branch that is cut in its second half carries nothing.
    params['layer2_0']['conv2']['kernel'] *= 0
    found = run(params)
    self.assertEqual(found['layer2_0']['conv1']['kernel'].sum(), 0)
    # The classifier's input has padding from the last shortcut on, which the
    # last branch fills.
    self.assertTrue(found['linear']['kernel'].all())
    params['layer3_0']['conv2']['kernel'] *= 0
    rows = run(params)['linear']['kernel'].any(1)
    # 16 channels of the first stage, in the middle of 64.
    np.testing.assert_array_equal(np.flatnonzero(rows), np.arange(24, 40))

  def test_refuses_what_is_no_function(self):
    with self.assertRaisesRegex(TypeError, '`outputs` must be a function'):
      connectivity.connected(3, {'kernel': jnp.ones((1, 1))})


if __name__ == '__main__':
  absltest.main()
