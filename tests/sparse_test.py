import pathlib
import tempfile

import chex
import jax
import jax.experimental.sparse
import jax.numpy as jnp
import numpy as np
import scipy.sparse
from absl.testing import absltest, parameterized

import ong_jax
from experiments import models, timing
from ong_jax.export import sparse


def pruned(*shape):
  rng = np.random.default_rng(0)
  values = rng.normal(size=shape).astype('f4')
  return np.where(rng.random(shape) < 0.3, values, 0)


def network():
  shapes = timing.shapes(models.create('resnet8', 10))['params']
  rng = np.random.default_rng(0)
  params = jax.tree.map(
    lambda leaf: rng.normal(size=leaf.shape).astype('f4'), shapes
  )
  mask = ong_jax.magnitude(sparsity=0.9)(params)
  return ong_jax.apply_mask(params, mask), mask


CONVERSIONS = (('scipy', sparse.to_scipy), ('bcsr', sparse.to_bcsr))


class SparseTest(parameterized.TestCase):
  @parameterized.named_parameters(*CONVERSIONS)
  def test_a_kernel_comes_back(self, convert):
    for shape in (5, 7), (3, 3, 4, 6), (4, 2, 3):
      kernel = pruned(*shape)
      found = sparse.to_dense(convert(kernel), kernel)
      np.testing.assert_array_equal(found, kernel)

  @parameterized.named_parameters(*CONVERSIONS)
  def test_a_network_comes_back(self, convert):
    params, _ = network()
    matrices = convert(params)
    self.assertIsNone(matrices['bn1']['scale'])
    empty = jax.tree.map(
      lambda x, matrix: x if matrix is None else jnp.zeros_like(x),
      params,
      matrices,
    )
    chex.assert_trees_all_equal(sparse.to_dense(matrices, empty), params)

  def test_scipy_has_what_is_kept_and_no_more(self):
    params, mask = network()
    matrices = sparse.to_scipy(params)
    stored = sum(m.nnz for m in jax.tree.leaves(matrices))
    self.assertEqual(stored, sum(int(m.sum()) for m in jax.tree.leaves(mask)))
    for matrix in jax.tree.leaves(matrices):
      self.assertIsInstance(matrix, scipy.sparse.csr_array)

  def test_scipy_multiplies_as_the_layer_does(self):
    kernel, x = pruned(5, 7), pruned(3, 5)
    expected = x @ kernel
    np.testing.assert_allclose(x @ sparse.to_scipy(kernel), expected, 1e-5)

  def test_bcsr_multiplies_as_the_layer_does(self):
    kernel, x = pruned(5, 7), pruned(3, 5)
    matrix = sparse.to_bcsr(jnp.asarray(kernel))
    found = jax.jit(lambda matrix, x: (matrix @ x.T).T)(matrix, x)
    np.testing.assert_allclose(found, x @ kernel, 1e-5)

  def test_bcsr_is_what_jax_makes(self):
    kernel = pruned(2, 3, 5)
    expected = jax.experimental.sparse.BCSR.fromdense(kernel.reshape(6, 5).T)
    found = sparse.to_bcsr(kernel)
    chex.assert_trees_all_equal(
      jax.tree.leaves(found), jax.tree.leaves(expected)
    )
    np.testing.assert_array_equal(found.todense(), expected.todense())

  def test_rows_of_a_convolution(self):
    kernel, x = pruned(3, 2, 4, 6), pruned(1, 3, 2, 4)  # One window.
    expected = jax.lax.conv_general_dilated(
      x, kernel, (1, 1), 'VALID', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
    )
    found = x.reshape(1, -1) @ sparse.to_scipy(kernel)
    np.testing.assert_allclose(found, expected.reshape(1, -1), 1e-5, 1e-6)

  def test_file(self):
    params, _ = network()
    with tempfile.TemporaryDirectory() as folder:
      path = pathlib.Path(folder) / 'net.npz'
      sparse.save(path, params)
      arrays = dict(np.load(path))
    parts = ('data', 'indices', 'indptr', 'shape')

    def read(key_path, leaf):
      name = ong_jax.selection.name_of(key_path)
      if name in arrays:
        return arrays.pop(name)
      *csr, shape = (arrays.pop(f'{name}.{part}') for part in parts)
      return (
        scipy.sparse.csr_array(tuple(csr), shape).toarray().reshape(leaf.shape)
      )

    found = jax.tree_util.tree_map_with_path(read, params)
    chex.assert_trees_all_equal(found, jax.device_get(params))
    self.assertEqual(arrays, {})

  @parameterized.named_parameters(*CONVERSIONS)
  def test_a_vector(self, convert):
    with self.assertRaisesRegex(ValueError, r"Leaf '' of shape \(3,\) has few"):
      convert(np.ones(3))
    with self.assertRaisesRegex(ValueError, "Leaf 'bias' .* `prunable`"):
      convert({'bias': np.ones(3)}, lambda path, leaf: True)

  def test_a_type_that_scipy_does_not_multiply(self):
    params = {'kernel': jnp.ones((2, 2), 'bfloat16')}
    with self.assertRaisesRegex(TypeError, "'kernel' is of type bfloat16"):
      sparse.to_scipy(params)
    self.assertEqual(sparse.to_bcsr(params)['kernel'].dtype, jnp.bfloat16)

  @parameterized.named_parameters(*CONVERSIONS)
  def test_a_matrix_of_another_kernel(self, convert):
    matrices = {'kernel': convert(pruned(6, 2))}
    with self.assertRaisesRegex(
      ValueError, r"'kernel' has shape \(6, 2\) .* its kernel needs \(4, 3\)"
    ):
      sparse.to_dense(matrices, {'kernel': np.zeros((2, 2, 3))})


if __name__ == '__main__':
  absltest.main()
