"""Non-negative matrix factorization, V ~ W H, in jitted `jax.numpy`.

Nothing here knows of pruning. Every factorization is a function of arrays, can
be mapped by `jax.vmap` over matrices of one shape, and never forms anything
larger than V.
"""

import numbers
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ong_jax.starts import Start, random_start

_CHECK_EVERY = 10  # Sweeps between two looks at the loss.
_TINY = 1e-12  # Of V's mean: what denominators are kept above.


class NMF(NamedTuple):
  """A factorization of V [m, n]."""

  w: jax.Array  # [m, rank], non-negative.
  h: jax.Array  # [rank, n], non-negative.
  loss: jax.Array  # [], the solver's loss, summed over the entries of V.
  sweeps: jax.Array  # [] int32, sweeps used.


class Solver(NamedTuple):
  """How factors improve: one sweep over both, and the loss it lowers."""

  sweep: Callable  # (v, w, h) -> (w, h)
  loss: Callable  # (v, w, h) -> []


def _coordinate_descent(
  x: jax.Array, cross: jax.Array, gram: jax.Array
) -> jax.Array:
  """Improves one factor, row by row, each to its exact optimum.

  Args:
    x: [rank, m], the factor (W transposed, or H).
    cross: [rank, m], the other factor times V.
    gram: [rank, rank], the other factor times itself.

  Returns:
    The factor, [rank, m].
  """

  def improve(k, x):
    scale = gram[k, k]  # 0 if the other factor's component is dead: skip it.
    step = (cross[k] - gram[k] @ x) / jnp.where(scale > 0, scale, 1)
    row = jnp.where(scale > 0, jnp.maximum(x[k] + step, 0), x[k])
    return x.at[k].set(row)

  return jax.lax.fori_loop(0, x.shape[0], improve, x)


def _hals_sweep(v, w, h):
  w = _coordinate_descent(w.T, h @ v.T, h @ h.T).T
  return w, _coordinate_descent(h, w.T @ v, w.T @ w)


def _multiplicative_sweep(v, w, h):
  h = h * (w.T @ v) / (w.T @ w @ h + _TINY)
  w = w * (v @ h.T) / (w @ (h @ h.T) + _TINY)
  return w, h


def _kl_sweep(v, w, h):
  def ratio(w, h):
    return v / jnp.maximum(w @ h, _TINY)

  def over(x, total):  # A dead component stays dead.
    return jnp.where(total > 0, x / jnp.where(total > 0, total, 1), 0)

  h = h * over(w.T @ ratio(w, h), w.sum(0)[:, None])
  w = w * over(ratio(w, h) @ h.T, h.sum(1)[None])
  return w, h


def _frobenius(v, w, h):
  """1/2 ||V - W H||^2."""
  return 0.5 * jnp.sum(jnp.square(v - w @ h))


def _divergence(v, w, h):
  """Kullback-Leibler, D(V || X) = sum V log(V / X) - V + X."""
  x = w @ h
  log = jnp.log(jnp.where(v > 0, v, 1) / jnp.maximum(x, _TINY))
  return jnp.sum(jnp.where(v > 0, v * log, 0) - v + x)


hals = Solver(_hals_sweep, _frobenius)
multiplicative = Solver(_multiplicative_sweep, _frobenius)
kl = Solver(_kl_sweep, _divergence)


def nmf(
  key: jax.Array,
  v: jax.Array,
  rank: int,
  *,
  solver: Solver = hals,
  start: Start = random_start,
  max_sweeps: int = 200,
  tol: float = 1e-4,
  restarts: int = 1,
) -> NMF:
  """Factorizes a non-negative matrix, V ~ W H.

  Every 10 sweeps the loss is looked at, and the factorization stops when it
  fell by less than `tol` of what it was at the start. It never raises for not
  having converged; `sweeps` tells. The problem is not convex, and only for
  rank 1 is the product W H unique: other keys give other factors.

  Degenerate input is no trouble: zeros give zero factors, a constant matrix or
  a single row or column is fitted exactly, and a rank above min(m, n) fits as
  well as min(m, n) does.

  Args:
    key: what the start is drawn from.
    v: [m, n], finite and non-negative (checked where it is concrete). Computed
      in float32, or float64 where it is that.
    rank: number of components, at least 1.
    solver: `hals`, exact coordinate descent (the default); `multiplicative`,
      Lee and Seung's rule for the same loss 1/2 ||V - W H||^2; or `kl`, theirs
      for the Kullback-Leibler divergence.
    start: `random_start`, `nndsvd` or `nndsvda` of `ong_jax.starts`, or any
      function `(key, v, rank) -> (w, h)`.
    max_sweeps: sweeps over both factors, at most.
    tol: in [0, 1).
    restarts: factorizations from different starts, of which the one with the
      lowest loss is returned.

  Returns:
    An `NMF`.

  Raises:
    ValueError: `v` is no matrix or has a negative or non-finite entry;
      `rank`, `max_sweeps` or `restarts` is no integer of at least 1; or `tol`
      is out of range.

  Example:
    >>> v = jnp.outer(jnp.arange(4.0), jnp.arange(3.0))
    >>> w, h, loss, sweeps = nmf(jax.random.key(0), v, rank=1)
    >>> bool(jnp.allclose(w @ h, v, atol=1e-5))
    True

  References:
    Lee and Seung, Algorithms for non-negative matrix factorization, 2000.
    Gillis and Glineur, Accelerated multiplicative updates and hierarchical ALS
    algorithms for nonnegative matrix factorization, 2011.
  """
  for name, value in (
    ('rank', rank),
    ('max_sweeps', max_sweeps),
    ('restarts', restarts),
  ):
    if not isinstance(value, numbers.Integral) or value < 1:
      raise ValueError(
        f'`{name}` must be an integer of at least 1; got {value!r}.'
      )
  if not 0 <= tol < 1:
    raise ValueError(f'`tol` must lie in [0, 1); got {tol}.')
  if jnp.ndim(v) != 2:
    raise ValueError(f'`v` must be a matrix [m, n]; its shape is {v.shape}.')
  if not isinstance(v, jax.core.Tracer) and not jnp.all(
    (v >= 0) & (v < jnp.inf)
  ):
    raise ValueError(
      '`v` must be finite and non-negative; its lowest entry is '
      f'{jnp.min(v)}, its highest {jnp.max(v)}.'
    )
  solve = partial(
    _solve, rank=rank, solver=solver, start=start, max_sweeps=max_sweeps
  )
  v = v.astype(jnp.promote_types(v.dtype, jnp.float32))
  # Accelerators multiply float32 in fewer bits unless told.
  with jax.default_matmul_precision('highest'):
    if restarts == 1:
      return solve(key, v, tol)[0]
    keys = jax.random.split(key, restarts)
    runs, losses = jax.vmap(solve, in_axes=(0, None, None))(keys, v, tol)
  return jax.tree.map(lambda x: x[jnp.argmin(losses)], runs)


@partial(jax.jit, static_argnames=('rank', 'solver', 'start', 'max_sweeps'))
def _solve(key, v, tol, *, rank, solver, start, max_sweeps):
  """Returns the factorization, and its loss on V / mean(V)."""
  w, h = start(key, v, rank)
  # On V / mean(V) the constants above mean the same for every matrix.
  mean = jnp.where(v.mean() > 0, v.mean(), 1)
  scaled, root = v / mean, jnp.sqrt(mean)
  w, h = w / root, h / root
  first = solver.loss(scaled, w, h)

  def unfinished(carry):
    _, _, loss, before, sweeps = carry
    falling = before - loss >= tol * first
    return (sweeps < max_sweeps) & (loss > 0) & falling

  def improve(carry):
    w, h, loss, _, sweeps = carry
    todo = jnp.minimum(_CHECK_EVERY, max_sweeps - sweeps)
    w, h = jax.lax.fori_loop(
      0, todo, lambda _, wh: solver.sweep(scaled, *wh), (w, h)
    )
    return w, h, solver.loss(scaled, w, h), loss, sweeps + todo

  carry = w, h, first, jnp.full_like(first, jnp.inf), jnp.int32(0)
  w, h, loss, _, sweeps = jax.lax.while_loop(unfinished, improve, carry)
  w, h = w * root, h * root
  return NMF(w, h, solver.loss(v, w, h), sweeps), loss
