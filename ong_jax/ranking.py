"""The exact choice of the highest scores, without sorting.

Sorting 11 million floats takes seconds in JAX on a CPU. Bisection over the bits
of a float needs at most 32 passes that only compare and count. Counts are
integers, so the result is the same bits on one device and on many, and nothing
is gathered where the scores are sharded.
"""

import operator
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from ong_jax.selection import name_of, positions, unstack
from ong_jax.types import Counts, Mask, Scores


def top_k(scores: Scores, counts: Counts) -> Mask:
  """Keeps exactly the `counts` highest scores; of equal ones, the first.

  First means the lower index in the flattened leaf, and before that the earlier
  leaf. -0.0 equals 0.0, and NaN ranks below everything. The comparison is
  exact: no score is rounded, none is moved.

  Args:
    scores: tree of arrays of at most 32 bits (64 in JAX's x64 mode); at most
      2**31 - 1 scores a leaf, and in the tree where they are ranked together.
    counts: an int per leaf, ranked within its leaf; or one int for the whole
      tree, whose leaves are then ranked together. Python ints or traced.

  Returns:
    Tree of bool arrays like `scores`.

  Raises:
    ValueError: a count is negative or above the number of scores (checked
      unless it is traced), or the trees differ.
    TypeError: a count is no integer, or a score no float.

  Example:
    >>> scores = {'a': jnp.array([1.0, 3.0, 3.0]), 'b': jnp.array([2.0, 3.0])}
    >>> top_k(scores, 2)
    {'a': Array([False,  True,  True], dtype=bool), \
'b': Array([False, False], dtype=bool)}
    >>> top_k(scores, {'a': 1, 'b': 2})
    {'a': Array([False,  True, False], dtype=bool), \
'b': Array([ True,  True], dtype=bool)}
  """
  leaves, treedef = jax.tree.flatten(scores)
  for path, leaf in jax.tree_util.tree_leaves_with_path(scores):
    if not hasattr(leaf, 'dtype'):
      raise TypeError(
        f"`scores` must be arrays; leaf '{name_of(path)}' is {leaf!r:.200}."
      )
  pooled = jax.tree.structure(counts) == jax.tree.structure(0)
  if pooled:
    names, sizes, ks = ['all'], [sum(x.size for x in leaves)], [counts]
  else:
    names = [
      name_of(path) for path, _ in jax.tree_util.tree_leaves_with_path(scores)
    ]
    sizes, ks = [x.size for x in leaves], _flat_counts(treedef, counts, names)
  ks = list(map(_checked_count, names, ks))
  for name, size, k in zip(names, sizes, ks):
    if isinstance(k, int) and not 0 <= k <= size:
      raise ValueError(
        f"`counts` of '{name}' must lie in [0, {size}], the number of scores; "
        f'got {k}.'
      )
    if size >= 2**31:
      raise ValueError(
        f"'{name}' has {size} scores; at most {2**31 - 1} are ranked together. "
        'Rank the leaves apart, with a count for each.'
      )
  for leaf in leaves:
    if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
      raise TypeError(
        f'`scores` must be floating-point numbers; got {leaf.dtype}.'
      )
  if not leaves:
    return scores
  kept = _top_k(leaves, jnp.stack([jnp.asarray(k, jnp.int32) for k in ks]))
  return treedef.unflatten(unstack(positions(x.shape for x in leaves), kept))


def _flat_counts(treedef, counts, names):
  try:
    return treedef.flatten_up_to(counts)
  except ValueError as error:
    raise ValueError(
      f'`counts` must be one int, or have one for each of {names[:8]}, in a '
      f'tree like that of the scores; got {counts!r:.200}.'
    ) from error


def _checked_count(name, k):
  """What is traced cannot be looked at."""
  if isinstance(k, jax.core.Tracer):
    return k
  try:
    return operator.index(k)
  except TypeError as error:
    raise TypeError(
      f"`counts` of '{name}' must be an integer; got {k!r:.200}."
    ) from error


@jax.jit
def _top_k(leaves: list[jax.Array], ks: jax.Array) -> list[jax.Array]:
  """`top_k` on lists, with leaves of one shape stacked in the result.

  What is kept is what scores above a threshold, and of those that have its very
  score the ones that come before an end.

  Args:
    leaves: scores, at least one array.
    ks: int32, a count for each leaf or one for all of them.

  Returns:
    bool [leaves of the shape, *shape] for each shape.
  """
  pooled = len(ks) < len(leaves)
  ids = positions(x.shape for x in leaves)
  dtype = jnp.promote_types(jnp.result_type(*leaves), jnp.float32)
  keys = [
    _sortable(jnp.stack([leaves[i].astype(dtype) for i in group]))
    for group in ids
  ]
  own_order = np.argsort(np.concatenate(ids))
  index = [flat_index(key.shape[1:])[None] for key in keys]

  def apply(test, *vectors):  # bool [g, ...] for each stack.
    def one(group, key, index):
      along = (v[group].reshape(-1, *[1] * (key.ndim - 1)) for v in vectors)
      return test(key, index, *along)

    return [one(*stack) for stack in zip(ids, keys, index)]

  def count(test, *vectors):  # int32 [leaves]: how often `test` holds.
    counts = [_count(x) for x in apply(test, *vectors)]
    return jnp.concatenate(counts)[own_order]

  def pool(counts):
    return jnp.broadcast_to(counts.sum(), counts.shape) if pooled else counts

  sizes = jnp.array([x.size for x in leaves], jnp.int32)
  # The threshold is ~x: the higher x, the more is above it.
  x, above, not_below = _bisect(
    lambda x: count(lambda key, _, x: key > ~x, x),
    jnp.broadcast_to(ks, sizes.shape),
    end=~jnp.zeros_like(sizes, keys[0].dtype),
    at_end=sizes,
    total=pool,
  )
  # Those that are missing have the threshold's own score: the first ones, those
  # of earlier leaves before those of later ones.
  ties = not_below - above
  earlier = jnp.cumsum(ties) - ties if pooled else 0
  missing = jnp.clip(ks - pool(above) - earlier, 0, ties)
  end, *_ = _bisect(
    lambda end: count(lambda key, i, x, end: (key == ~x) & (i < end), x, end),
    missing,
    end=sizes.astype(jnp.uint32) + 1,
    at_end=ties,
  )
  return apply(
    lambda key, i, x, end: (key > ~x) | ((key == ~x) & (i < end)), x, end
  )


def _bisect(
  count: Callable[[jax.Array], jax.Array],
  ks: jax.Array,
  *,
  end: jax.Array,
  at_end: jax.Array,
  total: Callable[[jax.Array], jax.Array] = lambda counts: counts,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Finds, for each leaf, an x in [0, end) up to which k are counted.

  That is an x with total(count(x)) == k if one is met on the way, else the
  largest with less.

  Args:
    count: unsigned [leaves] -> int32 [leaves], 0 at 0 and non-decreasing.
    ks: int32 [leaves].
    end: unsigned [leaves], where more than k are counted, or all.
    at_end: int32 [leaves], the counts there.
    total: of counts: what is compared with k.

  Returns:
    x, count(x), and where that is less than k, count(x + 1).
  """

  def unfinished(carry):
    x, end, at_x, _ = carry
    return jnp.any((end - x > 1) & (total(at_x) < ks))

  def halve(carry):
    x, end, at_x, at_end = carry
    middle = x + (end - x) // 2
    counts = count(middle)
    fits = total(counts) <= ks
    return (
      jnp.where(fits, middle, x),
      jnp.where(fits, end, middle),
      jnp.where(fits, counts, at_x),
      jnp.where(fits, at_end, counts),
    )

  carry = jnp.zeros_like(end), end, jnp.zeros_like(at_end), at_end
  x, _, at_x, at_end = jax.lax.while_loop(unfinished, halve, carry)
  return x, at_x, at_end


def _count(x: jax.Array) -> jax.Array:
  """Counts along all axes but the first: bool [g, ...] -> int32 [g]."""
  x = x.astype(jnp.int32)
  if x.ndim > 2 and x.shape[-2] % 8 == 0:
    # XLA's sums are scalar code on a CPU, but what it adds up by element is
    # not. That is done to seven rows in eight, which is five times as fast.
    *outer, rows, columns = x.shape
    x = x.reshape(*outer, rows // 8, 8, columns)
    x = sum(x[..., i, :] for i in range(8))
  return x.sum(range(1, x.ndim), dtype=jnp.int32)


def _sortable(x: jax.Array) -> jax.Array:
  """Maps floats to unsigned integers of the same order; NaN to the lowest.

  The bits of a non-negative float are ordered as its value, those of a
  negative one the other way round. Neither 0 nor the highest integer is taken.
  """
  unsigned = jnp.uint32 if x.dtype == jnp.float32 else jnp.uint64
  sign = unsigned(1 << (jnp.finfo(x.dtype).bits - 1))
  bits = jax.lax.bitcast_convert_type(x, unsigned)
  bits = jnp.where(bits == sign, unsigned(0), bits)  # -0.0 is 0.0.
  ordered = jnp.where(bits & sign, ~bits, bits | sign)
  return jnp.where(jnp.isnan(x), unsigned(1), ordered)


def flat_index(shape: tuple[int, ...]) -> jax.Array:
  """Numbers the entries of an array, without a reshape that would gather.

  Example:
    >>> flat_index((2, 3))
    Array([[0, 1, 2],
           [3, 4, 5]], dtype=uint32)
  """
  index, stride = jnp.zeros(shape, jnp.uint32), 1
  for axis in reversed(range(len(shape))):
    index += jax.lax.broadcasted_iota(jnp.uint32, shape, axis) * stride
    stride *= shape[axis]
  return index
