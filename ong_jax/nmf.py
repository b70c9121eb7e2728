"""Non-negative matrix factorization, V ~ W H, in jitted `jax.numpy`.

Nothing here knows of pruning. `factoring` has the program, this what to call.
"""

from collections.abc import Sequence
from typing import Any

import jax

from ong_jax.factoring import MAX_SWEEPS, TOL, apart, joined
from ong_jax.factoring import NMF as NMF
from ong_jax.solvers import Solver as Solver
from ong_jax.solvers import hals as hals
from ong_jax.solvers import kl as kl
from ong_jax.solvers import multiplicative as multiplicative
from ong_jax.starts import Start, random_start


def together(
  keys: jax.Array, vs: Sequence[jax.Array], ranks: Sequence[int], **options: Any
) -> NMF:
  """Factorizes many matrices in one program, each as `nmf` does alone.

  A matrix that has converged is held while the others go on.

  Args:
    keys: [matrices], what each start is drawn from.
    vs: matrices [m, n] as `nmf` takes them.
    ranks: of each.
    **options: of `nmf`: solver, start, max_sweeps, tol, restarts.

  Returns:
    An `NMF` of lists of factors and of arrays [matrices] of losses and sweeps.

  Example:
    >>> vs = [jnp.ones((6, 4)), jnp.ones((3, 9))]
    >>> found = together(jax.random.split(jax.random.key(0)), vs, [2, 1])
    >>> jax.tree.map(jnp.shape, found)
    NMF(w=[(6, 2), (3, 1)], h=[(2, 4), (1, 9)], loss=(2,), sweeps=(2,))
  """
  found = joined(keys, vs, ranks, **options)
  parts = apart(found, vs, ranks)
  return found._replace(w=[x.w for x in parts], h=[x.h for x in parts])


def nmf(
  key: jax.Array,
  v: jax.Array,
  rank: int,
  *,
  solver: Solver = hals,
  start: Start = random_start,
  max_sweeps: int = MAX_SWEEPS,
  tol: float = TOL,
  restarts: int = 1,
) -> NMF:
  """Factorizes a non-negative matrix, V ~ W H.

  A sweep of `hals` reads V twice: once for 3 passes of coordinate descent over
  W, once for 8 over H. One of the other solvers updates each factor once. Every
  3 sweeps the loss is looked at, and the factorization stops when in these it
  fell by no more than `tol` of what it was after the first sweep. It never
  raises for not having converged; `sweeps` tells. The problem is not convex,
  and only for rank 1 is the product W H unique: other keys give other factors.

  Degenerate input is no trouble: zeros give zero factors, a constant matrix or
  a single row or column is fitted exactly, and a rank above min(m, n) fits as
  well as min(m, n) does.

  Args:
    key: what the start is drawn from.
    v: [m, n], finite and non-negative (checked where it is concrete). Computed
      in float32, or float64 where it is that, and divided by its mean: of
      entries below 1e-19 nothing underflows but the loss that is returned.
    rank: number of components, at least 1.
    solver: `hals`, exact coordinate descent (the default); `multiplicative`,
      Lee and Seung's rule for the same loss 1/2 ||V - W H||^2; or `kl`, theirs
      for the Kullback-Leibler divergence.
    start: `random_start`, `nndsvd` or `nndsvda` of `ong_jax.starts`, or any
      function `(key, v, rank) -> (w, h)`.
    max_sweeps: sweeps over both factors, at most. Neither this nor `tol` is
      compiled into the program.
    tol: in [0, 1); with 0 all of `max_sweeps` are made.
    restarts: factorizations from different starts, of which the one with the
      lowest loss is returned.

  Returns:
    An `NMF`.

  Raises:
    ValueError: `v` is no matrix or has a negative or non-finite entry;
      `rank`, `max_sweeps` or `restarts` is no integer of at least 1; `tol` is
      out of range; or `start` returns other shapes.

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
  found = joined(
    key[None],
    [v],
    [rank],
    solver=solver,
    start=start,
    max_sweeps=max_sweeps,
    tol=tol,
    restarts=restarts,
  )
  return apart(found, [v], [rank])[0]
