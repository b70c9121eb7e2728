"""Kernels factorized, V = |W| ~ W H, and what that says of each weight.

A saliency is a function `(v, w, h) -> [m, n]` of V [m, n], W [m, rank] and
H [rank, n]; higher is kept longer. Each depends on products W H alone, which no
rescaling or reordering of the components changes.
"""

import math
import numbers
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ong_jax import factoring
from ong_jax.devices import whole
from ong_jax.selection import input_axes, leaf_seeds, matrix_shapes
from ong_jax.types import InputAxes, Weights

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


def tempered(v: jax.Array, w: jax.Array, h: jax.Array) -> jax.Array:
  """V * sqrt(W H / mean(W H)): between magnitude and `recon_mag`.

  At the scale of the magnitudes, so that a ranking of several kernels compares
  these as magnitude does; that of `recon_mag` is of squares.
  """
  x = w @ h
  mean = x.mean()
  return v * jnp.sqrt(x / jnp.where(mean > 0, mean, 1))


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


def factorize(
  key: jax.Array,
  weights: Weights,
  rank: Rank = 7,
  inputs: InputAxes = input_axes,
  **options: Any,
) -> Any:
  """Factorizes the absolute value of every kernel, as [fan_in, features].

  The rank used is max(1, min(rank, min(m, n) // 2)): close to min(m, n) the
  residual is numerical noise. All kernels are factorized together, in one
  program, at the cost of the highest rank among them.

  Args:
    key: of the starts; a leaf's own key is made from its path.
    weights: tree of arrays of one dimension or more.
    rank: an int, or a function of the matrix such as `rank_ratio(0.1)`.
    inputs: `(path, leaf) -> int`, how many axes of a kernel are its fan-in.
    **options: of `nmf.nmf`: solver, start, max_sweeps, tol, restarts.

  Returns:
    Tree with an `nmf.NMF` for each array. Its `loss` and `sweeps` tell how
    the factorization went.

  Example:
    >>> weights = {'kernel': jnp.ones((3, 3, 8, 16)), 'bias': None}
    >>> factors = factorize(jax.random.key(0), weights)
    >>> factors['kernel'].w.shape, factors['kernel'].h.shape
    ((72, 7), (7, 16))
  """
  return evaluate(key, weights, None, rank, options, inputs)


def evaluate(
  key: jax.Array,
  weights: Weights,
  saliency: Saliency | None,
  rank: Rank,
  options: dict[str, Any],
  inputs: InputAxes = input_axes,
) -> Any:
  """Scores weights by a saliency; without one returns the factorizations.

  All is one program. A matrix with a single row or column has no structure to
  find, and is scored by magnitude.

  Args:
    key, weights, rank, options, inputs: of `factorize`.
    saliency: `(v, w, h) -> [m, n]`.

  Example:
    >>> evaluate(jax.random.key(0), {'a': jnp.ones((1, 2))}, recon, 7, {})
    {'a': Array([[1., 1.]], dtype=float32)}
  """
  weights = jax.tree.map(whole, weights)
  leaves, treedef = jax.tree.flatten(weights)
  if not leaves:
    return weights
  shapes = matrix_shapes(weights, inputs)
  ranks = tuple(
    _guarded(rank, leaf, shape) for leaf, shape in zip(leaves, shapes)
  )
  options = {'max_sweeps': factoring.MAX_SWEEPS, 'tol': factoring.TOL} | options
  limits = factoring.limits(options.pop('max_sweeps'), options.pop('tol'))
  results = _solve(
    key,
    np.array(jax.tree.leaves(leaf_seeds(weights)), np.uint32),
    leaves,
    *limits,
    shapes=tuple(shapes),
    ranks=ranks,
    saliency=saliency,
    options=tuple(sorted(options.items())),
  )
  if saliency is None:  # Apart here, at no compilation.
    like = [
      jax.ShapeDtypeStruct(shape, leaf.dtype)
      for leaf, shape in zip(leaves, shapes)
    ]
    results = factoring.apart(results, like, ranks)
  return treedef.unflatten(results)


@partial(jax.jit, static_argnames=('shapes', 'ranks', 'saliency', 'options'))
def _solve(
  key, seeds, kernels, max_sweeps, tol, *, shapes, ranks, saliency, options
):
  """Everything from the weights to the scores, or to what `joined` returns."""
  vs = [as_matrix(kernel, shape) for kernel, shape in zip(kernels, shapes)]
  keys = jax.vmap(jax.random.fold_in, (None, 0))(key, seeds)
  limits = {'max_sweeps': max_sweeps, 'tol': tol}
  if saliency is None:
    return factoring.joined(keys, vs, ranks, **dict(options), **limits)
  scores = list(vs)  # Of a single row or column: no structure to find.
  some = [i for i, v in enumerate(vs) if min(v.shape) > 1]
  if some:
    chosen = [vs[i] for i in some], [ranks[i] for i in some]
    found = factoring.joined(
      keys[np.array(some)], *chosen, **dict(options), **limits
    )
    with jax.default_matmul_precision('highest'):
      for i, (w, h, *_) in zip(some, factoring.apart(found, *chosen)):
        scores[i] = saliency(vs[i], w, h)
  return [s.reshape(kernel.shape) for s, kernel in zip(scores, kernels)]


def as_matrix(
  kernel: jax.Array, shape: tuple[int, int] | None = None
) -> jax.Array:
  """|kernel| as a matrix [fan_in, features], in float32 at least.

  Args:
    kernel: of one axis or more.
    shape: of the matrix, as `selection.matrix_shapes` finds it; by default all
      axes but the last are the fan-in.

  Example:
    >>> as_matrix(jnp.ones((3, 3, 8, 16))).shape
    (72, 16)
  """
  matrix = jnp.abs(kernel).reshape(shape or (-1, kernel.shape[-1]))
  return at_least_float32(matrix)


def _guarded(rank: Rank, leaf: jax.Array, shape: tuple[int, int]) -> int:
  """Keeps the rank away from min(m, n)."""
  wanted = rank(as_matrix(leaf, shape)) if callable(rank) else rank
  if not isinstance(wanted, numbers.Integral) or wanted < 1:
    raise ValueError(
      f'`rank` must be an integer of at least 1; got {wanted!r} for a matrix '
      f'of shape {shape}.'
    )
  return max(1, min(wanted, min(shape) // 2))


def at_least_float32(x: jax.Array) -> jax.Array:
  """Widens half precision, which overflows where it is squared.

  Example:
    >>> at_least_float32(jnp.ones(2, jnp.bfloat16)).dtype
    dtype('float32')
  """
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))
