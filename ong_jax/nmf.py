"""Non-negative matrix factorization, V ~ W H, in jitted `jax.numpy`.

Nothing here knows of pruning. All matrices of a network are factorized in one
program, which reads each of them twice per sweep and never forms anything
larger.
"""

import numbers
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ong_jax import packing
from ong_jax.solvers import Solver as Solver
from ong_jax.solvers import hals as hals
from ong_jax.solvers import kl as kl
from ong_jax.solvers import multiplicative as multiplicative
from ong_jax.starts import Start, random_factors, random_start

_CHECK_EVERY = 10  # Sweeps between two looks at the loss.


class NMF(NamedTuple):
  """A factorization of V [m, n]; of many, lists and [matrices]."""

  w: jax.Array  # [m, rank], non-negative.
  h: jax.Array  # [rank, n], non-negative.
  loss: jax.Array  # [], the solver's loss, summed over the entries of V.
  sweeps: jax.Array  # [] int32, sweeps used.


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
  roots = [roots[of][:, None, None] for of in (v.of_rows, v.of_columns)]

  def run(keys):
    if start is random_start:  # Of all matrices in one draw.
      factors = random_factors(v, keys, ranks)
    else:
      factors = packing.pack_factors(v, *zip(*map(start, keys, vs, ranks)))
      factors = map(jnp.divide, factors, roots)
    return _improve(v, *factors, tol, solver, max_sweeps)

  if restarts == 1:
    w, h, loss, sweeps = run(keys)
  else:
    split = jax.vmap(lambda key: jax.random.split(key, restarts), out_axes=1)
    w, h, loss, sweeps = jax.lax.map(run, split(keys))
    best = jnp.argmin(loss, 0)
    pick = jax.vmap(lambda x, i: x[i], (1, 0))
    loss, sweeps = pick(loss, best), pick(sweeps, best)
    w, h = pick(w, best[v.of_rows]), pick(h, best[v.of_columns])
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
    w = jnp.where(active[v.of_rows][:, None, None], improved[0], w)
    h = jnp.where(active[v.of_columns][:, None, None], improved[1], h)
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
