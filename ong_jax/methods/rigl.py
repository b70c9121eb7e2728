"""RigL: the rigged lottery."""

import numbers
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from ong_jax import selection
from ong_jax.method import SparseMethod, straight_through
from ong_jax.patterns import Pattern
from ong_jax.rewiring import make_rewiring, where_masked
from ong_jax.states import check_given
from ong_jax.transforms import masked_transform
from ong_jax.types import Mask, Predicate, Pruner, Weights


def rigl(
  key: jax.Array,
  pattern: Pattern,
  *,
  interval: int = 100,
  fractions: Sequence[float],
  average: int = 1,
  first: Mask | Pruner | None = None,
  prunable: Predicate = selection.is_kernel,
) -> SparseMethod:
  """Drops the smallest weights, and grows where the gradient is largest.

  At the end of every `interval`-th step, of n weights that are kept, floor(z n)
  of the smallest magnitude are dropped. As many come among all that were pruned
  before: those of the largest |dL/dw| at the pruned network. It is that of the
  loss, as `update` gets it: before anything clips, scales or masks it. Where it
  is 0, the order is random; of other equal ones the first comes, and what is
  not finite last. New weights start at 0, and moments are 0 where the mask has
  just changed. If fewer are pruned than that, only as many are replaced. So the
  number that is kept never changes.

  As in the authors' code, a step that updates the mask is none of the inner
  optimizer: all else stays as it is, its state included.

  Args:
    key: of the random mask, and of the order of gradients that are 0.
    pattern: the budget, and what competes for it: `patterns.unstructured` or
      `n_of_m`; of `blocks`, whole ones are replaced, about as many. An update
      is of each leaf, or of all if the allocation is `pooled`; then densities
      of layers drift.
    interval: steps between two updates of the mask, and before the first.
    fractions: z, one for each update, in [0, 1): `schedules.cosine_decay(0.3,
      num_updates)` in the paper, for the first three quarters of training. Then
      the mask is fixed.
    average: of how many steps up to the update the gradients are averaged, at
      most `interval`. One batch says little if it is small. Above 1 this takes
      a float32 array for each weight; what is not finite is left out.
    first: the mask to begin with, or the pruner that makes it; by default a
      random one of the pattern. If its counts are not those of the pattern,
      they become it in the first update.
    prunable: `(path, leaf) -> bool`, for the random mask.

  Returns:
    A `SparseMethod`. Gradients must be taken through `effective`, which makes
    them dense. Moments that have not the shape of their weight, as Adafactor's,
    stay as they are.

  References:
    Evci et al., Rigging the lottery: making all tickets winners, 2020,
    arXiv:1911.11134.

  Example:
    >>> from ong_jax import patterns
    >>> params = {'kernel': jnp.array([[4.0, 3.0, 2.0, 1.0]])}
    >>> mask = {'kernel': jnp.array([[True, True, False, False]])}
    >>> method = rigl(jax.random.key(0), patterns.unstructured(0.5),
    ...               interval=1, fractions=[0.5], first=mask)
    >>> tx = method.transform(optax.sgd(0.1))
    >>> grads = {'kernel': jnp.array([[9.0, 9.0, 0.1, -0.2]])}
    >>> updates, opt_state = tx.update(grads, tx.init(params), params)
    >>> method.finish(optax.apply_updates(params, updates), opt_state)
    ({'kernel': Array([[4., 0., 0., 0.]], dtype=float32)}, \
{'kernel': Array([[ True, False, False,  True]], dtype=bool)})
  """
  wiring = make_rewiring(key, pattern, interval, fractions, first, prunable)
  if not (isinstance(average, numbers.Integral) and 1 <= average <= interval):
    raise ValueError(
      '`average` must be an integer from 1 to the steps between two updates, '
      f'`interval`={interval}; got {average!r}.'
    )

  def transform(inner):
    inner = optax.with_extra_args_support(inner)

    def init_fn(params):
      state = masked_transform(inner, wiring.begin).init(params)
      if average == 1:
        return state
      total = _zeros(state.mask)
      return state._replace(inner_state=_Averaging(state.inner_state, total))

    def update_fn(updates, state, params=None, **extra_args):
      check_given(params)
      count = state.count + 1
      gains, total = where_masked(updates, state.mask), None
      if average > 1:
        now = wiring.updates_within(count, average)
        gains = total = _add(state.inner_state.total, gains, now)
        state = state._replace(inner_state=state.inner_state.inner_state)
      gains = jax.tree.map(jnp.abs, gains)
      due = wiring.updates_within(count)
      updates, state = masked_transform(
        _unless(due, inner),
        state.mask,
        lambda params, state: wiring.renew(params, state, gains),
      ).update(updates, state, params, **extra_args)
      if average > 1:
        total = jax.tree.map(lambda x: jnp.where(due, 0, x), total)
        state = state._replace(inner_state=_Averaging(state.inner_state, total))
      return updates, state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)

  return SparseMethod(transform, straight_through)


class _Averaging(NamedTuple):
  """What goes around the inner optimizer's state."""

  inner_state: optax.OptState
  total: Weights  # float32: the sum of gradients since averaging began.


def _zeros(mask: Mask) -> Weights:
  return jax.tree.map(lambda m: jnp.zeros_like(m, jnp.float32), mask)


def _add(total: Weights, grads: Weights, now: jax.Array) -> Weights:
  return jax.tree.map(
    lambda x, g: x + jnp.where(now & jnp.isfinite(g), g, 0), total, grads
  )


def _unless(
  due: jax.Array, inner: optax.GradientTransformationExtraArgs
) -> optax.GradientTransformationExtraArgs:
  """Leaves params and state as they are if something else is due."""

  def update_fn(updates, state, params=None, **extra_args):
    updates, new = inner.update(updates, state, params, **extra_args)
    updates = jax.tree.map(
      lambda u: jnp.where(due, jnp.zeros_like(u), u), updates
    )
    state = jax.tree.map(lambda x, y: jnp.where(due, x, y), state, new)
    return updates, state

  return optax.GradientTransformationExtraArgs(inner.init, update_fn)
