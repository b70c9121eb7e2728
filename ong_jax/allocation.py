"""How the budget of kept weights is split among the leaves.

An allocation reads shapes only, on the host and in Python's integers, and
returns counts that sum to exactly N - round(sparsity * N).
"""

import jax

from ong_jax import masks
from ong_jax.types import Counts, Scores


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
