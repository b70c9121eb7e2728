"""Where a non-negative matrix factorization, V ~ W H, starts from."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from ong_jax.packing import UNIT, Packed, apart, pack, side_by_side

Start = Callable[[jax.Array, jax.Array, int], tuple[jax.Array, jax.Array]]

_TINY = 1e-12


def random_start(
  key: jax.Array, v: jax.Array, rank: int
) -> tuple[jax.Array, jax.Array]:
  """Starts at a |N(0, 1)| with a = sqrt(mean(V) / rank).

  Example:
    >>> w, h = random_start(jax.random.key(0), jnp.ones((4, 3)), 2)
    >>> w.shape, h.shape, bool(w.min() > 0)
    ((4, 2), (2, 3), True)
  """
  packed = pack([v])
  factors = side_by_side(packed, *random_factors(packed, key[None], [rank]))
  (w,), (h,) = apart(*factors, packed.shapes, [rank])
  root = jnp.sqrt(v.mean())
  return w * root, h * root


def random_factors(
  v: Packed, keys: jax.Array, ranks: list[int]
) -> tuple[jax.Array, jax.Array]:
  """Draws all of a network's random starts at once, for V / mean(V).

  A program for each of its shapes would take seconds to compile. Each pair of
  entries is made from an index of its own, which is folded into the matrix's
  key: so a start does not depend on other matrices, and one call of the
  generator serves.

  Args:
    v: the packed matrices.
    keys: [matrices], in the order of the list.
    ranks: as many, in that order.
  """
  if not jnp.issubdtype(keys.dtype, jax.dtypes.prng_key):
    keys = jax.random.wrap_key_data(keys)  # Of `jax.random.PRNGKey`.
  of = np.concatenate([v.of_rows, v.of_columns])
  sides = np.repeat([0, 1], [len(v.of_rows), len(v.of_columns)])
  units = np.array([np.bincount(x) for x in (v.of_rows, v.of_columns)])
  place = np.concatenate([np.arange(n) for n in units.ravel()])  # In its side.
  ranks = np.array(ranks)[v.order][of, None]
  components = np.arange(ranks.max())
  index = sides * units[0, of] + place
  index = components * units.sum(0)[of, None] + index[:, None]
  index = index[..., None] * (UNIT // 2) + jnp.arange(UNIT // 2)
  keys = jnp.broadcast_to(keys[v.order][of, None, None], index.shape)
  # Flat, as loops over three axes take three times as long to compile.
  bits = jax.vmap(jax.random.fold_in)(keys.ravel(), index.ravel())
  bits = jax.random.key_data(bits)[:, :2].reshape(len(of), -1, UNIT) >> 9
  draw = (bits.astype(v.mean.dtype) + 0.5) / 2**23  # Uniform in (0, 1).
  draw = 2**0.5 * jax.lax.erf_inv(draw)  # |N(0, 1)|.
  scale = (components < ranks) / np.sqrt(ranks)  # 0 beyond a matrix's rank,
  left = np.array(v.shapes)[of, sides] - place * UNIT
  inside = np.arange(UNIT) < left[:, None, None]  # and in its padding.
  draw = jnp.where(inside, draw * scale[..., None].astype(draw.dtype), 0)
  return draw[: len(v.of_rows)], draw[len(v.of_rows) :]


def nndsvd(
  key: jax.Array, v: jax.Array, rank: int
) -> tuple[jax.Array, jax.Array]:
  """Starts from the non-negative parts of the singular pairs.

  Deterministic: the key is not used. Permuting rows or columns of V permutes
  the factors. Its zeros are the end of a multiplicative solver, which cannot
  leave them: use `nndsvda` there.

  References:
    Boutsidis and Gallopoulos, SVD based initialization, 2008.

  Example:
    >>> w, h = nndsvd(jax.random.key(0), jnp.ones((4, 3)), 1)
    >>> bool(jnp.allclose(w @ h, 1))
    True
  """
  del key
  u, s, vt = jnp.linalg.svd(v, full_matrices=False)
  missing = max(0, rank - s.size)  # Components beyond the matrix stay 0.
  u = jnp.pad(u[:, :rank], ((0, 0), (0, missing)))
  s = jnp.pad(s[:rank], (0, missing))
  vt = jnp.pad(vt[:rank], ((0, missing), (0, 0)))

  def parts(sign):
    a, b = jnp.maximum(sign * u, 0), jnp.maximum(sign * vt, 0)
    norms = jnp.linalg.norm(a, axis=0), jnp.linalg.norm(b, axis=1)
    return a, b, *norms

  # The first pair has one sign (Perron-Frobenius), whichever it was given.
  positive, negative = parts(1), parts(-1)
  chosen = positive[2] * positive[3] >= negative[2] * negative[3]
  a = jnp.where(chosen[None], positive[0], negative[0])
  b = jnp.where(chosen[:, None], positive[1], negative[1])
  norm_a = jnp.where(chosen, positive[2], negative[2])
  norm_b = jnp.where(chosen, positive[3], negative[3])
  scale = jnp.sqrt(s * norm_a * norm_b)
  w = a * (scale / jnp.maximum(norm_a, _TINY))[None]
  return w, b * (scale / jnp.maximum(norm_b, _TINY))[:, None]


def nndsvda(
  key: jax.Array, v: jax.Array, rank: int
) -> tuple[jax.Array, jax.Array]:
  """Starts as `nndsvd` does, with the mean of V in the place of zeros.

  Example:
    >>> w, h = nndsvda(jax.random.key(0), jnp.eye(3), 2)
    >>> bool(w.min() > 0)
    True
  """
  w, h = nndsvd(key, v, rank)
  mean = v.mean()
  return jnp.where(w > 0, w, mean), jnp.where(h > 0, h, mean)
