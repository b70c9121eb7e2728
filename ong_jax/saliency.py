"""What a factorization says of each weight, V = |W| ~ W H, and at which rank.

A saliency is a function `(v, w, h) -> [m, n]` of V [m, n], W [m, rank] and
H [rank, n]; higher is kept longer. Each depends on products W H alone, which no
rescaling or reordering of the components changes.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

Saliency = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
Rank = int | Callable[[jax.Array], int]


def residual(v: jax.Array, w: jax.Array, h: jax.Array) -> jax.Array:
  """|V - W H|: keeps what the factorization does not explain."""
  return jnp.abs(v - w @ h)


def recon(v: jax.Array, w: jax.Array, h: jax.Array) -> jax.Array:
  """W H: keeps where rows and columns carry common structure."""
  del v
  return w @ h


def recon_mag(v: jax.Array, w: jax.Array, h: jax.Array) -> jax.Array:
  """V * W H: magnitude, weighted by the common structure."""
  return v * (w @ h)


def signed_residual(v: jax.Array, w: jax.Array, h: jax.Array) -> jax.Array:
  """V - W H + max(W H): keeps only what lies above the factorization."""
  x = w @ h
  return v - x + x.max()


def rel_residual(v: jax.Array, w: jax.Array, h: jax.Array) -> jax.Array:
  """|V - W H| / (W H + eps), eps = 1e-6 of the mean: free of scale."""
  x = w @ h
  return jnp.abs(v - x) / (x + 1e-6 * v.mean() + jnp.finfo(v.dtype).tiny)


def component(v: jax.Array, w: jax.Array, h: jax.Array) -> jax.Array:
  """max_k w_ik h_kj: the largest contribution of a single component."""
  del v
  return jax.lax.fori_loop(
    0,
    h.shape[0],
    lambda k, best: jnp.maximum(best, w[:, k, None] * h[None, k]),
    jnp.zeros((w.shape[0], h.shape[1]), w.dtype),
  )


def rank_ratio(ratio: float) -> Rank:
  """Rank as a fraction of the smaller side: ceil(ratio * min(m, n)).

  Example:
    >>> rank_ratio(0.1)(jnp.ones((144, 16)))
    2
  """
  # Rounded first: 0.07 * 100 is above 7 in floats.
  return lambda v: math.ceil(round(ratio * min(v.shape), 9))


def rank_energy(energy: float) -> Rank:
  """Smallest rank whose singular values reach a fraction of the energy.

  Needs the values of the matrix, so it cannot be traced by `jax.jit`.

  Example:
    >>> rank_energy(0.9)(jnp.diag(jnp.array([3.0, 0.9, 0.1])))
    1
  """

  def rank(v):
    squares = jnp.square(jnp.linalg.svd(v, compute_uv=False))
    return 1 + int(jnp.sum(jnp.cumsum(squares) < energy * squares.sum()))

  return rank
