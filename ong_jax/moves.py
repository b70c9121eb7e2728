"""How a mask moves: what is kept competes to stay, or the rest to come."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ong_jax import scores as scoring
from ong_jax.patterns import Pattern
from ong_jax.selection import name_of


def grow_or_prune(
  pattern: Pattern,
  grows: jax.typing.ArrayLike,
  cuts: Sequence[float] = (0.0,),
  row: jax.typing.ArrayLike = 0,
) -> Callable[[Any, Any], Any]:
  """Makes `(scores, kept) -> kept`, one step of a mask under a pattern.

  Growing keeps all that is kept, and fills the budget with the best of the
  rest. Pruning keeps the best of what is kept, within the budget. Neither does
  anything else, where a budget is not met. NaN is the lowest score.

  Args:
    pattern: with the budget.
    grows: [] bool, may be traced.
    cuts, row: of the budget; see `Pattern`.

  Returns:
    The function. It raises a `ValueError` if scores are not of what is kept or
    not, and a `TypeError` if they are no floats.

  Example:
    >>> from ong_jax import patterns
    >>> scores = {'kernel': jnp.array([4.0, 3.0, 2.0, 1.0])}
    >>> kept = {'kernel': jnp.array([True, False, False, False])}
    >>> grow_or_prune(patterns.unstructured(0.5), True)(scores, kept)
    {'kernel': Array([ True,  True, False, False], dtype=bool)}
  """

  def move(scores, kept):
    if jax.tree.structure(scores) != jax.tree.structure(kept):
      raise ValueError(
        '`score` must rank what the mask has, and nothing else: it ranks '
        f'{_names(scores)}, the mask has {_names(kept)}. Pass one `prunable` '
        'to all; a mask of channels takes a score of channels.'
      )
    chosen = pattern.choose(jax.tree.map(rank, scores, kept), cuts, row)
    return jax.tree.map(
      lambda c, k: jnp.where(grows, c | k, c & k), chosen, kept
    )

  def rank(s, k):
    if not jnp.issubdtype(s.dtype, jnp.floating):
      raise TypeError(f'`score` must return floats; got {s.dtype}.')
    low, high = jnp.finfo(s.dtype).min, jnp.finfo(s.dtype).max
    s = jnp.where(jnp.isnan(s), low, jnp.maximum(s, low))
    s = jnp.where(grows, jnp.minimum(s, high), s)  # Below what is kept.
    return jnp.where(k ^ grows, s, jnp.where(k, jnp.inf, -jnp.inf))

  return move


def replace(
  key: jax.Array,
  pattern: Pattern,
  cuts: Sequence[float],
  row: jax.typing.ArrayLike = 0,
) -> Callable[[Any, Any, Any], Any]:
  """Makes `(sizes, gains, kept) -> kept`: as many grow as are dropped.

  Of what is kept, the smallest are dropped: the cut's share of the budget. Of
  what was not kept before, those of the highest gain come, also under a pattern
  that has them compete in groups. Where these are too few, the largest of what
  was dropped stay; it is compared up to rounding.

  Gains are compared exactly, and of equal ones the first comes, except that
  those that are 0 are ordered at random: a gradient that is 0 says nothing, and
  many are behind a dead unit. What is not finite comes last.

  Args:
    key: of that order.
    pattern: with the budget, of single weights.
    cuts, row: which share is replaced; see `Pattern`.

  Returns:
    The function, of trees of float arrays that are at least 0, and a mask.

  Example:
    >>> from ong_jax import patterns
    >>> sizes = {'kernel': jnp.array([4.0, 3.0, 0.0, 0.0])}
    >>> gains = {'kernel': jnp.array([5.0, 9.0, 1.0, 2.0])}
    >>> kept = {'kernel': jnp.array([True, True, False, False])}
    >>> pattern = patterns.unstructured(0.5)
    >>> replace(jax.random.key(0), pattern, [0.5])(sizes, gains, kept)
    {'kernel': Array([ True, False, False,  True], dtype=bool)}
  """

  def move(sizes, gains, kept):
    stays = grow_or_prune(pattern, False, cuts, row)(sizes, kept)
    draws = scoring.random(key)(gains)
    ranked = jax.tree.map(rank, sizes, gains, draws, kept, stays)
    return grow_or_prune(pattern, True)(ranked, stays)

  def rank(size, gain, draw, old, stays):
    size, gain = size.astype(jnp.float32), gain.astype(jnp.float32)
    tied = jnp.where(gain == 0, draw - 2, draw - 4)  # In [-2, -1), [-4, -3).
    gain = jnp.where((gain > 0) & jnp.isfinite(gain), gain, tied)
    return jnp.where(old & ~stays, -5 - 1 / size, gain)

  return move


def _names(tree: Any) -> list[str]:
  return [name_of(p) for p, _ in jax.tree_util.tree_leaves_with_path(tree)]
