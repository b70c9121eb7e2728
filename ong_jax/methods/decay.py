"""N:M from dense weights: the mask decays, or the pattern tightens."""

import math
import numbers
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from ong_jax import masks, pruners, schedules, scores, selection
from ong_jax.checks import check_function, check_list
from ong_jax.method import SparseMethod
from ong_jax.patterns import Pattern
from ong_jax.states import remask, state_of
from ong_jax.transforms import masked_transform
from ong_jax.types import Mask, Predicate, Score


def _linearly(progress: float) -> float:
  return 1 - progress


def mask_decay(
  pattern: Pattern,
  *,
  start: int,
  end: int,
  fade: Callable[[float], float] = _linearly,
  score: Score = scores.magnitude,
  prunable: Predicate = selection.is_kernel,
) -> SparseMethod:
  """Fades out what a pattern would prune, then trains what is left.

  Training is dense until step `start`. Then the network runs on

      w (M + beta (1 - M)),

  M being what the pattern chooses of the weights of this step, and beta falling
  from 1 to 0. Gradients are those of this product with M held, so those of what
  fades carry beta. From step `end` on M is fixed, and what it prunes is 0, with
  its moments.

  Args:
    pattern: `patterns.n_of_m`, `unstructured`, or another.
    start: updates before beta begins to fall, at least 0.
    end: updates after which beta is 0, above `start`. Leave time to train.
    fade: `progress -> beta`, in Python's floats: from 1 at 0, and in [0, 1] for
      progress in (0, 1). By default 1 - progress; `lambda x: math.exp(-5 * x)`
      is exponential. At `end` beta is 0, whatever it would be.
    score: of the weights, by which the pattern chooses. Whole channels want
      `patterns.per_channel(names, scores.magnitude)`.
    prunable: `(path, leaf) -> bool`.

  Returns:
    A `SparseMethod`. Training must pass a key to `effective`, which draws
    nothing but tells it from evaluation: without one, it returns what `finish`
    would, which has the pattern at any step, also while training is dense. The
    mask in the state keeps everything until `end`.

  Raises:
    ValueError: steps are not in order, or `fade` returns no beta.
    TypeError: `pattern` is none.

  References:
    Kao et al., Training recipe for N:M structured sparsity with decaying
    pruning mask, 2022, arXiv:2209.07617.

  Example:
    >>> from ong_jax import patterns
    >>> method = mask_decay(patterns.n_of_m(1, 2), start=0, end=2)
    >>> params = {'kernel': jnp.array([[1.0], [2.0]])}
    >>> tx = method.transform(optax.sgd(0.0))
    >>> _, opt_state = tx.update(params, tx.init(params), params)
    >>> key = jax.random.key(0)
    >>> method.effective(params, opt_state, key)['kernel'].ravel()
    Array([0.5, 2. ], dtype=float32)
    >>> method.effective(params, opt_state)['kernel'].ravel()
    Array([0., 2.], dtype=float32)
  """
  schedules.check_steps(end=end)
  if not isinstance(start, numbers.Integral) or not 0 <= start < end:
    raise ValueError(
      f'`start` must be an integer in [0, {end}), below `end`; got {start!r}.'
    )
  check_function('fade', fade, '`lambda progress: 1 - progress`')
  betas = _tabulate(fade, end - start)
  prune = pruners.one_shot(score, pattern=pattern, prunable=prunable)

  def first(params):  # Of all that the pattern can prune; it is refused now.
    return jax.tree.map(jnp.ones_like, prune(params))

  def renew(params, state):
    return remask(state, choose(params, state, state.count == end))

  def choose(params, state, due):
    params = jax.lax.stop_gradient(params)
    return jax.lax.cond(due, lambda: prune(params), lambda: state.mask)

  def effective(trainable, opt_state, key=None):
    state = state_of(opt_state)
    if key is None:
      return finish(trainable, opt_state)[0]
    fades = (start < state.count) & (state.count < end)
    mask = choose(trainable, state, fades)
    row = jnp.clip(state.count - start, 0, end - start)
    beta = jnp.array(betas, jnp.float32)[row]
    masks.check_like(trainable, mask)
    return jax.tree.map(
      lambda w, m: w if m is None else jnp.where(m, w, _times(beta, w)),
      trainable,
      mask,
    )

  def finish(trainable, opt_state, key=None):
    del key
    state = state_of(opt_state)
    mask = choose(trainable, state, state.count < end)
    return masks.apply_mask(trainable, mask), mask

  return SparseMethod(
    lambda inner: masked_transform(inner, first, renew), effective, finish
  )


def _tabulate(fade: Callable[[float], float], num_steps: int) -> list[float]:
  """Makes beta for each step, from 1 to 0."""
  table = []
  for step in range(num_steps):
    beta = float(fade(step / num_steps))
    if not 0 <= beta <= 1 or (step == 0 and beta != 1):
      raise ValueError(
        '`fade` must return 1 for 0, and numbers in [0, 1] for those between 0 '
        f'and 1; got {beta:g} for {step / num_steps:g}.'
      )
    table.append(beta)
  return [*table, 0.0]


def _times(beta: jax.Array, w: jax.Array) -> jax.Array:
  return jnp.where(beta > 0, beta.astype(w.dtype) * w, jnp.zeros_like(w))


def structure_decay(
  patterns: Sequence[Pattern],
  *,
  boundaries: Sequence[int],
  score: Score = scores.magnitude,
  prunable: Predicate = selection.is_kernel,
) -> SparseMethod:
  """Prunes by one pattern after the other, each tighter than the last.

  Such as 3 of every 4, then 2, then 1. Training is dense before the first of
  them; each chooses among the weights that are kept, and the last one stays.
  Pruned weights are 0 at all times. They are 0 for good where a pattern finds
  enough among what is kept, as smaller n of the same m do; if not, it fills up
  with pruned ones, which start at 0.

  Args:
    patterns: from the loosest to the target.
    boundaries: a step for each, rising: the updates after which it prunes; 0
      prunes at the outset.
    score: of the weights, by which the patterns choose. Whole channels want
      `ong_jax.patterns.per_channel(names, scores.magnitude)`.
    prunable: `(path, leaf) -> bool`.

  Returns:
    A `SparseMethod`. `effective`, with and without a key, and `finish` return
    what is kept so far: the target from the last boundary on.

  Raises:
    ValueError: at once, if steps are not in order; when the optimizer state is
      made, if a pattern keeps more than the one before, unless that is jitted.
    TypeError: one of `patterns` is none.

  References:
    Kao et al., Training recipe for N:M structured sparsity with decaying
    pruning mask, 2022, arXiv:2209.07617.

  Example:
    >>> from ong_jax.patterns import n_of_m
    >>> method = structure_decay(
    ...   [n_of_m(2, 3), n_of_m(1, 3)], boundaries=[0, 1]
    ... )
    >>> params = {'kernel': jnp.array([[1.0], [2.0], [3.0]])}
    >>> tx = method.transform(optax.sgd(0.0))
    >>> first = tx.init(params)
    >>> method.effective(params, first)['kernel'].ravel()
    Array([0., 2., 3.], dtype=float32)
    >>> updates, second = tx.update(params, first, params)
    >>> optax.apply_updates(params, updates)['kernel'].ravel()
    Array([0., 0., 3.], dtype=float32)
  """
  check_list('patterns', patterns)
  check_list('boundaries', boundaries)
  patterns, boundaries = tuple(patterns), tuple(boundaries)
  _check_boundaries(boundaries, len(patterns))
  prunes = [
    pruners.one_shot(score, pattern=pattern, prunable=prunable)
    for pattern in patterns
  ]

  def first(params):
    found = [prune(params) for prune in prunes]  # All are refused now.
    _check_tighter(found)
    if boundaries[0] == 0:
      return found[0]
    return jax.tree.map(jnp.ones_like, found[0])

  def tighten(pattern, params, mask):
    ranked = jax.tree.map(
      lambda s, k: jnp.where(k, s, -jnp.inf),
      score(selection.select(params, prunable)),
      pattern.collapse(mask),
    )
    return pattern.expand(pattern.choose(ranked), params)

  def renew(params, state):
    due = jnp.array(boundaries, jnp.int32) == state.count
    branches = [
      lambda: state.mask,
      *(lambda p=p: tighten(p, params, state.mask) for p in patterns),
    ]
    branch = jnp.where(due.any(), due.argmax() + 1, 0)
    return remask(state, jax.lax.switch(branch, branches))

  return SparseMethod(lambda inner: masked_transform(inner, first, renew))


def _check_boundaries(boundaries: Sequence[int], num_patterns: int) -> None:
  if not num_patterns or len(boundaries) != num_patterns:
    raise ValueError(
      '`boundaries` must have one step for each of `patterns`, of which there '
      f'must be some; got {len(boundaries)} for {num_patterns}.'
    )
  last = -1
  for step in boundaries:
    if not isinstance(step, numbers.Integral) or step <= last:
      raise ValueError(
        '`boundaries` must be integers of at least 0, each above the one '
        f'before; got {list(boundaries)}.'
      )
    last = step


def _check_tighter(found: list[Mask]) -> None:
  if any(isinstance(m, jax.core.Tracer) for m in jax.tree.leaves(found)):
    return
  most = math.inf
  for i, mask in enumerate(found):
    kept = sum(int(m.sum()) for m in jax.tree.leaves(mask))
    if kept > most:
      raise ValueError(
        f'`patterns` must go from the loosest to the target: number {i} keeps '
        f'{kept} weights, the one before only {most}.'
      )
    most = kept
