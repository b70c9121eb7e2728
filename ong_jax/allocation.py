"""How the budget of kept weights is split among the leaves.

An allocation reads shapes only, on the host and in Python's integers, and
returns counts that sum to exactly N - round(sparsity * N).
"""

from collections.abc import Callable

import jax

from ong_jax import masks
from ong_jax.checks import check_function
from ong_jax.types import Allocation, Counts, Scores


def pooled(scores: Scores, sparsity: float) -> int:
  """Ranks all leaves together: one count for the whole tree.

  Args:
    scores: tree of arrays, `None` where not prunable; only shapes are read.
    sparsity: fraction of all prunable weights to remove, in [0, 1).

  Returns:
    The number of weights kept.

  Example:
    >>> pooled({'a': jnp.ones((4, 4)), 'b': jnp.ones((16, 16))}, 0.5)
    136
  """
  return masks.num_kept(scores, sparsity)


def uniform(scores: Scores, sparsity: float) -> Counts:
  """Gives every leaf the same sparsity.

  Args:
    scores: tree of arrays, `None` where not prunable; only shapes are read.
    sparsity: fraction of all prunable weights to remove, in [0, 1).

  Returns:
    Tree of ints like `scores`: weights kept per leaf. Rounded by largest
    remainder, so they sum to N - round(sparsity * N) exactly.

  Example:
    >>> uniform({'a': jnp.ones((4, 4)), 'b': jnp.ones((16, 16))}, 0.5)
    {'a': 8, 'b': 128}
  """
  kept = masks.num_kept(scores, sparsity)
  leaves, treedef = jax.tree.flatten(scores)
  return treedef.unflatten(proportional([x.size for x in leaves], kept))


def erk(scores: Scores, sparsity: float) -> Counts:
  """Allocates kept weights by the Erdős–Rényi-kernel rule.

  A leaf of shape [d_1, ..., d_k] gets density eps * sum(d_i) / prod(d_i), so
  small kernels stay denser. Where that exceeds 1 the leaf is kept whole and
  eps is solved for over the rest.

  Args:
    scores: tree of arrays, `None` where not prunable; only shapes are read.
    sparsity: fraction of all prunable weights to remove, in [0, 1).

  Returns:
    Tree of ints like `scores`: weights kept per leaf. Rounded by largest
    remainder, so they sum to N - round(sparsity * N) exactly.

  References:
    Evci et al., Rigging the Lottery, 2020, arXiv:1911.11134.

  Example:
    >>> erk({'a': jnp.ones((4, 4)), 'b': jnp.ones((16, 16))}, 0.5)
    {'a': 16, 'b': 120}
  """
  kept = masks.num_kept(scores, sparsity)
  leaves, treedef = jax.tree.flatten(scores)
  dense = set()
  while True:
    shares = [
      0 if i in dense else sum(leaf.shape) for i, leaf in enumerate(leaves)
    ]
    rest = kept - sum(leaves[i].size for i in dense)
    full = {
      i
      for i, leaf in enumerate(leaves)
      if i not in dense and shares[i] * rest > leaf.size * sum(shares)
    }
    if not full:
      break
    dense |= full
  counts = proportional(shares, rest)
  return treedef.unflatten(
    leaf.size if i in dense else counts[i] for i, leaf in enumerate(leaves)
  )


def with_own(
  own: Callable[[jax.tree_util.KeyPath, jax.Array], float | None],
  allocate: Allocation = uniform,
) -> Allocation:
  """Makes an allocation in which some leaves have a sparsity of their own.

  The others make up for it, so that the total stays what it was.

  Args:
    own: `(path, leaf) -> sparsity` in [0, 1), 0 for a dense leaf; None where
      there is none.
    allocate: how the rest is split among the others: by leaf, not `pooled`.

  Returns:
    An allocation. It raises a `ValueError` if the others cannot make up for it,
    and says for which sparsity they can.

  Example:
    >>> from ong_jax.selection import name_of
    >>> def own(path, leaf):
    ...   return 0.0 if name_of(path) == 'a' else None
    >>> both = {'a': jnp.ones((4, 4)), 'b': jnp.ones((16, 16))}
    >>> with_own(own)(both, 0.5)
    {'a': 16, 'b': 120}
  """

  check_function('own', own, 'one of the path and leaf')

  def split(scores, sparsity):
    masks.check_sparsity(sparsity)
    paths, treedef = jax.tree_util.tree_flatten_with_path(scores)
    counts = []
    for path, leaf in paths:
      share = own(path, leaf)
      if share is not None:
        masks.check_sparsity(share)
        share = masks.round_kept(leaf.size, share)
      counts.append(share)
    leaves = [leaf for _, leaf in paths]
    rest = [leaf for leaf, count in zip(leaves, counts) if count is None]
    fixed = sum(count for count in counts if count is not None)
    split_rest = allocate(rest, sparsity_of_rest(scores, rest, fixed, sparsity))
    if isinstance(split_rest, int):
      raise ValueError(
        '`allocate` must split the budget by leaf, such as `uniform` or `erk`, '
        'where some leaves have their own.'
      )
    others = iter(split_rest)
    return treedef.unflatten(
      next(others) if count is None else count for count in counts
    )

  return split


def sparsity_of_rest(
  scores: Scores, rest: Scores, fixed: int, sparsity: float
) -> float:
  """Finds at which sparsity some leaves keep what others leave of the budget.

  Args:
    scores: all leaves.
    rest: those that are still to be allocated.
    fixed: weights that the others keep.
    sparsity: of all.

  Raises:
    ValueError: it would be fewer weights than leaves, or more than there are.

  Example:
    >>> both = [jnp.ones(4), jnp.ones(16)]
    >>> sparsity_of_rest(both, both[1:], fixed=4, sparsity=0.5)
    0.625
  """
  total = sum(leaf.size for leaf in jax.tree.leaves(scores))
  sizes = [leaf.size for leaf in jax.tree.leaves(rest)]
  kept = masks.round_kept(total, sparsity) - fixed
  if not len(sizes) <= kept <= sum(sizes):
    lowest, highest = (
      (total - fixed - k) / total for k in (sum(sizes), len(sizes))
    )
    raise ValueError(
      f'`sparsity` must lie in [{lowest:.9g}, {highest:.9g}]; got {sparsity}, '
      f'which keeps {kept + fixed} of {total} weights. Leaves that have their '
      f'own keep {fixed}, and the {len(sizes)} others from {len(sizes)} to '
      f'{sum(sizes)}.'
    )
  return (sum(sizes) - kept) / sum(sizes) if sizes else 0.0


def proportional(shares: list[int], total: int) -> list[int]:
  """Splits `total` in proportion, by largest remainder; of ties the first.

  All in integers: a share is shares[i] * total / sum(shares).

  Example:
    >>> proportional([1, 1, 2], 6)
    [2, 1, 3]
  """
  whole = max(sum(shares), 1)
  counts = [share * total // whole for share in shares]
  by_remainder = sorted(
    range(len(shares)), key=lambda i: -(shares[i] * total % whole)
  )
  for i in by_remainder[: total - sum(counts)]:
    counts[i] += 1
  return counts
