"""Leaves cut into blocks, in the order of which blocks are ranked.

A block is a tuple with an entry for each axis of its leaf, made by `fit`. Those
at the far edges are smaller. What is known of blocks is a vector [blocks].
"""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ong_jax import ranking

Shape = tuple[int, ...]


def fit(shape: Shape, block: Shape) -> Shape:
  """Lays a block over the trailing axes of a leaf, no longer than they are.

  Example:
    >>> fit((3, 3, 64, 10), (4, 16))
    (1, 1, 4, 10)
    >>> fit((64, 10), (3, 3, 1, 1))
    (1, 1)
  """
  block = (1,) * len(shape) + tuple(block)
  return tuple(
    min(b, d) for b, d in zip(block[len(block) - len(shape) :], shape)
  )


def sizes(shape: Shape, block: Shape) -> np.ndarray:
  """Counts the weights of each block: int32 [blocks].

  Example:
    >>> sizes((5, 3), (2, 2))
    array([4, 2, 4, 2, 2, 1], dtype=int32)
  """
  size = np.ones(1, np.int32)
  for d, b in zip(shape, block):
    lengths = np.minimum(b, d - np.arange(0, d, b)).astype(np.int32)
    size = (size[:, None] * lengths).ravel()
  return size


def split(leaf: jax.Array, block: Shape, fill: float) -> jax.Array:
  """Makes each block a row [blocks, size], filled up at the edges.

  Example:
    >>> split(jnp.arange(6.0).reshape(2, 3), (2, 2), fill=9)
    Array([[0., 1., 3., 4.],
           [2., 9., 5., 9.]], dtype=float32)
  """
  edges = [(0, -d % b) for d, b in zip(leaf.shape, block)]
  leaf = jnp.pad(leaf, edges, constant_values=fill)
  pairs = [(d // b, b) for d, b in zip(leaf.shape, block)]
  leaf = leaf.reshape([length for pair in pairs for length in pair])
  axes = range(leaf.ndim)
  return leaf.transpose(*axes[::2], *axes[1::2]).reshape(-1, math.prod(block))


def expand(values: jax.Array, shape: Shape, block: Shape) -> jax.Array:
  """Gives each weight what its block has.

  Example:
    >>> expand(jnp.array([5, 6]), (2, 3), (2, 2))
    Array([[5, 5, 6],
           [5, 5, 6]], dtype=int32)
  """
  leaf = values.reshape([-(-d // b) for d, b in zip(shape, block)])
  for axis, (d, b) in enumerate(zip(shape, block)):
    leaf = jax.lax.slice_in_dim(jnp.repeat(leaf, b, axis), 0, d, axis=axis)
  return leaf


@partial(jax.jit, static_argnames='block')
def mean(scores: jax.Array, block: Shape) -> jax.Array:
  """Averages the scores of each block, in float32 at least: [blocks].

  A block in which anything must be kept (+inf) must be kept; any other in which
  something must not (-inf) must not. NaN makes it the lowest of the others. The
  sum is the same bits however it is compiled, on however many devices.

  Example:
    >>> mean(jnp.array([[1.0, 2.0, 5.0]]), (1, 2))
    Array([1.5, 5. ], dtype=float32)
  """
  scores = scores.astype(jnp.promote_types(scores.dtype, jnp.float32))
  rows = split(scores, block, fill=0)
  must, must_not = (rows == jnp.inf).any(1), (rows == -jnp.inf).any(1)
  while rows.shape[1] > 1:  # By halves: `sum` may add in any order.
    half = -(-rows.shape[1] // 2)
    rest = rows[:, half:]
    rest = jnp.pad(rest, ((0, 0), (0, half - rest.shape[1])))
    rows = rows[:, :half] + rest
  average = rows[:, 0] / sizes(scores.shape, block)
  average = jnp.nan_to_num(average, nan=jnp.finfo(average.dtype).min)
  return jnp.where(must, jnp.inf, jnp.where(must_not, -jnp.inf, average))


def _top(
  values: list[jax.Array], counts: Any, shapes: list[Shape], blocks: list[Shape]
) -> list[jax.Array]:
  """Counts of each block the weights that are among the highest.

  A block's weights are in a row, so that of equal blocks the first is filled,
  and one at most is kept in part of what is ranked together.

  Args:
    values: [blocks] of each leaf; of its shape where a block is one weight.
    counts: of weights, for each leaf or for all.
    shapes, blocks: of each leaf.

  Returns:
    int32 arrays like `values`; bool where a block is one weight.
  """
  single = [math.prod(block) == 1 for block in blocks]
  rows = [
    v if one else split(expand(v, shape, block), block, jnp.nan)
    for v, one, shape, block in zip(values, single, shapes, blocks)
  ]
  kept = ranking.top_k(rows, counts)
  return [k if one else k.sum(1) for k, one in zip(kept, single)]


@partial(jax.jit, static_argnames='blocks')
def best(
  scores: list[jax.Array], counts: Any, blocks: tuple[Shape, ...]
) -> list[jax.Array]:
  """Keeps the best blocks, whole, and fills up with single weights.

  Args:
    scores: at least one leaf.
    counts: of weights: for each leaf, or one for all. May be traced.
    blocks: of each leaf, made by `fit`; those of one weight are single weights.

  Returns:
    A bool array for each leaf. Their total is that of the counts where single
    weights suffice to fill up, else less than one block below. `mixed` says
    what is kept.

  Example:
    >>> scores = [jnp.array([3.0, 3.0, 1.0, 1.0]), jnp.array([0.0, 5.0, 4.0])]
    >>> best(scores, [3, 1], blocks=((2,), (1,)))
    [Array([ True,  True, False, False], dtype=bool), \
Array([False,  True,  True], dtype=bool)]
  """
  shapes = [s.shape for s in scores]
  weights = [i for i, block in enumerate(blocks) if math.prod(block) == 1]
  others = [i for i, block in enumerate(blocks) if math.prod(block) > 1]
  if not others:
    return ranking.top_k(scores, counts)
  size = [
    1 if i in weights else sizes(shapes[i], blocks[i])
    for i in range(len(blocks))
  ]
  values = [
    jnp.where(jnp.isnan(s), jnp.finfo(s.dtype).min, s)
    if i in weights
    else mean(s, blocks[i])
    for i, s in enumerate(scores)
  ]

  def best_of(ids, values, counts):
    return _top(
      values, counts, *[[x[i] for i in ids] for x in (shapes, blocks)]
    )

  def count(ids, kept):
    return sum(jnp.sum(kept[i] * size[i]) for i in ids)

  def refill(ids, budget):  # Adds the best of the rest, or drops the worst.
    over = count(ids, kept) > budget
    stays = [jnp.where(over, values[i], jnp.inf) for i in ids]
    comes = [jnp.where(over, -jnp.inf, values[i]) for i in ids]
    ranked = [jnp.where(kept[i], *both) for i, *both in zip(ids, stays, comes)]
    return dict(zip(ids, best_of(ids, ranked, budget)))

  total = sum(jax.tree.leaves(counts))
  must = [v == jnp.inf for v in values]
  may = [v > -jnp.inf for v in values]
  kept = {
    i: ((k == size[i]) & may[i]) | must[i]
    for i, k in enumerate(best_of(range(len(values)), values, counts))
  }
  # Blocks have what they found, but leave the single weights no more than may
  # stay, and no less than must. There is a part of one block at most, and it is
  # made whole if the weights can pay for that.
  room = sum(jnp.sum(may[i]) for i in weights)
  most = jnp.maximum(total - sum(jnp.sum(must[i]) for i in weights), 0)
  budget = jnp.clip(count(others, kept), total - room, most)
  parts = refill(others, budget)
  larger = {i: (k > 0) & may[i] for i, k in parts.items()}
  fits = count(others, larger) <= most
  kept |= {
    i: jnp.where(fits, larger[i], (k == size[i]) & may[i])
    for i, k in parts.items()
  }
  if weights:
    rest = jnp.minimum(total - count(others, kept), room)
    kept |= refill(weights, rest)
  return [
    k if i in weights else expand(k, shapes[i], blocks[i])
    for i, k in sorted(kept.items())
  ]
