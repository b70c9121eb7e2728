"""Many non-negative matrix factorizations in one program.

It reads each matrix twice per sweep. What it forms beside them has their size
at most, after sides are padded to multiples of 64.
"""

import numbers
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ong_jax import packing
from ong_jax.checks import HIGHEST, check_function, check_number
from ong_jax.solvers import Solver, hals
from ong_jax.starts import Start, random_factors, random_start

MAX_SWEEPS, TOL = 200, 1e-4  # The defaults.
_CHECK_EVERY = 3  # Sweeps: over one alone the loss may all but rest.


class NMF(NamedTuple):
  """A factorization of V [m, n]; of many, lists and [matrices]."""

  w: jax.Array  # [m, rank], non-negative.
  h: jax.Array  # [rank, n], non-negative.
  loss: jax.Array  # [], the solver's loss, summed over the entries of V.
  sweeps: jax.Array  # [] int32, sweeps used.


def joined(
  keys: jax.Array,
  vs: Sequence[jax.Array],
  ranks: Sequence[int],
  *,
  solver: Solver = hals,
  start: Start = random_start,
  max_sweeps: int = MAX_SWEEPS,
  tol: float = TOL,
  restarts: int = 1,
) -> NMF:
  """Factorizes as `nmf.together` does, but leaves the factors in one array.

  Args:
    keys, vs, ranks: of `nmf.together`.
    solver, start, max_sweeps, tol, restarts: of `nmf.nmf`.

  Returns:
    An `NMF` of w [rows of all, highest rank] and h [highest rank, columns of
    all], both padded, which `apart` takes apart.

  Example:
    >>> found = joined(jax.random.key(0)[None], [jnp.ones((6, 4))], [2])
    >>> found.w.shape, found.h.shape
    ((64, 2), (2, 64))
  """
  max_sweeps, tol = limits(max_sweeps, tol)
  if not len(keys) == len(vs) == len(ranks) > 0:
    raise ValueError(
      '`keys`, `vs` and `ranks` must be as many, at least one; they are '
      f'{len(keys)}, {len(vs)} and {len(ranks)}.'
    )
  _check_integers(rank=ranks, restarts=[restarts])
  if not isinstance(solver, Solver):
    raise TypeError(
      '`solver` must be one of `ong_jax.nmf`, such as `nmf.hals`; got '
      f'{solver!r:.200}.'
    )
  check_function('start', start, '`starts.random_start`')
  for v in vs:
    _check_matrix(v)
  # Accelerators multiply float32 in fewer bits unless told.
  with jax.default_matmul_precision('highest'):
    return _solve(
      keys,
      [v.astype(jnp.promote_types(v.dtype, jnp.float32)) for v in vs],
      tol,
      max_sweeps,
      ranks=tuple(ranks),
      solver=solver,
      start=start,
      restarts=restarts,
    )


def apart(
  found: NMF, like: Sequence[jax.ShapeDtypeStruct], ranks: Sequence[int]
) -> list[NMF]:
  """Makes what `joined` returned an `NMF` for each matrix.

  Args:
    found: of `joined`.
    like: anything that has the shapes and dtypes of its matrices.
    ranks: of each.

  Example:
    >>> vs = [jnp.ones((6, 4))]
    >>> found = joined(jax.random.key(0)[None], vs, [2])
    >>> apart(found, vs, [2])[0].w.shape
    (6, 2)
  """
  w = found.w
  on_host = not isinstance(w, jax.core.Tracer) and len(w.devices()) == 1
  if on_host:  # In JAX, slices are a program for each of their shapes.
    found = NMF(*map(np.asarray, found))
  ws, hs = packing.apart(found.w, found.h, [v.shape for v in like], ranks)
  dtypes = [jnp.promote_types(v.dtype, jnp.float32) for v in like]
  parts = [
    NMF(w.astype(dtype), h.astype(dtype), loss, sweeps)
    for w, h, loss, sweeps, dtype in zip(
      ws, hs, found.loss, found.sweeps, dtypes
    )
  ]
  if on_host:
    return jax.device_put(parts, w.sharding if w.committed else None)
  return parts


def limits(max_sweeps: int, tol: float) -> tuple[jax.Array, jax.Array]:
  """Refuses limits out of range, where they are not traced.

  Returns:
    Both as arrays, for which no other program is compiled if they change.

  Example:
    >>> limits(max_sweeps=5, tol=0.0)[0].dtype
    dtype('int32')
  """
  if not isinstance(max_sweeps, jax.core.Tracer):
    _check_integers(max_sweeps=[max_sweeps])
  check_number('tol', tol)
  if not isinstance(tol, jax.core.Tracer) and not 0 <= tol < 1:
    raise ValueError(f'`tol` must lie in [0, 1); got {tol}.')
  return jnp.asarray(max_sweeps, jnp.int32), jnp.asarray(tol, float)


def _check_integers(**arguments):
  for name, values in arguments.items():
    for value in values:
      if isinstance(value, numbers.Integral) and value > HIGHEST:
        raise ValueError(f'`{name}` must be below 2**31; got {value}.')
      if not isinstance(value, numbers.Integral) or value < 1:
        raise ValueError(
          f'`{name}` must be an integer of at least 1; got {value!r}.'
        )


def _check_matrix(v):
  if not hasattr(v, 'dtype'):
    raise TypeError(f'`v` must be an array; got {v!r:.200}.')
  if jnp.ndim(v) != 2 or not v.size:
    raise ValueError(
      f'`v` must be a matrix [m, n] with entries; its shape is {v.shape}.'
    )
  if isinstance(v, jax.core.Tracer):
    return
  with jax.ensure_compile_time_eval():  # Whatever is traced around it.
    if not jnp.all((v >= 0) & (v < jnp.inf)):
      raise ValueError(
        '`v` must be finite and non-negative; its lowest entry is '
        f'{jnp.min(v)}, its highest {jnp.max(v)}.'
      )


@partial(jax.jit, static_argnames=('ranks', 'solver', 'start', 'restarts'))
def _solve(keys, vs, tol, max_sweeps, *, ranks, solver, start, restarts):
  v = packing.pack(vs)
  roots = jnp.sqrt(v.mean)
  roots = [roots[of][:, None, None] for of in (v.of_rows, v.of_columns)]

  def run(keys):
    if start is random_start:  # Of all matrices in one draw.
      factors = random_factors(v, keys, ranks)
    else:
      begun = [_started(start, *x) for x in zip(keys, vs, ranks)]
      factors = packing.pack_factors(v, *zip(*begun))
      factors = map(jnp.divide, factors, roots)
    return _improve(v, *factors, tol, max_sweeps, solver)

  if restarts == 1:
    w, h, loss, sweeps = run(keys)
  else:
    split = jax.vmap(lambda key: jax.random.split(key, restarts), out_axes=1)
    w, h, loss, sweeps = jax.lax.map(run, split(keys))
    best = jnp.argmin(loss, 0)
    pick = jax.vmap(lambda x, i: x[i], (1, 0))
    loss, sweeps = pick(loss, best), pick(sweeps, best)
    w, h = pick(w, best[v.of_rows]), pick(h, best[v.of_columns])
  place = np.argsort(v.order)
  return NMF(
    *packing.side_by_side(v, w * roots[0], h * roots[1]),
    (loss * v.mean**solver.degree)[place],
    sweeps[place],
  )


def _started(start, key, v, rank):
  w, h = start(key, v, rank)
  shapes = (v.shape[0], rank), (rank, v.shape[1])
  if (w.shape, h.shape) != shapes:
    raise ValueError(
      f'`start` must return factors of shapes {shapes[0]} and {shapes[1]}; '
      f'got {w.shape} and {h.shape}.'
    )
  return w, h


def _improve(v, w, h, tol, max_sweeps, solver):
  """Sweeps until all matrices are done; of each, what is done is held."""

  def unfinished(carry):
    return jnp.any(carry[-2])

  def turn(carry):
    w, h, first, before, loss, sweeps, active, time = carry
    new_w, new_h, new_loss = solver.sweep(v, w, h)
    time = time + 1
    w = jnp.where(active[v.of_rows][:, None, None], new_w, w)
    h = jnp.where(active[v.of_columns][:, None, None], new_h, h)
    loss = jnp.where(active, new_loss, loss)
    sweeps = jnp.where(active, time, sweeps)
    first = jnp.where(time == 1, loss, first)
    look = time % _CHECK_EVERY == 0
    # Without a tolerance the rounding of the loss decides nothing.
    goes_on = (before - loss > tol * first) | (tol == 0) | ~look
    before = jnp.where(look, loss, before)
    active = active & goes_on & (time < max_sweeps)
    return w, h, first, before, loss, sweeps, active, time

  infinite = jnp.full_like(v.mean, jnp.inf)
  sweeps = jnp.zeros(infinite.shape, jnp.int32)
  active = jnp.ones(infinite.shape, bool)
  carry = w, h, infinite, infinite, infinite, sweeps, active, jnp.int32(0)
  carry = jax.lax.while_loop(unfinished, turn, carry)
  w, h, _, _, _, sweeps, _, _ = carry
  # The loss of a sweep is cheap, but a difference of large numbers.
  return w, h, solver.loss(v, w, h), sweeps
