"""Non-negative matrix factorization, V ~ W H, in jitted `jax.numpy`.

Nothing here knows of pruning. All matrices of a network are factorized in one
program, which reads each of them twice per sweep and never forms anything
larger.
"""

import numbers
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ong_jax import packing
from ong_jax.starts import Start, random_factors, random_start

_CHECK_EVERY = 10  # Sweeps between two looks at the loss.
_ROW_PASSES = 3  # Of coordinate descent over W, while V is read once for it,
_COLUMN_PASSES = 8  # and over H, which as a rule is shorter.
_TINY = 1e-12  # Of V's mean: what denominators are kept above.


class NMF(NamedTuple):
  """A factorization of V [m, n]; of many, lists and [matrices]."""

  w: jax.Array  # [m, rank], non-negative.
  h: jax.Array  # [rank, n], non-negative.
  loss: jax.Array  # [], the solver's loss, summed over the entries of V.
  sweeps: jax.Array  # [] int32, sweeps used.


class Solver(NamedTuple):
  """How factors improve: one sweep over all of them, and the loss it lowers.

  Both work on packed matrices, divided by their means, and on packed factors.
  """

  sweep: Callable  # (v, w, h) -> (w, h)
  loss: Callable  # (v, w, h) -> [matrices]
  degree: int  # The loss of c V and c W H is c**degree times that of V and W H.


def _coordinate_descent(
  x: jax.Array, cross: jax.Array, gram: jax.Array, of: np.ndarray, passes: int
) -> jax.Array:
  """Improves one factor, component by component, each to its exact optimum.

  Args:
    x: [rank, units, 64], all W transposed, or all H.
    cross: of the same shape, the other factors times V.
    gram: [matrices, rank, rank], the other factors times themselves.
    of: [units], the matrix of each.
    passes: over the components. More than one is an inexact solution of the
      least squares for this factor, which is worth it as V is not read again.

  Returns:
    The factor, like `x`.
  """
  # 0 if the other factor's component is dead: then this one stays as it is.
  scale = jnp.diagonal(gram, axis1=1, axis2=2)
  scale = jnp.where(scale > 0, scale, 1).T
  gram = (gram.transpose(1, 2, 0) / scale[:, None])[:, :, of]
  cross = cross / scale[:, of][..., None]

  def improve(i, x):
    k = i % len(x)
    fit = sum(g[:, None] * x for g, x in zip(gram[k], x))
    return x.at[k].set(jnp.maximum(x[k] + cross[k] - fit, 0))

  return jax.lax.fori_loop(0, passes * len(x), improve, x)


def _hals_sweep(v, w, h):
  cross, gram = packing.project_rows(v, h)
  w = _coordinate_descent(w, cross, gram, v.of_rows, _ROW_PASSES)
  cross, gram = packing.project_columns(v, w)
  return w, _coordinate_descent(h, cross, gram, v.of_columns, _COLUMN_PASSES)


def _multiplicative_sweep(v, w, h):
  def improve(x, cross, gram, of):
    now = jnp.einsum('ujk,kuc->juc', gram[of], x)
    return x * cross / (now + _TINY)

  h = improve(h, *packing.project_columns(v, w), v.of_columns)
  return improve(w, *packing.project_rows(v, h), v.of_rows), h


def _kl_sweep(v, w, h):
  def ratio(w, h):
    fits = packing.products(v, w, h)
    fits = [jnp.maximum(fit, _TINY) for fit in fits]
    return v._replace(stacks=[x / fit for x, fit in zip(v.stacks, fits)])

  def improve(x, cross, of, other, of_other):
    total = packing.by_matrix(other.sum(2), of_other)[:, of, None]
    # A dead component stays dead.
    return x * jnp.where(total > 0, cross / jnp.where(total > 0, total, 1), 0)

  cross, _ = packing.project_columns(ratio(w, h), w)
  h = improve(h, cross, v.of_columns, w, v.of_rows)
  cross, _ = packing.project_rows(ratio(w, h), h)
  return improve(w, cross, v.of_rows, h, v.of_columns), h


def _frobenius(v, w, h):
  """1/2 ||V - W H||^2, without forming W H: up to rounding of ||V||^2."""
  cross, gram_w = packing.project_columns(v, w)
  cross = packing.by_matrix((cross * h).sum((0, 2)), v.of_columns)
  square = (gram_w * packing.gram_columns(v, h)).sum((1, 2))
  return jnp.maximum(0.5 * v.square - cross + 0.5 * square, 0)


def _divergence(v, w, h):
  """Kullback-Leibler, D(V || X) = sum V log(V / X) - V + X."""

  def divergence(v, x):
    log = jnp.log(jnp.where(v > 0, v, 1) / jnp.maximum(x, _TINY))
    return jnp.sum(jnp.where(v > 0, v * log, 0) - v + x, (1, 2))

  fits = packing.products(v, w, h)
  return jnp.concatenate(list(map(divergence, packing.scaled(v), fits)))


hals = Solver(_hals_sweep, _frobenius, 2)
multiplicative = Solver(_multiplicative_sweep, _frobenius, 2)
kl = Solver(_kl_sweep, _divergence, 1)


def together(
  keys: jax.Array,
  vs: Sequence[jax.Array],
  ranks: Sequence[int],
  *,
  solver: Solver = hals,
  start: Start = random_start,
  max_sweeps: int = 200,
  tol: float = 1e-4,
  restarts: int = 1,
) -> NMF:
  """Factorizes many matrices in one program, each as `nmf` does alone.

  A matrix that has converged is held while the others go on.

  Args:
    keys: [matrices], what each start is drawn from.
    vs: matrices [m, n] as `nmf` takes them.
    ranks: of each.
    solver, start, max_sweeps, tol, restarts: of `nmf`.

  Returns:
    An `NMF` of lists of factors and of arrays [matrices] of losses and sweeps.

  Example:
    >>> vs = [jnp.ones((6, 4)), jnp.ones((3, 9))]
    >>> found = together(jax.random.split(jax.random.key(0)), vs, [2, 1])
    >>> jax.tree.map(jnp.shape, found)
    NMF(w=[(6, 2), (3, 1)], h=[(2, 4), (1, 9)], loss=(2,), sweeps=(2,))
  """
  for name, values in (
    ('rank', ranks),
    ('max_sweeps', [max_sweeps]),
    ('restarts', [restarts]),
  ):
    for value in values:
      if not isinstance(value, numbers.Integral) or value < 1:
        raise ValueError(
          f'`{name}` must be an integer of at least 1; got {value!r}.'
        )
  if not 0 <= tol < 1:
    raise ValueError(f'`tol` must lie in [0, 1); got {tol}.')
  for v in vs:
    _check_matrix(v)
  # Accelerators multiply float32 in fewer bits unless told.
  with jax.default_matmul_precision('highest'):
    return _solve(
      keys,
      [v.astype(jnp.promote_types(v.dtype, jnp.float32)) for v in vs],
      tol,
      ranks=tuple(ranks),
      solver=solver,
      start=start,
      max_sweeps=max_sweeps,
      restarts=restarts,
    )


def _check_matrix(v):
  if jnp.ndim(v) != 2:
    raise ValueError(f'`v` must be a matrix [m, n]; its shape is {v.shape}.')
  if not isinstance(v, jax.core.Tracer) and not jnp.all(
    (v >= 0) & (v < jnp.inf)
  ):
    raise ValueError(
      '`v` must be finite and non-negative; its lowest entry is '
      f'{jnp.min(v)}, its highest {jnp.max(v)}.'
    )


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
  found = together(
    key[None],
    [v],
    [rank],
    solver=solver,
    start=start,
    max_sweeps=max_sweeps,
    tol=tol,
    restarts=restarts,
  )
  return NMF(*(part[0] for part in found))


@partial(
  jax.jit,
  static_argnames=('ranks', 'solver', 'start', 'max_sweeps', 'restarts'),
)
def _solve(keys, vs, tol, *, ranks, solver, start, max_sweeps, restarts):
  v = packing.pack(vs)
  roots = jnp.sqrt(v.mean)
  roots = roots[v.of_rows, None], roots[v.of_columns, None]

  def run(keys):
    if start is random_start:  # Of all matrices in one draw.
      factors = random_factors(v, keys, ranks)
    else:
      factors = packing.pack_factors(v, *zip(*map(start, keys, vs, ranks)))
      factors = jax.tree.map(jnp.divide, factors, roots)
    return _improve(v, *factors, tol, solver, max_sweeps)

  if restarts == 1:
    w, h, loss, sweeps = run(keys)
  else:
    split = jax.vmap(lambda key: jax.random.split(key, restarts), out_axes=1)
    w, h, loss, sweeps = jax.lax.map(run, split(keys))
    best = jnp.argmin(loss, 0)
    pick = jax.vmap(lambda x, i: x[i], (-1, 0), -1)
    loss, sweeps = pick(loss, best), pick(sweeps, best)
    w = pick(w.swapaxes(2, 3), best[v.of_rows]).swapaxes(1, 2)
    h = pick(h.swapaxes(2, 3), best[v.of_columns]).swapaxes(1, 2)
  ws, hs = packing.unpack_factors(v, w * roots[0], h * roots[1], ranks)
  place = np.argsort(v.order)
  ws, hs = ([x.astype(v.dtype) for x, v in zip(xs, vs)] for xs in (ws, hs))
  return NMF(ws, hs, (loss * v.mean**solver.degree)[place], sweeps[place])


def _improve(v, w, h, tol, solver, max_sweeps):
  """Sweeps until all matrices are done; of each, what is done is held."""

  def unfinished(carry):
    return jnp.any(carry[-2])

  def turn(carry):
    w, h, first, before, sweeps, active, time = carry
    # The first turn makes no sweep, it only looks at the start.
    todo = jnp.where(time < 0, 0, jnp.minimum(_CHECK_EVERY, max_sweeps - time))
    improved = jax.lax.fori_loop(
      0, todo, lambda _, factors: solver.sweep(v, *factors), (w, h)
    )
    w = jnp.where(active[v.of_rows, None], improved[0], w)
    h = jnp.where(active[v.of_columns, None], improved[1], h)
    loss = solver.loss(v, w, h)
    first = jnp.where(time < 0, loss, first)
    time = jnp.minimum(time + _CHECK_EVERY, max_sweeps)
    sweeps = jnp.where(active, time, sweeps)
    # Without a tolerance the rounding of the loss decides nothing.
    falls = (before - loss > tol * first) | (tol == 0)
    return w, h, first, loss, sweeps, active & falls & (time < max_sweeps), time

  before = jnp.full_like(v.mean, jnp.inf)
  sweeps = jnp.zeros(before.shape, jnp.int32)
  active = jnp.ones(before.shape, bool)
  carry = w, h, before, before, sweeps, active, jnp.int32(-_CHECK_EVERY)
  w, h, _, loss, sweeps, _, _ = jax.lax.while_loop(unfinished, turn, carry)
  return w, h, loss, sweeps
