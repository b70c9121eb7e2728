import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

import ong_jax
from ong_jax import (
  activations,
  allocation,
  patterns,
  saliency,
  scores,
  selection,
)

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 8)) * np.arange(1, 9)
W = RNG.normal(size=(8, 4))
PARAMS = {'kernel': jnp.asarray(W, jnp.float32), 'bias': jnp.ones(4)}
BATCHES = [jnp.asarray(X[i : i + 20], jnp.float32) for i in (0, 20, 40)]
KEYS = jax.random.split(jax.random.key(0))
TWO = {
  'first': {'kernel': jax.random.normal(KEYS[0], (8, 16))},
  'second': {'kernel': jax.random.normal(KEYS[1], (16, 4))},
}


def dense(params, x):
  return x @ params['kernel'] + params['bias']


def network(params, x):
  x = jax.nn.relu(x @ params['first']['kernel'])
  return x @ params['second']['kernel']


class ActivationsTest(absltest.TestCase):
  def test_are_weights_times_norms(self):
    found = activations.weighted_magnitude(dense, BATCHES)(PARAMS)
    norms = np.linalg.norm(X, axis=0)
    np.testing.assert_allclose(
      found['kernel'], np.abs(W) * norms[:, None], rtol=1e-5
    )
    self.assertIsNone(found['bias'])

  def test_of_a_convolution_are_those_of_its_patches(self):
    x = jnp.asarray(RNG.normal(size=(2, 5, 5, 3)), jnp.float32)
    params = {'kernel': jnp.ones((3, 3, 3, 2))}

    def conv(params, x):
      return jax.lax.conv_general_dilated(
        x,
        params['kernel'],
        (2, 2),
        'SAME',
        dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
      )

    found = activations.weighted_magnitude(conv, [x])(params)['kernel']
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    for i in range(3):
      for j in range(3):
        seen = padded[:, i : i + 5 : 2, j : j + 5 : 2]
        norm = np.sqrt(np.square(seen).sum((0, 1, 2)))
        np.testing.assert_allclose(found[i, j, :, 0], norm, rtol=1e-5)

  def test_a_factorization_can_be_of_them(self):
    score = scores.ong(jax.random.key(0), saliency=saliency.recon, rank=2)
    prune = ong_jax.one_shot(
      score, 0.5, measure=activations.weighted_magnitude(dense, BATCHES)
    )
    self.assertEqual(int(prune(PARAMS)['kernel'].sum()), 16)


class WandaTest(parameterized.TestCase):
  def test_with_equal_inputs_it_is_magnitude_in_each_output(self):
    mask = ong_jax.wanda(dense, [jnp.eye(8)], sparsity=0.5)(PARAMS)
    by_size = ong_jax.one_shot(
      scores.magnitude, pattern=patterns.per_output(0.5)
    )
    np.testing.assert_array_equal(mask['kernel'], by_size(PARAMS)['kernel'])

  def test_scale_can_be_in_the_inputs_or_in_the_weights(self):
    scaled = PARAMS | {'kernel': PARAMS['kernel'].at[3].divide(64)}
    batches = [x.at[:, 3].multiply(64) for x in BATCHES]
    np.testing.assert_array_equal(
      ong_jax.wanda(dense, BATCHES, sparsity=0.5)(PARAMS)['kernel'],
      ong_jax.wanda(dense, batches, sparsity=0.5)(scaled)['kernel'],
    )

  @parameterized.parameters(0.0, 0.25, 0.5, 0.75)
  def test_each_output_keeps_the_same_number_of_inputs(self, sparsity):
    mask = ong_jax.wanda(dense, BATCHES, sparsity=sparsity)(PARAMS)
    expected = np.abs(W) * np.linalg.norm(X, axis=0)[:, None]
    kept = np.asarray(mask['kernel'])
    np.testing.assert_array_equal(kept.sum(0), 8 * (1 - sparsity))
    for column, score in zip(kept.T, expected.T):
      if not column.all():
        self.assertGreater(score[column].min(), score[~column].max())

  def test_goes_on_with_what_pruned_layers_put_out(self):
    mask = ong_jax.wanda(network, BATCHES, sparsity=0.5)(TWO)
    pruned = jnp.where(mask['first']['kernel'], TWO['first']['kernel'], 0)
    hidden = [jax.nn.relu(x @ pruned) for x in BATCHES]
    alone = ong_jax.wanda(lambda p, x: x @ p['kernel'], hidden, sparsity=0.5)(
      TWO['second']
    )
    np.testing.assert_array_equal(mask['second']['kernel'], alone['kernel'])
    at_once = ong_jax.wanda(network, BATCHES, sparsity=0.5, sequential=False)
    dense_hidden = [jax.nn.relu(x @ TWO['first']['kernel']) for x in BATCHES]
    alone = ong_jax.wanda(
      lambda p, x: x @ p['kernel'], dense_hidden, sparsity=0.5
    )(TWO['second'])
    found = at_once(TWO)['second']['kernel']
    np.testing.assert_array_equal(found, alone['kernel'])
    self.assertTrue((found != mask['second']['kernel']).any())

  def test_keeps_n_of_every_m(self):
    mask = ong_jax.wanda(dense, BATCHES, n_of_m=(2, 4))(PARAMS)
    groups = np.asarray(mask['kernel']).reshape(2, 4, 4)
    np.testing.assert_array_equal(groups.sum(1), 2)

  def test_axes_of_inputs_are_those_of_the_program(self):
    """Of a kernel [outputs, inputs], and of one with many axes."""

    def named(path, leaf):
      return selection.name_of(path) == 'weight'

    expected = ong_jax.wanda(dense, BATCHES, sparsity=0.5)(PARAMS)['kernel']
    mask = ong_jax.wanda(
      lambda p, x: x @ p['weight'].T, BATCHES, sparsity=0.5, prunable=named
    )({'weight': PARAMS['kernel'].T})
    np.testing.assert_array_equal(mask['weight'].T, expected)
    heads = {'q_proj': {'kernel': PARAMS['kernel'].reshape(8, 2, 2)}}
    for budget in ({'sparsity': 0.5}, {'n_of_m': (2, 4)}):
      mask = ong_jax.wanda(
        lambda p, x: jnp.einsum('bi,iho->bho', x, p['q_proj']['kernel']),
        BATCHES,
        **budget,
      )(heads)['q_proj']['kernel']
      other = ong_jax.wanda(dense, BATCHES, **budget)(PARAMS)['kernel']
      np.testing.assert_array_equal(mask.reshape(8, 4), other)

  def test_leaves_may_have_their_own_sparsity(self):
    allocate = allocation.with_own(
      lambda path, leaf: 0.75 if path[0].key == 'first' else None
    )
    mask = ong_jax.wanda(network, BATCHES, sparsity=0.6, allocate=allocate)(TWO)
    np.testing.assert_array_equal(mask['first']['kernel'].sum(0), 2)
    self.assertEqual(sum(int(m.sum()) for m in jax.tree.leaves(mask)), 77)

  def test_sees_what_the_network_has_become(self):
    scale = [1.0]

    def changing(params, x):
      return x * jnp.array([scale[0]] + [1.0] * 7) @ params['kernel']

    first = ong_jax.wanda(changing, BATCHES, sparsity=0.5)(PARAMS)
    scale[0] = 1e6
    second = ong_jax.wanda(changing, BATCHES, sparsity=0.5)(PARAMS)
    self.assertTrue(second['kernel'][0].all())
    self.assertFalse(first['kernel'][0].all())

  def test_leaves_out_what_is_not_prunable(self):
    def prunable(path, leaf):
      return selection.name_of(path).startswith('second')

    mask = ong_jax.wanda(network, BATCHES, sparsity=0.5, prunable=prunable)(TWO)
    self.assertIsNone(mask['first']['kernel'])
    self.assertEqual(int(mask['second']['kernel'].sum()), 32)

  def test_refuses(self):
    with self.assertRaisesRegex(ValueError, 'One of `sparsity` and `n_of_m`'):
      ong_jax.wanda(dense, BATCHES)
    with self.assertRaisesRegex(TypeError, '`batches` must be a list'):
      ong_jax.wanda(dense, iter(BATCHES), sparsity=0.5)
    with self.assertRaisesRegex(ValueError, 'at least one batch'):
      ong_jax.wanda(dense, [], sparsity=0.5)(PARAMS)
    with self.assertRaisesRegex(ValueError, "'kernel' are not finite"):
      ong_jax.wanda(dense, [X * np.nan], sparsity=0.5)(PARAMS)
    with self.assertRaisesRegex(ValueError, 'has weights that are not finite'):
      nan = jax.tree.map(lambda x: x * jnp.nan, PARAMS)
      ong_jax.wanda(dense, BATCHES, sparsity=0.5)(nan)
    with self.assertRaisesRegex(ValueError, '`allocate` must split'):
      ong_jax.wanda(dense, BATCHES, sparsity=0.5, allocate=allocation.pooled)(
        PARAMS
      )
    with self.assertRaisesRegex(ValueError, '`allocate` is for `sparsity`'):
      ong_jax.wanda(dense, BATCHES, n_of_m=(2, 4), allocate=allocation.uniform)
    with self.assertRaisesRegex(ValueError, "'kernel' is multiplied in two"):
      ong_jax.wanda(
        lambda p, x: x @ p['kernel'] @ p['kernel'].T, BATCHES, sparsity=0.5
      )(PARAMS)
    for batches in ({'x': BATCHES[0]}, tuple(BATCHES), BATCHES[0]):
      with self.assertRaisesRegex(TypeError, 'looks like a single one'):
        ong_jax.wanda(dense, batches, sparsity=0.5)


if __name__ == '__main__':
  absltest.main()
