"""A pattern for each layer, under one budget: single weights, blocks, N:M."""

from collections.abc import Callable
from typing import NamedTuple

import jax

from ong_jax import allocation, masks, schedules, selection
from ong_jax.checks import check_function
from ong_jax.patterns import groups, tiles
from ong_jax.patterns.pattern import Pattern, after_cuts
from ong_jax.types import Allocation, InputAxes, Scores


class NofM(NamedTuple):
  """Of a leaf, n of every m consecutive input weights; see `n_of_m`."""

  n: int
  m: int


class Block(NamedTuple):
  """Of a leaf, whole blocks over its trailing axes.

  (4, 4) is 4 inputs by 4 outputs, at each position of a convolution's kernel;
  (3, 3, 1, 1) its filters of two dimensions. A leaf with fewer axes, or shorter
  ones, has blocks as large as it allows; at its far edges they are smaller.
  """

  shape: tuple[int, ...]


Kind = Callable[[jax.tree_util.KeyPath, jax.Array], NofM | Block | None]


def blocks(
  shape: tuple[int, ...],
  sparsity: float,
  allocate: Allocation = allocation.uniform,
) -> Pattern:
  """Makes the pattern of whole blocks, ranked by the mean of their scores.

  The budget is in weights: `mixed` says what becomes of it where blocks do not
  fit. Less than one block of N - round(sparsity * N) stays unused. A leaf that
  is split over devices is gathered.

  Args:
    shape: of a block, over the trailing axes; see `Block`.
    sparsity: fraction of the prunable weights to remove, in [0, 1).
    allocate: how the budget is split, as that of `unstructured`. A leaf whose
      count is below one block may lose all it has.

  Example:
    >>> scores = {'kernel': jnp.array([[9.0, 0.0, 3.0, 3.0]])}
    >>> blocks((1, 2), 0.5).choose(scores)['kernel']
    Array([[ True,  True, False, False]], dtype=bool)
  """
  check_block(shape)
  return mixed(lambda path, leaf: Block(shape), sparsity, allocate)


def mixed(
  kind: Kind,
  sparsity: float,
  allocate: Allocation = allocation.uniform,
  inputs: InputAxes = selection.input_axes,
) -> Pattern:
  """Makes the pattern in which each leaf has its own, under one exact budget.

  N:M leaves keep what they must. What is left of N - round(sparsity * N) is
  allocated over the others. Of a leaf of blocks, or of all that are ranked
  together, the best are kept, as many as fit. What they leave of the budget
  goes to the single weights that are best in one ranking of these leaves; if
  all of them are kept, to blocks in one ranking, of which the last may take
  from the weights. So the total is exact where there are single weights to fill
  up with, and else less than one block below.

  A block that holds anything that must stay (+inf) stays, one that holds what
  must not (-inf) does not; NaN makes it the lowest of the others.

  Args:
    kind: `(path, leaf) -> NofM(n, m)`, `Block(shape)`, or None for single
      weights.
    sparsity: fraction of the prunable weights to remove, in [0, 1).
    allocate: how the budget of all but N:M leaves is split among them. With
      `allocation.pooled` blocks, by their mean, and weights are one ranking.
      Of a count n, a cut leaves out the fraction's share, rounded down.
    inputs: `(path, leaf) -> int`, how many axes of a kernel are inputs; read
      for N:M.

  Returns:
    The pattern. Its `choose` raises a `ValueError` if N:M leaves keep more than
    the budget, or the others cannot use what is left, and says for which
    sparsity they can; and a `TypeError` for a kind that is none of these.

  Example:
    >>> def kind(path, leaf):
    ...   return NofM(1, 2) if 'fc' in selection.name_of(path) else None
    >>> scores = {'fc': jnp.array([[1.0], [2.0]]), 'out': jnp.arange(4.0)}
    >>> kept = mixed(kind, 1 / 3).choose(scores)
    >>> kept['fc'].ravel(), kept['out']
    (Array([False,  True], dtype=bool), Array([False,  True,  True,  True], \
dtype=bool))
  """
  masks.check_sparsity(sparsity)
  check_function('kind', kind, 'one of the path and leaf')

  def choose(scores, cuts=(0.0,), row=0):
    leaves, treedef = jax.tree.flatten(scores)
    kinds = _kinds(kind, scores)

    def only(test):  # The tree without the leaves of other kinds.
      return treedef.unflatten(
        leaf if test(k) else None for leaf, k in zip(leaves, kinds)
      )

    parts, fixed = [], 0
    for found in dict.fromkeys(k for k in kinds if isinstance(k, NofM)):
      part = only(lambda k, found=found: k == found)
      parts.append(groups.n_of_m(*found, inputs).choose(part, cuts, row))
      fixed += sum(jax.tree.leaves(groups.num_kept(part, *found, inputs)))
    rest = only(lambda k: not isinstance(k, NofM))
    if parts:
      rest_sparsity = allocation.sparsity_of_rest(scores, rest, fixed, sparsity)
    else:
      rest_sparsity = sparsity
    rest_leaves, rest_treedef = jax.tree.flatten(rest)
    if rest_leaves:
      counts = after_cuts(allocate(rest, rest_sparsity), cuts, row)
      if jax.tree.structure(counts) != jax.tree.structure(0):
        counts = rest_treedef.flatten_up_to(counts)
      tiled = tuple(
        tiles.fit(leaf.shape, k.shape if k else ())
        for leaf, k in zip(leaves, kinds)
        if not isinstance(k, NofM)
      )
      kept = tiles.best(rest_leaves, counts, tiled)
      parts.append(rest_treedef.unflatten(kept))
    return jax.tree.map(
      lambda _, *kept: next(k for k in kept if k is not None), scores, *parts
    )

  return Pattern(choose)


def _kinds(kind: Kind, scores: Scores) -> list[NofM | Block | None]:
  """The kind of each leaf, in their order in the tree."""
  kinds = []
  for path, leaf in jax.tree_util.tree_leaves_with_path(scores):
    found = kind(path, leaf)
    if isinstance(found, NofM):
      groups.check(*found)
    elif isinstance(found, Block):
      check_block(found.shape)
    elif found is not None:
      raise TypeError(
        f"`kind` of leaf '{selection.name_of(path)}' must be a `NofM`, a "
        f'`Block` or None; got {found!r}.'
      )
    kinds.append(found)
  return kinds


def check_block(shape: tuple[int, ...]) -> None:
  """Raises a `ValueError` unless a block can have this shape.

  Example:
    >>> check_block((4, 4))
  """
  if not isinstance(shape, tuple | list):
    raise TypeError(
      f'`shape` of a block must be a tuple, such as (4, 4); got {shape!r:.200}.'
    )
  schedules.check_steps(**{f'shape[{i}]': b for i, b in enumerate(shape)})
