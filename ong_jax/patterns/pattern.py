"""What all patterns have in common: how one is called, and what a cut is."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ong_jax import schedules
from ong_jax.types import Mask, Params


class Pattern(NamedTuple):
  """How scores become a mask of a shape that is asked for.

  Scores, and what is kept, are trees of one structure: shaped as their weights,
  or with an entry for each channel. Where +inf, something is kept in any case;
  where -inf, in none.
  """

  # (scores, cuts=(0,), row=0) -> bool like scores: the best within the budget,
  # of which the fraction cuts[row] is left out. `row` may be traced.
  choose: Callable[..., Any]
  # (kept, params) -> mask of the params.
  expand: Callable[[Any, Params], Mask] = lambda kept, params: kept
  # mask -> kept.
  collapse: Callable[[Mask], Any] = lambda mask: mask


def after_cuts(
  counts: Any, cuts: Sequence[float], row: jax.typing.ArrayLike
) -> Any:
  """Looks up the counts that a cut leaves, made on the host."""
  table = jax.tree.map(
    lambda n: jnp.array([n - int(cut * n) for cut in cuts], jnp.int32), counts
  )
  return schedules.counts_at(table, row)
