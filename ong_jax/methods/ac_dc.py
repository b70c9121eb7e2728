"""AC/DC: alternating compressed and decompressed training."""

import functools
import itertools
import numbers
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from ong_jax import allocation, ranking, scores, selection
from ong_jax.checks import check_list
from ong_jax.method import SparseMethod, prunes_to
from ong_jax.pruners import magnitude
from ong_jax.states import remask, restart
from ong_jax.transforms import masked_transform
from ong_jax.types import Allocation, Predicate


def ac_dc(
  *,
  sparsity: float,
  boundaries: Sequence[int],
  allocate: Allocation = allocation.pooled,
  prunable: Predicate = selection.is_kernel,
) -> SparseMethod:
  """Prunes by magnitude and restores everything, in turns.

  Training begins dense. After boundaries[0] steps the mask becomes that of the
  largest weights, after boundaries[1] all weights train again, after
  boundaries[2] the largest are chosen anew, and so on; within a phase the mask
  does not change. Pruned weights are 0, and start at 0 when they are restored.
  Then the moments of all parameters begin again, too: all that mirrors a
  parameter in the state of the inner optimizer. When pruning, only those of
  what is pruned. Which phase it is depends on the count of steps alone.

  The params at the end of the last dense phase, after boundaries[-1] - 1 steps,
  are a dense model that training makes by the way: keep them if you want it.

  Args:
    sparsity: in the compressed phases; in [0, 1).
    boundaries: steps after which phases end, strictly increasing and an odd
      number of them, so that training ends compressed. With 0 as the first,
      training begins compressed.
    allocate: how the budget is split; by default one ranking over all leaves.
    prunable: `(path, leaf) -> bool`.

  Returns:
    A `SparseMethod`. It is done when the last boundary has been passed:
    `finish` in a dense phase prunes nothing. The inner state counts all steps:
    Adam, whose moments begin again, takes steps of up to 6.6 times its rate
    after each restoration.

  Raises:
    ValueError, TypeError: a number is out of its range; from `init`, the
      sparsity leaves fewer weights than there are leaves.

  References:
    Peste et al., AC/DC: alternating compressed/decompressed training of deep
    neural networks, 2021, arXiv:2106.12379.

  Example:
    >>> method = ac_dc(sparsity=0.5, boundaries=[1, 2, 3])
    >>> params = {'kernel': jnp.array([[1.0, 2.0]])}
    >>> tx = method.transform(optax.sgd(1.0))
    >>> opt_state = tx.init(params)
    >>> for _ in range(3):
    ...   grads = {'kernel': jnp.array([[-4.0, 0.0]])}
    ...   updates, opt_state = tx.update(grads, opt_state, params)
    ...   params = optax.apply_updates(params, updates)
    ...   print(params['kernel'])
    [[5. 0.]]
    [[9. 0.]]
    [[13.  0.]]
  """
  boundaries = _checked(boundaries)
  at_first = sparsity if boundaries[0] == 0 else 0
  first = magnitude(sparsity=at_first, allocate=allocate, prunable=prunable)

  def renew(inner, params, state):
    weights = selection.select(params, prunable)
    counts = allocate(weights, sparsity)
    ends = jnp.array(boundaries, jnp.int32)
    compressed = jnp.count_nonzero(state.count >= ends) % 2 == 1
    due = jnp.any(state.count == ends)
    mask = jax.lax.switch(
      jnp.where(due, 1 + compressed, 0),
      [
        lambda: state.mask,
        lambda: jax.tree.map(jnp.ones_like, state.mask),
        lambda: ranking.top_k(scores.magnitude(weights), counts),
      ],
    )
    state = remask(state, mask)
    goes_on = ~due | compressed
    keep = jax.tree.map(lambda p: jnp.broadcast_to(goes_on, p.shape), params)
    return state._replace(
      inner_state=restart(inner, keep, state.inner_state, params)
    )

  return SparseMethod(
    lambda inner: masked_transform(
      inner, first, functools.partial(renew, inner)
    ),
    init=prunes_to(sparsity, allocate, prunable),
  )


def _checked(boundaries: Sequence[int]) -> list[int]:
  if isinstance(boundaries, numbers.Number):
    raise TypeError(
      f'`boundaries` must be a sequence of steps; got {boundaries!r}. For one '
      f'phase of each kind, pass [{boundaries!r}].'
    )
  check_list('boundaries', boundaries)
  boundaries = list(boundaries)
  for step in boundaries:
    if not isinstance(step, numbers.Integral) or step < 0:
      raise ValueError(
        f'`boundaries` must be integers of at least 0; got {step!r}.'
      )
  for step, following in itertools.pairwise(boundaries):
    if following <= step:
      raise ValueError(
        f'`boundaries` must be strictly increasing; got {following} after '
        f'{step}.'
      )
  if len(boundaries) % 2 == 0:
    raise ValueError(
      '`boundaries` must be an odd number of steps, so that training ends '
      f'compressed; got {len(boundaries)}: {boundaries}. Add the step of the '
      'final pruning, or leave the last one out.'
    )
  return [int(step) for step in boundaries]
