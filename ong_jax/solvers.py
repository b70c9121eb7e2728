"""How the factors of non-negative matrices, V ~ W H, improve."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ong_jax import packing

_ROW_PASSES = 3  # Of coordinate descent over W, while V is read once for it,
_COLUMN_PASSES = 8  # and over H, which as a rule is shorter.
_TINY = 1e-12  # Of V's mean: what denominators are kept above.


class Solver(NamedTuple):
  """How factors improve: one sweep over all of them, and the loss it lowers.

  Both work on packed matrices, divided by their means, and on packed factors;
  see `packing`.
  """

  sweep: Callable  # (v, w, h) -> (w, h, loss of these [matrices], cheaply had)
  loss: Callable  # (v, w, h) -> [matrices], as exact as its sum is
  degree: int  # The loss of c V and c W H is c**degree times that of V and W H.


def _coordinate_descent(
  x: jax.Array, cross: jax.Array, gram: jax.Array, of: np.ndarray, passes: int
) -> jax.Array:
  """Improves one factor, component by component, each to its exact optimum.

  Args:
    x: [units, rank, 64], all W transposed, or all H.
    cross: of the same shape, the other factors times V.
    gram: [matrices, rank, rank], the other factors times themselves.
    of: [units], the matrix of each.
    passes: over the components. More than one is an inexact solution of the
      least squares for this factor, which is worth it as V is not read again.

  Returns:
    The factor, like `x`.
  """
  # 0 if the other factor's component is dead: then this one stays as it is.
  scale = jnp.diagonal(gram, axis1=1, axis2=2)[..., None]
  scale = jnp.where(scale > 0, scale, 1)
  gram, cross = (gram / scale)[of], cross / scale[of]

  def improve(i, x):
    at = partial(
      jax.lax.dynamic_slice_in_dim, start_index=i % x.shape[1], slice_size=1
    )
    row = jnp.maximum(
      at(x, axis=1) + at(cross, axis=1) - at(gram, axis=1) @ x, 0
    )
    return jax.lax.dynamic_update_slice_in_dim(x, row, i % x.shape[1], 1)

  return jax.lax.fori_loop(0, passes * x.shape[1], improve, x)


def _hals_sweep(v, w, h):
  cross, gram = packing.project_rows(v, h)
  w = _coordinate_descent(w, cross, gram, v.of_rows, _ROW_PASSES)
  cross, gram = packing.project_columns(v, w)
  h = _coordinate_descent(h, cross, gram, v.of_columns, _COLUMN_PASSES)
  return w, h, _frobenius(v, h, cross, gram, v.of_columns)


def _multiplicative_sweep(v, w, h):
  def improve(x, cross, gram, of):
    return x * cross / (gram[of] @ x + _TINY)

  h = improve(h, *packing.project_columns(v, w), v.of_columns)
  cross, gram = packing.project_rows(v, h)
  w = improve(w, cross, gram, v.of_rows)
  return w, h, _frobenius(v, w, cross, gram, v.of_rows)


def _frobenius(v, x, cross, gram, of):
  """1/2 ||V - W H||^2 from what x, W or H, was fitted to: V is not read.

  1/2 ||V||^2 - <cross, x> + 1/2 <gram x, x>, up to rounding of ||V||^2.
  """
  fit = packing.by_matrix((x * (0.5 * (gram[of] @ x) - cross)).sum((1, 2)), of)
  return jnp.maximum(0.5 * v.square + fit, 0)


def _kl_sweep(v, w, h):
  def ratio(w, h):
    fits = [jnp.maximum(fit, _TINY) for fit in packing.products(v, w, h)]
    return v._replace(stacks=[x / fit for x, fit in zip(v.stacks, fits)])

  def improve(x, cross, of, other, of_other):
    total = packing.by_matrix(other.sum(2), of_other)[of][..., None]
    # A dead component stays dead.
    return x * jnp.where(total > 0, cross / jnp.where(total > 0, total, 1), 0)

  cross, _ = packing.project_columns(ratio(w, h), w)
  h = improve(h, cross, v.of_columns, w, v.of_rows)
  cross, _ = packing.project_rows(ratio(w, h), h)
  w = improve(w, cross, v.of_rows, h, v.of_columns)
  return w, h, _divergence(v, w, h)


def _distance(v, w, h):
  """1/2 ||V - W H||^2."""
  return _summed(lambda v, x: 0.5 * jnp.square(v - x), v, w, h)


def _divergence(v, w, h):
  """Kullback-Leibler, D(V || X) = sum V log(V / X) - V + X."""

  def divergence(v, x):
    log = jnp.log(jnp.where(v > 0, v, 1) / jnp.maximum(x, _TINY))
    return jnp.where(v > 0, v * log, 0) - v + x

  return _summed(divergence, v, w, h)


def _summed(of_entries, v, w, h):
  fits = zip(packing.scaled(v), packing.products(v, w, h))
  return jnp.concatenate([of_entries(*x).sum((1, 2)) for x in fits])


hals = Solver(_hals_sweep, _distance, 2)
multiplicative = Solver(_multiplicative_sweep, _distance, 2)
kl = Solver(_kl_sweep, _divergence, 1)
