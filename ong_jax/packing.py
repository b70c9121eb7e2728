"""Many matrices as a few arrays, so that one program factorizes them all.

Matrices of one shape, after padding with zeros to multiples of 64, are stacked
and multiplied in one batched product. Their factors lie side by side, all W in
one array and all H in another, [units, rank, 64]: a unit is 64 rows or columns
of one matrix, and an update is one operation over all units of the network,
whatever their matrices' shapes.

Zeros in the padding stay zeros in every update. A matrix of a lower rank than
the highest has components of zeros, which stay so as well.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ong_jax.selection import positions

UNIT = 64  # A few vector registers; most layers' sides are multiples of it.


class Packed(NamedTuple):
  """Matrices, in stacks of one padded shape; [matrices] is in their order."""

  stacks: list[jax.Array]  # Of [k, m, n].
  mean: jax.Array  # [matrices], what all is computed on V divided by.
  square: jax.Array  # [matrices], ||V / mean||^2.
  order: np.ndarray  # [matrices], which of the list each is.
  shapes: list[tuple[int, int]]  # Of the matrices as they were given.
  of_rows: np.ndarray  # [units of W], the matrix that each belongs to.
  of_columns: np.ndarray  # [units of H].


def pack(vs: list[jax.Array]) -> Packed:
  """Stacks non-negative matrices [m, n].

  Example:
    >>> v = pack([jnp.ones((70, 3)), jnp.ones((2, 4)), jnp.ones((80, 5))])
    >>> [stack.shape for stack in v.stacks]
    [(2, 128, 64), (1, 64, 64)]
    >>> v.order.tolist(), v.of_rows.tolist()
    ([0, 2, 1], [0, 0, 1, 1, 2])
  """
  padded = [tuple(_up(size) for size in v.shape) for v in vs]
  groups = positions(padded)
  order = np.concatenate(groups)
  stacks = _formed(
    [jnp.stack([_padded(vs[i], padded[i]) for i in group]) for group in groups]
  )
  sizes = np.array([vs[i].size for i in order])
  mean = jnp.concatenate([stack.sum((1, 2)) for stack in stacks]) / sizes
  mean = jnp.where(mean > 0, mean, 1)
  square = [jnp.square(stack).sum((1, 2)) for stack in _divided(stacks, mean)]
  units = np.array([padded[i] for i in order]) // UNIT
  return Packed(
    stacks,
    mean,
    jnp.concatenate(square),
    order,
    [vs[i].shape for i in order],
    *(np.repeat(np.arange(len(vs)), units[:, axis]) for axis in (0, 1)),
  )


def pack_factors(
  v: Packed, ws: list[jax.Array], hs: list[jax.Array]
) -> tuple[jax.Array, jax.Array]:
  """Lays the factors of matrices, [m, rank] and [rank, n], side by side."""
  rank = max(h.shape[0] for h in hs)

  def lay(xs):
    wide = [_padded(x, (rank, _up(x.shape[1]))) for x in xs]
    wide = jnp.concatenate(wide, 1)
    return wide.reshape(rank, -1, UNIT).swapaxes(0, 1)

  return lay([ws[i].T for i in v.order]), lay([hs[i] for i in v.order])


def side_by_side(
  v: Packed, w: jax.Array, h: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """All W as [rows, rank] and all H as [rank, columns], in the list's order.

  The rows and columns of padding are still there.
  """
  rank = w.shape[1]
  rows, columns = (
    np.argsort(v.order[of], kind='stable') for of in (v.of_rows, v.of_columns)
  )
  w = w[rows].swapaxes(1, 2).reshape(-1, rank)
  return w, h[columns].swapaxes(0, 1).reshape(rank, -1)


def apart(
  w: jax.Array,
  h: jax.Array,
  shapes: list[tuple[int, int]],
  ranks: list[int],
) -> tuple[list[jax.Array], list[jax.Array]]:
  """Takes factors that lie `side_by_side` apart, without their padding.

  Example:
    >>> v = pack([jnp.ones((3, 2))])
    >>> w, h = pack_factors(v, [jnp.ones((3, 1))], [jnp.ones((1, 2))])
    >>> jax.tree.map(jnp.shape, apart(*side_by_side(v, w, h), v.shapes, [1]))
    ([(3, 1)], [(1, 2)])
  """
  ws, hs, row, column = [], [], 0, 0
  for (m, n), rank in zip(shapes, ranks):
    ws.append(w[row : row + m, :rank])
    hs.append(h[:rank, column : column + n])
    row, column = row + _up(m), column + _up(n)
  return ws, hs


def stacked_w(v: Packed, w: jax.Array) -> list[jax.Array]:
  """All W as stacks [k, m, rank]."""
  return _formed(
    [
      x.swapaxes(1, 2).reshape(*stack.shape[:2], -1)
      for x, stack in zip(_split(w, v.stacks, 1), v.stacks)
    ]
  )


def stacked_h(v: Packed, h: jax.Array) -> list[jax.Array]:
  """All H as stacks [k, rank, n]."""
  rank = h.shape[1]
  return _formed(
    [
      x.reshape(len(stack), -1, rank, UNIT)
      .swapaxes(1, 2)
      .reshape(len(stack), rank, -1)
      for x, stack in zip(_split(h, v.stacks, 2), v.stacks)
    ]
  )


def project_rows(v: Packed, h: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Returns V H^T, laid out as all W, and H H^T, [matrices, rank, rank].

  These forms of the products are the fastest of XLA's for a CPU; written as
  H V^T they take several times as long.
  """
  hs, rank = stacked_h(v, h), h.shape[1]
  cross = _formed([_dot(stack, x, 2) for stack, x in zip(v.stacks, hs)])
  cross = jnp.concatenate([x.reshape(-1, UNIT, rank) for x in cross])
  cross = cross.swapaxes(1, 2) / v.mean[v.of_rows][:, None, None]
  return cross, jnp.concatenate([_dot(x, x, 2) for x in hs])


def project_columns(v: Packed, w: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Returns W^T V, laid out as all H, and W^T W, [matrices, rank, rank]."""
  ws, rank = stacked_w(v, w), w.shape[1]
  cross = _formed([_dot(x, stack, 1) for stack, x in zip(v.stacks, ws)])
  cross = [
    x.reshape(len(x), rank, -1, UNIT).swapaxes(1, 2).reshape(-1, rank, UNIT)
    for x in cross
  ]
  cross = jnp.concatenate(cross) / v.mean[v.of_columns][:, None, None]
  return cross, jnp.concatenate([_dot(x, x, 1) for x in ws])


def products(v: Packed, w: jax.Array, h: jax.Array) -> list[jax.Array]:
  """Returns W H, in stacks as those of V."""
  return list(map(jnp.matmul, stacked_w(v, w), stacked_h(v, h)))


def scaled(v: Packed) -> list[jax.Array]:
  """Returns V / mean(V), in stacks."""
  return _divided(v.stacks, v.mean)


def by_matrix(x: jax.Array, of: np.ndarray) -> jax.Array:
  """Sums [units, ...] over the units of each matrix, [matrices, ...]."""
  # Not a product with zeros and ones, which would spread a NaN to all.
  return jax.ops.segment_sum(x, of, of[-1] + 1, indices_are_sorted=True)


def _dot(x, y, axis):
  """Products of stacks over an axis, traced faster than by `jnp.einsum`."""
  return jax.lax.dot_general(x, y, (((axis,), (axis,)), ((0,), (0,))))


def _up(size: int) -> int:
  return -(-size // UNIT) * UNIT


def _padded(x, shape):
  return jnp.pad(x, [(0, to - size) for size, to in zip(x.shape, shape)])


def _formed(xs):
  """Has XLA form arrays as they are, once, in the layout that is fast to read.

  Else it merges what makes them into every product that reads them.
  """
  return jax.lax.optimization_barrier(xs)


def _split(x, stacks, side):
  sizes = [len(s) * s.shape[side] // UNIT for s in stacks]
  return jnp.split(x, np.cumsum(sizes)[:-1])


def _divided(stacks, mean):
  means = jnp.split(mean, np.cumsum([len(stack) for stack in stacks])[:-1])
  return [stack * (1 / x[:, None, None]) for stack, x in zip(stacks, means)]
