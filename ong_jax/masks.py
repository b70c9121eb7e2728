"""Masks: how many weights are kept, what a mask does, its packed form."""

import math
import numbers
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ong_jax.selection import name_of
from ong_jax.types import Mask, Params, Weights


def check_sparsity(sparsity: float) -> None:
  """Raises a `ValueError` unless `sparsity` is a number in [0, 1).

  Example:
    >>> check_sparsity(0.95)
  """
  if not (isinstance(sparsity, numbers.Real) and 0 <= sparsity < 1):
    raise ValueError(
      '`sparsity` must be a number in [0, 1), the fraction of the prunable '
      f'weights to remove; got {sparsity!r}.'
    )


def round_kept(size: int, sparsity: float) -> int:
  """Returns how many of `size` weights are kept: N - round(sparsity * N).

  The one place where anything is rounded, in Python's integers: float32 cannot
  count above 2**24.

  Example:
    >>> round_kept(100, 0.95)
    5
  """
  return size - round(float(sparsity) * size)


def num_kept(weights: Weights, sparsity: float) -> int:
  """Returns how many weights are kept: N - round(sparsity * N).

  Args:
    weights: tree of arrays, of which only the sizes are read.
    sparsity: fraction of all weights to remove, in [0, 1).

  Returns:
    The number of weights kept, over the whole tree.

  Raises:
    ValueError: `sparsity` is out of range, or so high that fewer weights than
      leaves are left.

  Example:
    >>> num_kept({'a': jnp.ones((2, 5)), 'b': jnp.ones((30, 3))}, 0.95)
    5
  """
  check_sparsity(sparsity)
  sizes = [leaf.size for leaf in jax.tree.leaves(weights)]
  total = sum(sizes)
  kept = round_kept(total, sparsity)
  if kept < len(sizes):
    highest = math.floor((total - len(sizes)) / total * 1e6) / 1e6
    raise ValueError(
      f'`sparsity`={sparsity} keeps {kept} of {total} weights, fewer than the '
      f'{len(sizes)} prunable leaves. With these params it can be {highest:g}.'
    )
  return kept


def check_like(tree: Params, mask: Mask) -> None:
  """Raises unless a mask fits the tree that it is about to meet.

  Without it a mask of shape (4,) silently broadcasts over (3, 4). Only shapes
  are looked at, so that tracing makes it free.

  Raises:
    ValueError: structure or shape differ; the leaf is named.
    TypeError: a leaf of the mask is not bool.

  Example:
    >>> check_like({'kernel': jnp.ones((3, 4))}, {'kernel': None})
  """

  try:
    kept = jax.tree.structure(tree).flatten_up_to(mask)
    if not jax.tree_util.all_leaves([m for m in kept if m is not None]):
      raise ValueError('The mask goes deeper than the params.')
  except ValueError as error:
    ours, theirs, with_none = (
      {
        name_of(path)
        for path, _ in jax.tree_util.tree_leaves_with_path(t, is_leaf=is_leaf)
      }
      for t, is_leaf in (
        (tree, None),
        (mask, None),
        (mask, lambda x: x is None),
      )
    )
    raise ValueError(
      'The mask must have the tree structure of the params, with `None` for '
      'what is not prunable. '
      f'Only the mask has {sorted(theirs - ours)[:4]}; '
      f'only the params have {sorted(ours - with_none)[:4]}. '
      f'The params are a {type(tree).__name__}, the mask a '
      f'{type(mask).__name__}.'
    ) from error
  for (path, leaf), m in zip(jax.tree_util.tree_leaves_with_path(tree), kept):
    if m is None:
      continue
    if not hasattr(m, 'dtype'):
      raise TypeError(
        f"Mask leaf '{name_of(path)}' must be a bool array; got {m!r:.200}."
      )
    if np.shape(m) != np.shape(leaf):
      raise ValueError(
        f"Mask leaf '{name_of(path)}' has shape {np.shape(m)}, but its "
        f'parameter has shape {np.shape(leaf)}.'
      )
    if jnp.result_type(m) != jnp.bool_:
      raise TypeError(
        f"Mask leaf '{name_of(path)}' must be bool, True = kept; got "
        f'{jnp.result_type(m)}.'
      )


def check_bool(mask: Mask) -> None:
  """Raises a `TypeError` for a leaf that is no bool array.

  Floats and packed masks would be counted, and the count be wrong.

  Example:
    >>> check_bool({'kernel': jnp.array([True])})
  """
  for path, m in jax.tree_util.tree_leaves_with_path(mask):
    dtype = getattr(m, 'dtype', None)
    if dtype != jnp.bool_:
      what = f'{m!r:.200}' if dtype is None else dtype
      raise TypeError(
        f"Mask leaf '{name_of(path)}' must be bool, True = kept; got {what}."
      )


def apply_mask(tree: Params, mask: Mask) -> Params:
  """Sets to zero what the mask does not keep.

  By `where`, not by a product: NaN times zero is NaN.

  Args:
    tree: params, or anything of their structure (gradients, updates).
    mask: tree of bool arrays shaped as their params; `None` keeps all.

  Returns:
    A tree like `tree`.

  Raises:
    ValueError, TypeError: the mask does not fit (`check_like`).

  Example:
    >>> params = {'kernel': jnp.array([[3.0, jnp.nan]]), 'bias': jnp.ones(2)}
    >>> mask = {'kernel': jnp.array([[True, False]]), 'bias': None}
    >>> apply_mask(params, mask)['kernel']
    Array([[3., 0.]], dtype=float32)
  """
  check_like(tree, mask)
  return jax.tree.map(
    lambda x, m: x if m is None else jnp.where(m, x, jnp.zeros_like(x)),
    tree,
    mask,
  )


def sparsity(mask: Mask) -> float:
  """Returns the fraction of the prunable weights that a mask removes.

  Args:
    mask: tree of bool arrays.

  Returns:
    A float in [0, 1].

  Example:
    >>> sparsity({'kernel': jnp.array([True, False, False, False])})
    0.75
  """
  check_bool(mask)
  leaves = jax.tree.leaves(mask)
  total = sum(leaf.size for leaf in leaves)
  kept = sum(int(np.count_nonzero(leaf)) for leaf in leaves)
  return (total - kept) / total if total else 0.0


def pack(mask: Mask) -> Any:
  """Packs a mask to bits: an eighth of its memory, for files and sending.

  Args:
    mask: tree of bool arrays.

  Returns:
    Tree of uint8 arrays [ceil(size / 8)], first weight in the highest bit.

  Example:
    >>> pack({'kernel': jnp.array([[True, False, True]]), 'bias': None})
    {'bias': None, 'kernel': Array([160], dtype=uint8)}
  """
  check_bool(mask)
  return jax.tree.map(lambda m: jnp.packbits(m.ravel()), mask)


def unpack(bits: Any, params: Params) -> Mask:
  """Gives back the mask that `pack` was given.

  Args:
    bits: what `pack` returned.
    params: tree from which the shapes are read; `ShapeDtypeStruct`s do.

  Returns:
    Tree of bool arrays, `None` where `bits` is.

  Raises:
    ValueError: the sizes do not fit.

  Example:
    >>> unpack({'kernel': jnp.array([160], 'uint8')}, {'kernel': jnp.ones(3)})
    {'kernel': Array([ True, False,  True], dtype=bool)}
  """

  def unpack_leaf(leaf, b):
    if b is None:
      return None
    if getattr(b, 'dtype', None) != jnp.uint8 or b.ndim != 1:
      raise TypeError(f'`bits` must be what `pack` returned; got {b!r:.200}.')
    if b.size != -(-leaf.size // 8):
      raise ValueError(
        f'`bits` has {b.size} bytes for a leaf of shape {leaf.shape}, which '
        f'takes {-(-leaf.size // 8)}. Pass the params that were packed.'
      )
    flat = jnp.unpackbits(b, count=leaf.size)
    return flat.reshape(leaf.shape).astype(bool)

  try:
    bits = jax.tree.structure(params).flatten_up_to(bits)
  except ValueError as error:
    raise ValueError(
      '`bits` must have the tree structure of the params, with `None` for what '
      f'is not prunable: {error}'
    ) from error
  leaves, treedef = jax.tree.flatten(params)
  return treedef.unflatten(map(unpack_leaf, leaves, bits))
