"""Sparse evolutionary training."""

from collections.abc import Sequence

import jax

from ong_jax import selection
from ong_jax.method import SparseMethod
from ong_jax.patterns import Pattern
from ong_jax.rewiring import make_rewiring
from ong_jax.transforms import masked_transform
from ong_jax.types import Mask, Predicate, Pruner, Score


def set_(
  key: jax.Array,
  pattern: Pattern,
  *,
  interval: int,
  fractions: Sequence[float],
  first: Mask | Pruner | None = None,
  prunable: Predicate = selection.is_kernel,
  grow: Score | None = None,
) -> SparseMethod:
  """Drops the smallest weights, and grows as many others, usually at random.

  At the end of every `interval`-th step, of n weights that are kept, floor(z n)
  of the smallest magnitude are dropped and as many come, drawn among all that
  were pruned before, or those that a score puts first. New weights start at 0,
  and moments are 0 where the mask has just changed. If fewer are pruned than
  that, only as many are replaced. So the number that is kept never changes.

  Args:
    key: of the random mask and of all draws.
    pattern: the budget, and what competes for it: `patterns.unstructured` or
      `n_of_m`. An update is of each leaf, or of all if the allocation is
      `pooled`; then densities of layers drift.
    interval: steps between two updates of the mask, and before the first; those
      of an epoch in the paper.
    fractions: z, one for each update, in [0, 1): [0.3] * num_updates in the
      paper, or see `schedules.cosine_decay`. Then the mask is fixed.
    first: the mask to begin with, or the pruner that makes it; by default a
      random one of the pattern. If its counts are not those of the pattern,
      they become it in the first update.
    prunable: `(path, leaf) -> bool`, for the random mask.
    grow: `weights -> scores`, finite and at least 0: the highest come, and of
      those that score 0 any. It sees the weights before anything is dropped, 0
      where they are pruned, so it must tell these apart: `scores.ong` with the
      saliency `recon` does, by the factorization of those that are kept. It is
      traced, so one that sums over a kernel may differ in the last bits where
      kernels are split over devices.

  Returns:
    A `SparseMethod`. Moments that have not the shape of their weight, as
    Adafactor's, stay as they are.

  References:
    Mocanu et al., Scalable training of artificial neural networks with adaptive
    sparse connectivity inspired by network science, 2018, arXiv:1707.04780.
    There, positive and negative weights are ranked apart; here by magnitude,
    and new weights start at 0, as in RigL. Growth by a score is ours.

  Example:
    >>> from ong_jax import patterns
    >>> params = {'kernel': jnp.array([[3.0, 2.0, 1.0]])}
    >>> mask = {'kernel': jnp.array([[True, True, False]])}
    >>> method = set_(jax.random.key(0), patterns.unstructured(1 / 3),
    ...               interval=1, fractions=[0.5], first=mask)
    >>> tx = method.transform(optax.sgd(0.1))
    >>> grads = {'kernel': jnp.zeros((1, 3))}
    >>> updates, opt_state = tx.update(grads, tx.init(params), params)
    >>> method.finish(optax.apply_updates(params, updates), opt_state)
    ({'kernel': Array([[3., 0., 0.]], dtype=float32)}, \
{'kernel': Array([[ True, False,  True]], dtype=bool)})
  """
  wiring = make_rewiring(
    key, pattern, interval, fractions, first, prunable, grow
  )
  return SparseMethod(
    lambda inner: masked_transform(inner, wiring.begin, wiring.renew)
  )
