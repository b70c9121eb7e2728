"""The exact choice of the highest scores, without sorting.

Sorting 11 million floats takes seconds in JAX on a CPU. A search over the
*values* of a float needs a dozen passes that only compare and count. Counts are
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
  pooled = jax.tree.structure(counts) == jax.tree.structure(0)
  if pooled:
    names, sizes, ks = ['all'], [sum(x.size for x in leaves)], [counts]
  else:
    names = [
      name_of(path) for path, _ in jax.tree_util.tree_leaves_with_path(scores)
    ]
    sizes, ks = [x.size for x in leaves], treedef.flatten_up_to(counts)
  # Python's and NumPy's integers are looked at; a float is a TypeError here.
  ks = [k if isinstance(k, jax.Array) else operator.index(k) for k in ks]
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


@jax.jit
def _top_k(leaves: list[jax.Array], ks: jax.Array) -> list[jax.Array]:
  """`top_k` on lists, with leaves of one shape stacked in the result.

  What is known of each leaf is a vector [leaves]; where all are pooled it is of
  length one.

  Args:
    leaves: scores, at least one array.
    ks: int32, a count for each leaf or one for all of them.

  Returns:
    bool [leaves of the shape, *shape] for each shape.
  """
  pooled = len(ks) < len(leaves)
  ids = positions(x.shape for x in leaves)
  keys = _sortable(leaves)
  keys = [jnp.stack([keys[i] for i in group]) for group in ids]
  own_order = np.argsort(np.concatenate(ids))
  index = [_flat_index(key.shape[1:])[None] for key in keys]

  def along(vector, i, key):  # Its entries for one stack, as [g, 1, 1, ...].
    vector = jnp.broadcast_to(vector, len(leaves))[ids[i]]
    return vector.reshape(-1, *[1] * (key.ndim - 1))

  def apply(test, *vectors):  # bool [g, ...] for each stack.
    return [
      test(key, index[i], *[along(v, i, key) for v in vectors])
      for i, key in enumerate(keys)
    ]

  def count(test, *vectors):  # int32 [leaves]: how often `test` holds.
    counts = [
      jnp.count_nonzero(x, axis=range(1, x.ndim)).astype(jnp.int32)
      for x in apply(test, *vectors)
    ]
    return jnp.concatenate(counts)[own_order]

  def pool(vector):
    return vector.sum(keepdims=True) if pooled else vector

  lowest = jnp.zeros_like(ks, keys[0].dtype)
  threshold, surplus = _search(
    lambda t: pool(count(lambda key, _, t: key >= t, t)),
    ks,
    lo=lowest,
    hi=~lowest,
    total=pool(jnp.array([x.size for x in leaves], jnp.int32)),
  )
  # A surplus are weights that all have the threshold's own score. The last
  # ones have to go, later leaves before earlier ones.
  ties = count(lambda key, _, t: key == t, threshold)
  dropped = surplus
  if pooled:
    later = jnp.cumsum(ties[::-1])[::-1] - ties
    dropped = jnp.clip(surplus - later, 0, ties)
  sizes = jnp.array([x.size for x in leaves], jnp.uint32)
  end, _ = _search(
    lambda c: count(lambda key, i, t, c: (key == t) & (i >= c), threshold, c),
    dropped,
    lo=jnp.where(dropped > 0, 0, sizes),
    hi=sizes + 1,
    total=ties,
  )
  return apply(
    lambda key, i, t, end: (key > t) | ((key == t) & (i < end)), threshold, end
  )


def _search(
  count: Callable[[jax.Array], jax.Array],
  ks: jax.Array,
  *,
  lo: jax.Array,
  hi: jax.Array,
  total: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  """Finds, for many k at once, a t in [lo, hi) that cuts off k.

  That is a t with count(t) == k if one is met on the way, else the largest t
  with count(t) > k.

  Args:
    count: unsigned [groups] -> int32 [groups], non-increasing in each entry.
    ks: int32 [groups].
    lo: where the count is known to suffice.
    hi: where it is known not to, unless k is 0; above `lo`.
    total: the count at `lo`; at `hi` it is 0.

  Returns:
    t, unsigned [groups], and count(t) - k, int32 [groups].
  """

  def unfinished(carry):
    lo, hi, surplus, *_ = carry
    return jnp.any((hi - lo > 1) & (surplus > 0))

  def narrow(carry):
    # Regula falsi with the Illinois rule: an end that stays twice has its
    # weight halved. A dozen steps, where bisection needs up to 32. It can be
    # slow on ugly distributions, so after 16 steps bisection takes over.
    lo, hi, surplus, over, under, low_moved, i = carry
    share = jnp.where(i < 16, over / jnp.maximum(over + under, 1), 0.5)
    step = (share * (hi - lo).astype(jnp.float32)).astype(lo.dtype)
    t = jnp.clip(lo + step, lo + 1, hi - 1)
    rest = count(t) - ks
    enough = rest >= 0
    weight = jnp.where((enough == low_moved) & (i > 0), 0.5, 1.0)
    return (
      jnp.where(enough, t, lo),
      jnp.where(enough, hi, t),
      jnp.where(enough, rest, surplus),
      jnp.where(enough, rest.astype(jnp.float32), over * weight),
      jnp.where(enough, under * weight, -rest.astype(jnp.float32)),
      enough,
      i + 1,
    )

  surplus = total - ks
  over, under = surplus.astype(jnp.float32), ks.astype(jnp.float32)
  start = lo, hi, surplus, over, under, jnp.zeros(ks.shape, bool), 0
  lo, _, surplus, *_ = jax.lax.while_loop(unfinished, narrow, start)
  return lo, surplus


def _sortable(leaves: list[jax.Array]) -> list[jax.Array]:
  """Maps floats to unsigned integers of the same order; NaN to the lowest.

  The bits of a non-negative float are ordered as its value, those of a
  negative one the other way round.
  """
  dtype = jnp.promote_types(jnp.result_type(*leaves), jnp.float32)
  unsigned = jnp.uint32 if dtype == jnp.float32 else jnp.uint64
  sign = unsigned(1 << (jnp.finfo(dtype).bits - 1))

  def convert(x):
    x = x.astype(dtype)
    bits = jax.lax.bitcast_convert_type(x, unsigned)
    bits = jnp.where(bits == sign, unsigned(0), bits)  # -0.0 is 0.0.
    ordered = jnp.where(bits & sign, ~bits, bits | sign)
    return jnp.where(jnp.isnan(x), unsigned(0), ordered)

  return [convert(x) for x in leaves]


def _flat_index(shape: tuple[int, ...]) -> jax.Array:
  """Numbers the entries of an array, without a reshape that would gather."""
  index, stride = jnp.zeros(shape, jnp.uint32), 1
  for axis in reversed(range(len(shape))):
    index += jax.lax.broadcasted_iota(jnp.uint32, shape, axis) * stride
    stride *= shape[axis]
  return index
