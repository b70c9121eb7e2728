"""Optimal brain surgery, input by input: the mathematics of one kernel."""

import functools

import jax
import jax.numpy as jnp

BLOCK = 128  # Inputs that are compared with each other, as in the paper.


@functools.partial(jax.jit, static_argnames=('n_of_m',))
def sweep(
  w: jax.Array,
  gram: jax.Array,
  counts: jax.Array | None,
  given: jax.Array | None,
  n_of_m: tuple[int, int] | None,
  damping: float,
) -> tuple[jax.Array, jax.Array]:
  """Goes through the inputs of a kernel, pruning and updating its weights.

  Of what is to be kept one of three must be given.

  Args:
    w: [groups, fan_in, outputs].
    gram: X'X of their inputs, [groups, fan_in, fan_in].
    counts: int [groups, blocks], of weights kept in each block of inputs.
    given: bool, shaped as w.
    n_of_m: (n, m), of consecutive inputs of each output.
    damping: see `surgeon.sparsegpt`.

  Returns:
    New weights, NaN if a gram is not positive definite, and their mask.

  Example:
    >>> w, gram = jnp.array([[[1.0], [-2.0]]]), jnp.eye(2)[None]
    >>> sweep(w, gram, jnp.array([[1]]), None, None, 0.01)[0].ravel()
    Array([ 0., -2.], dtype=float32)
  """
  _, fan_in, outputs = w.shape
  size = BLOCK if n_of_m is None else n_of_m[1]
  block = size * max(BLOCK // size, 1)
  missing = -fan_in % block
  pad = ((0, missing), (0, 0))

  def choose(scores, i, counts, given):
    """Of `size` inputs from the i-th on, those kept."""
    if given is not None:
      return jax.lax.dynamic_slice_in_dim(given, i, size)
    if n_of_m is not None:
      return _highest(scores, n_of_m[0], axis=0)
    return _highest(scores.ravel(), counts[i // size], axis=0).reshape(
      scores.shape
    )

  def one(w, gram, counts, given):
    dead, upper = _upper(gram, damping)
    dead = jnp.pad(dead, (0, missing))[:, None]
    w = jnp.pad(w.astype(upper.dtype), pad)
    upper = jax.scipy.linalg.block_diag(upper, jnp.eye(missing))
    real = jnp.pad(jnp.ones((fan_in, outputs), bool), pad)
    given = None if given is None else jnp.pad(given, pad)
    diagonal = jnp.diagonal(upper)[:, None]

    def sweep_block(b, carry):
      w, kept = carry
      start = b * block
      take = functools.partial(
        jax.lax.dynamic_slice_in_dim, start_index=start, slice_size=block
      )
      rows, d, ours, gone = (take(x) for x in (w, diagonal, real, dead))
      triangle = jax.lax.dynamic_slice(upper, (start, start), (block, block))

      def sweep_group(g, carry):
        rows, _, _ = carry
        scores = jnp.where(gone, -1.0, jnp.square(rows / d))
        scores = jnp.where(ours, scores, -jnp.inf)
        i = g * size
        part = jax.lax.dynamic_slice_in_dim(scores, i, size)
        chosen = choose(part, start + i, counts, given)
        carry = (
          rows,
          carry[1],
          jax.lax.dynamic_update_slice_in_dim(carry[2], chosen, i, 0),
        )
        return jax.lax.fori_loop(i, i + size, remove, carry)

      def remove(i, carry):
        """Sets row i to what is kept of it; the later rows make up for it."""
        rows, errors, chosen = carry
        error = jnp.where(chosen[i], 0, rows[i]) / d[i]
        later = jnp.where(jnp.arange(block) > i, triangle[i], 0)
        rows = rows - later[:, None] * error
        rows = rows.at[i].set(jnp.where(chosen[i], rows[i], 0))
        return rows, errors.at[i].set(error), chosen

      start_with = rows, jnp.zeros_like(rows), jnp.zeros(rows.shape, bool)
      rows, errors, chosen = jax.lax.fori_loop(
        0, block // size, sweep_group, start_with
      )
      ahead = jnp.where(
        jnp.arange(len(w))[:, None] >= start + block, take(upper).T, 0
      )
      w = w - jnp.matmul(ahead, errors, precision='highest')
      put = functools.partial(
        jax.lax.dynamic_update_slice_in_dim, start_index=start, axis=0
      )
      return put(w, rows), put(kept, chosen)

    carry = w, jnp.zeros(w.shape, bool)
    w, kept = jax.lax.fori_loop(0, len(w) // block, sweep_block, carry)
    kept &= real
    w = jnp.where(jnp.isfinite(upper).all(), jnp.where(kept, w, 0), jnp.nan)
    return w[:fan_in], kept[:fan_in]

  return jax.vmap(one)(w, gram, counts, given)


def _upper(gram, damping):
  """Which inputs are always 0, and U with H^-1 = U'U."""
  diagonal = jnp.diagonal(gram)
  dead = diagonal == 0
  identity = jnp.eye(len(gram), dtype=gram.dtype)
  gram += identity * (dead + damping * diagonal.mean())
  factor = jax.scipy.linalg.cho_factor(gram)
  inverse = jax.scipy.linalg.cho_solve(factor, identity)
  return dead, jnp.linalg.cholesky(inverse).T


def _highest(scores, k, axis):
  """Which are the k highest along an axis; of equal ones, the first."""
  order = jnp.argsort(-scores, axis, stable=True)
  return jnp.argsort(order, axis) < k
