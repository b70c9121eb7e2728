"""What is kept, at the size that it had or that fewer weights ask for."""

import jax
import jax.numpy as jnp

from ong_jax import masks, values
from ong_jax.devices import split_like, whole
from ong_jax.types import Mask, Params

_KEEP = ('rms', 'norm')
_PER = ('layer', 'filter')


def rescale(
  params: Params, mask: Mask, *, keep: str = 'rms', per: str = 'layer'
) -> Params:
  """Scales what a mask keeps so that its size is what that of all weights was.

  A pruner that keeps the largest weights leaves a layer whose weights are
  larger than its initializer meant, and one that keeps few of them leaves a
  layer whose outputs are smaller.

  Args:
    params: that are to be pruned: as they are before it.
    mask: tree of bool arrays shaped as its params; `None` where not prunable.
    keep: `rms`, the root mean square of the weights, as they were drawn; or
      `norm`, the root of the sum of their squares, which is what an initializer
      that divides by the root of the fan-in asks for once the fan-in is that of
      the survivors.
    per: of each `layer`, a leaf; or of each `filter`, a slice of its last axis.

  Returns:
    A tree like `params`, 0 where pruned. Where all that is kept is 0, it stays
    so.

  Raises:
    ValueError: `keep` or `per` is none of these; weights are not finite.
    ValueError, TypeError: the mask does not fit (`masks.check_like`).

  Example:
    >>> params = {'kernel': jnp.array([[3.0], [4.0]])}
    >>> mask = {'kernel': jnp.array([[False], [True]])}
    >>> rescale(params, mask, keep='norm')['kernel'].ravel()
    Array([0., 5.], dtype=float32)
  """
  for name, value, known in (('keep', keep, _KEEP), ('per', per, _PER)):
    if value not in known:
      raise ValueError(f'`{name}` must be one of {known}; got {value!r}.')
  masks.check_like(params, mask)
  values.check_finite(
    jax.tree.map(lambda w, m: None if m is None else w, params, mask)
  )
  scaled = jax.tree.map(
    lambda w, m: w if m is None else _rescaled(whole(w), m, keep, per),
    params,
    mask,
  )
  return split_like(params, scaled)


def _rescaled(w: jax.Array, m: jax.Array, keep: str, per: str) -> jax.Array:
  axes = None if per == 'layer' else tuple(range(w.ndim - 1))
  wide = w.astype(jnp.promote_types(w.dtype, jnp.float32))
  largest = jnp.max(jnp.abs(wide), initial=0)
  unit = wide / jnp.where(largest > 0, largest, 1)  # Squares do not overflow.
  before, after = (
    jnp.sum(jnp.square(x), axes) for x in (unit, jnp.where(m, unit, 0))
  )
  if keep == 'rms':
    before *= jnp.mean(m, axes, dtype=before.dtype)
  factor = jnp.where(after > 0, jnp.sqrt(before / after), 1)
  return jnp.where(m, wide * factor, 0).astype(w.dtype)
