"""Kernels as sparse matrices: SciPy's, and those of `jax.experimental`.

A kernel [..., in, out] is the matrix [rows, out], rows in the order of memory:
that of a convolution is [height * width * in, out], and row
(i * width + j) * in + c is input channel c at place (i, j) of the window.
"""

import io
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ong_jax import optional, selection
from ong_jax.export import files
from ong_jax.types import Params, Predicate

_PARTS = ('data', 'indices', 'indptr', 'shape')
_SCIPY_TYPES = ('float32', 'float64')


def to_scipy(
  params: Params, prunable: Predicate = selection.is_kernel
) -> Params:
  """Makes SciPy's CSR matrices of kernels, without their zeros.

  A layer of them is `x @ matrix` for x [batch, rows]. What a mask keeps and is
  0 all the same is not stored either: `compressed.save` stores the mask.

  Args:
    params: a kernel, or a tree with kernels.
    prunable: `(path, leaf) -> bool`, what is a kernel in a tree.

  Returns:
    A `scipy.sparse.csr_array` [rows, out], or a tree of them with `None` for
    all other leaves.

  Raises:
    ValueError: a kernel has fewer than two axes.
    TypeError: a kernel is of a type that SciPy does not multiply.
    ImportError: SciPy is not installed.

  Example:
    >>> kernel = jnp.zeros((3, 3, 8, 16)).at[0, 1, 2, 3].set(4)
    >>> matrix = to_scipy(kernel)
    >>> matrix.shape, matrix.nnz, float(matrix[1 * 8 + 2, 3])
    ((72, 16), 1, 4.0)
  """
  scipy_sparse = optional.load('scipy.sparse', 'export')

  def convert(path, kernel):
    matrix = np.asarray(_matrix(path, jax.device_get(kernel)))
    if matrix.dtype.name not in _SCIPY_TYPES:
      raise TypeError(
        f"Leaf '{selection.name_of(path)}' is of type {matrix.dtype}, but "
        f'SciPy multiplies {" and ".join(_SCIPY_TYPES)} alone. Cast it first.'
      )
    return scipy_sparse.csr_array(matrix)

  return _convert(convert, params, prunable)


def to_bcsr(params: Params, prunable: Predicate = selection.is_kernel) -> Any:
  """Makes `jax.experimental.sparse.BCSR` of kernels, without their zeros.

  Of the transpose, [out, rows]: JAX multiplies such a matrix from the left
  only. A layer is `(matrix @ x.T).T` for x [batch, rows].

  Args:
    params: a kernel, or a tree with kernels.
    prunable: `(path, leaf) -> bool`, what is a kernel in a tree.

  Returns:
    A `BCSR` [out, rows], or a tree of them with `None` for all other leaves.

  Raises:
    ValueError: a kernel has fewer than two axes.

  Example:
    >>> matrix = to_bcsr(jnp.array([[0.0, 2.0, 0.0], [1.0, 0.0, 0.0]]))
    >>> matrix.shape, matrix.nse
    ((3, 2), 2)
    >>> (matrix @ jnp.array([[10.0, 20.0]]).T).T
    Array([[20., 20.,  0.]], dtype=float32)
  """
  from jax.experimental import sparse  # A second to import.

  def convert(path, kernel):
    # On the host: JAX would compile a program for every shape.
    matrix = np.asarray(_matrix(path, jax.device_get(kernel))).T
    rows, columns = np.nonzero(matrix)
    ends = np.bincount(rows, minlength=len(matrix)).cumsum()
    parts = matrix[rows, columns], np.int32(columns), np.int32([0, *ends])
    return sparse.BCSR(
      tuple(map(jnp.asarray, parts)),
      shape=matrix.shape,
      indices_sorted=True,
      unique_indices=True,
    )

  return _convert(convert, params, prunable)


def to_dense(matrices: Any, like: Params) -> Params:
  """Undoes `to_scipy` and `to_bcsr`.

  Args:
    matrices: what they returned.
    like: the kernel or the tree that they were given; only shapes and, where
      there is no matrix, the leaves themselves are read.

  Returns:
    `like` with kernels of the values in the matrices, as NumPy arrays.

  Raises:
    ValueError: a matrix does not have the size of its kernel.

  Example:
    >>> kernel = jnp.eye(2)
    >>> to_dense(to_bcsr(kernel), kernel)
    array([[1., 0.],
           [0., 1.]], dtype=float32)
  """

  def fill(path, leaf, matrix):
    if matrix is None:
      return leaf
    if hasattr(matrix, 'toarray'):  # Of SciPy.
      dense = matrix.toarray()
    else:
      dense = np.zeros(matrix.shape, matrix.dtype).T
      rows = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
      dense[np.asarray(matrix.indices), rows] = matrix.data
    rows, out = np.shape(_matrix(path, leaf))
    if dense.shape != (rows, out):
      raise ValueError(
        f"The matrix of leaf '{selection.name_of(path)}' has shape "
        f'{dense.shape} as rows and outputs; its kernel needs {(rows, out)}. '
        'Pass the params that it was made of.'
      )
    return dense.reshape(leaf.shape)

  return jax.tree_util.tree_map_with_path(fill, like, matrices)


def save(
  path: str | os.PathLike,
  params: Params,
  prunable: Predicate = selection.is_kernel,
) -> None:
  """Writes kernels as CSR matrices, and all else as it is, to one .npz file.

  A kernel `a/kernel` is the arrays `a/kernel.data`, `.indices`, `.indptr` and
  `.shape`, of which anybody makes
  `scipy.sparse.csr_array((data, indices, indptr), shape)`.

  Args:
    path: of the file; what is there is replaced.
    params: tree of arrays.
    prunable: `(path, leaf) -> bool`, what is a kernel.

  Raises:
    TypeError: a kernel is of a type that SciPy does not multiply.
    ImportError: SciPy is not installed.

  Example:
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   save(f'{folder}/net.npz', {'fc': {'kernel': jnp.eye(2)}})
    ...   sorted(np.load(f'{folder}/net.npz'))
    ['fc/kernel.data', 'fc/kernel.indices', 'fc/kernel.indptr', \
'fc/kernel.shape']
  """
  arrays = {}

  def add(key_path, leaf, matrix):
    name = selection.name_of(key_path)
    if matrix is None:
      arrays[name] = np.asarray(jax.device_get(leaf))
    else:
      parts = {f'{name}.{part}': getattr(matrix, part) for part in _PARTS}
      arrays.update(parts)

  matrices = to_scipy(params, prunable)
  jax.tree_util.tree_map_with_path(add, params, matrices)
  content = io.BytesIO()
  np.savez(content, **arrays)
  files.replace(path, content.getvalue())


def _matrix(path: jax.tree_util.KeyPath, kernel: Any) -> Any:
  if np.ndim(kernel) < 2:
    raise ValueError(
      f"Leaf '{selection.name_of(path)}' of shape {np.shape(kernel)} has fewer "
      'than two axes, and is no matrix. Pass a `prunable` that leaves it out.'
    )
  return kernel.reshape(-1, kernel.shape[-1])


def _convert(convert: Callable, params: Params, prunable: Predicate) -> Any:
  if jax.tree_util.treedef_is_leaf(jax.tree.structure(params)):
    return convert((), params)
  weights = selection.select(params, prunable)
  return jax.tree_util.tree_map_with_path(convert, weights)
