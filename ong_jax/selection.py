"""Which leaves of a tree are prunable, what they are called, and their keys."""

import math
import zlib
from collections.abc import Hashable, Iterable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ong_jax.checks import check_function
from ong_jax.types import InputAxes, Params, Predicate, Weights


def name_of(path: jax.tree_util.KeyPath) -> str:
  """Names a leaf as errors and tables do, such as 'Dense_0/kernel'.

  Example:
    >>> path, _ = jax.tree_util.tree_leaves_with_path({'fc': {'kernel': 1}})[0]
    >>> name_of(path)
    'fc/kernel'
  """
  return jax.tree_util.keystr(path, simple=True, separator='/')


def is_kernel(path: jax.tree_util.KeyPath, leaf: jax.Array) -> bool:
  """Tells the kernels of dense, convolution and attention layers.

  True for leaves of two dimensions or more that are named `kernel`, as Flax
  names them: in linen params, in nested dicts, and in NNX state, where the
  path has one more entry, `value`. So biases, normalisation and embeddings are
  never prunable, and the first layer, shortcuts and the classifier are.

  Another library needs another predicate. Equinox names its kernels `weight`:

      def prunable(path, leaf):
        name = name_of(path)
        return (
          name.endswith('weight') and leaf.ndim > 1 and 'embed' not in name
        )

  Its kernels are [out, in, ...], those of Flax [..., in, out]. Magnitude,
  random and every allocation do not care. The NMF sees another matrix, and
  `at_least` and the empty filters of `summarize` take the last axis for the
  filters, so transpose the kernels before these.

  Args:
    path: key path of the leaf, as `jax.tree_util.tree_map_with_path` gives it.
    leaf: the array, or anything with a shape.

  Returns:
    Whether the leaf is prunable.

  Example:
    >>> params = {'kernel': jnp.ones((3, 4)), 'bias': jnp.ones(4)}
    >>> jax.tree_util.tree_map_with_path(is_kernel, params)
    {'bias': False, 'kernel': True}
  """
  return _layer_and_name(path)[1:] == ['kernel'] and np.ndim(leaf) >= 2


def _layer_and_name(path: jax.tree_util.KeyPath) -> list[str]:
  """The last two names, the first '' where there is no layer."""
  names = ['', *name_of(path).split('/')]
  if names[-1] == 'value':  # Of NNX.
    names.pop()
  return names[-2:]


def input_axes(path: jax.tree_util.KeyPath, leaf: jax.Array) -> int:
  """Tells how many of a kernel's axes, from the first, are inputs.

  All but the last, as Flax has its kernels. The kernels [embed, heads,
  head_dim] of attention's query, key and value have one axis of inputs and two
  of outputs; they are told by the name of their layer and their three axes.
  That of its `out`, [heads, head_dim, embed], is as all others.

  Other layers with several axes of outputs need a function of your own.

  Args:
    path: key path of the leaf, as `jax.tree_util.tree_map_with_path` gives it.
    leaf: the array, or anything with a shape.

  Returns:
    The number of axes.

  Example:
    >>> params = {'query': {'kernel': jnp.ones((8, 2, 4))},
    ...           'out': {'kernel': jnp.ones((2, 4, 8))}}
    >>> jax.tree_util.tree_map_with_path(input_axes, params)
    {'out': {'kernel': 2}, 'query': {'kernel': 1}}
  """
  layer, name = _layer_and_name(path)
  projects = layer in ('query', 'key', 'value') and name == 'kernel'
  if projects and np.ndim(leaf) == 3:
    return 1
  return max(np.ndim(leaf) - 1, 0)


def matrix_shapes(
  tree: Weights, inputs: InputAxes = input_axes
) -> list[tuple[int, int]]:
  """Returns the shape [fan_in, outputs] of every leaf, seen as a matrix.

  Args:
    tree: any tree of arrays; only shapes are read.
    inputs: `(path, leaf) -> int`, the number of axes that are inputs.

  Returns:
    A pair of ints for each leaf, in their order in the tree.

  Raises:
    ValueError: a leaf has not as many axes; it is named.

  Example:
    >>> matrix_shapes({'kernel': jnp.ones((3, 3, 8, 16))})
    [(72, 16)]
  """
  shapes = []
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    axes, shape = inputs(path, leaf), np.shape(leaf)
    if not 0 <= axes <= len(shape):
      raise ValueError(
        f'`inputs` must be a number of axes in [0, {len(shape)}] for leaf '
        f"'{name_of(path)}' of shape {shape}; got {axes}."
      )
    shapes.append((math.prod(shape[:axes]), math.prod(shape[axes:])))
  return shapes


def select(params: Params, prunable: Predicate = is_kernel) -> Weights:
  """Replaces every leaf that is not prunable by `None`.

  Args:
    params: tree of arrays.
    prunable: `(path, leaf) -> bool`.

  Returns:
    The tree of weights.

  Raises:
    ValueError: no leaf is prunable, though there are leaves, or a prunable
      one is empty.
    TypeError: a prunable leaf is not of a real floating-point type.

  Example:
    >>> select({'kernel': jnp.ones((1, 2)), 'bias': jnp.ones(2)})
    {'bias': None, 'kernel': Array([[1., 1.]], dtype=float32)}
  """

  check_function('prunable', prunable, '`selection.is_kernel`')

  def keep(path, leaf):
    if not prunable(path, leaf):
      return None
    dtype = leaf.dtype if hasattr(leaf, 'dtype') else np.asarray(leaf).dtype
    if not jnp.issubdtype(dtype, jnp.floating) or dtype.itemsize < 2:
      raise TypeError(
        f"Leaf '{name_of(path)}' is prunable, but its dtype is {dtype}; "
        'weights must be real floating-point numbers of at least 16 bits. '
        'Pass a `prunable` that leaves it out.'
      )
    if not np.size(leaf):
      raise ValueError(
        f"Leaf '{name_of(path)}' is prunable, but has no weights: its shape is "
        f'{np.shape(leaf)}. Pass a `prunable` that leaves it out.'
      )
    return leaf

  weights = jax.tree_util.tree_map_with_path(keep, params)
  if jax.tree.leaves(params) and not jax.tree.leaves(weights):
    names = [name_of(p) for p, _ in jax.tree_util.tree_leaves_with_path(params)]
    raise ValueError(
      f'No leaf is prunable among {names[:8]}'
      f'{f" and {len(names) - 8} more" if len(names) > 8 else ""}. '
      'Pass another `prunable`.'
    )
  return weights


def leaf_keys(key: jax.Array, tree: Weights) -> Weights:
  """Makes a key for every leaf from its path.

  So a layer that is added or taken away leaves the keys of all others alone.

  Args:
    key: a key of `jax.random.key`.
    tree: any tree.

  Returns:
    Tree of keys.

  Example:
    >>> tree = leaf_keys(jax.random.key(0), {'a': 1, 'b': None})
    >>> tree['a'].shape, tree['b']
    ((), None)
  """

  return jax.tree.map(partial(jax.random.fold_in, key), leaf_seeds(tree))


def leaf_seeds(tree: Weights) -> Weights:
  """Makes an integer in [0, 2^32) for every leaf from its path.

  Example:
    >>> leaf_seeds({'a': 1, 'b': None})
    {'a': 3904355907, 'b': None}
  """
  return jax.tree_util.tree_map_with_path(
    lambda path, _: zlib.crc32(name_of(path).encode()), tree
  )


def positions(labels: Iterable[Hashable]) -> list[np.ndarray]:
  """Says where each label stands, in the order of first appearance.

  A deep network has many kernels but few shapes, and time to compile goes with
  the programs. So what is of one shape is stacked, and one program serves all.

  Example:
    >>> [where.tolist() for where in positions(['a', 'b', 'a'])]
    [[0, 2], [1]]
  """
  groups = {}
  for i, label in enumerate(labels):
    groups.setdefault(label, []).append(i)
  return [np.array(group) for group in groups.values()]


def unstack(groups: list[np.ndarray], stacks: list[Any]) -> list[Any]:
  """Takes stacks apart, into the order that `positions` was told.

  Args:
    groups: of `positions`.
    stacks: for each group an array with a first axis of its length, or a tree
      of such arrays.

  Returns:
    List of arrays or trees.

  Example:
    >>> unstack([(0, 2), (1,)], [jnp.array([7, 8]), jnp.array([9])])
    [Array(7, dtype=int32), Array(9, dtype=int32), Array(8, dtype=int32)]
  """
  leaves = {}
  for group, stack in zip(groups, stacks):
    for row, i in enumerate(group):
      leaves[i] = jax.tree.map(lambda x, row=row: x[row], stack)
  return [leaves[i] for i in range(len(leaves))]
