"""What a mask has to be compared with before it is said to choose well."""

import jax

from ong_jax import masks
from ong_jax.checks import check_key
from ong_jax.devices import split_like
from ong_jax.selection import leaf_keys
from ong_jax.types import Mask


def shuffle(key: jax.Array, mask: Mask) -> Mask:
  """Shuffles a mask inside each leaf: as many are kept, of other weights.

  If a network trains as well under it, the mask has said how dense each layer
  is to be, and no more. Of a pattern, such as N of M, nothing but that is left.
  A leaf that is split over devices is gathered for it.

  Args:
    key: of the shuffles; each leaf has its own, made from its path.
    mask: tree of bool arrays, `None` where not prunable.

  Returns:
    A tree like `mask`.

  References:
    Frankle et al., Pruning neural networks at initialization: why are we
    missing the mark?, 2020, arXiv:2009.08576.

  Example:
    >>> mask = {'kernel': jnp.arange(100).reshape(10, 10) < 30, 'bias': None}
    >>> shuffled = shuffle(jax.random.key(0), mask)
    >>> int(shuffled['kernel'].sum()), int(shuffled['kernel'][:3].sum())
    (30, 5)
  """
  check_key(key)
  masks.check_bool(mask)

  def permute(m, k):
    return jax.random.permutation(k, m.ravel()).reshape(m.shape)

  shuffled = jax.tree.map(permute, mask, leaf_keys(key, mask))
  return split_like(mask, shuffled)
