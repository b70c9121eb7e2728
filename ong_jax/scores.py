"""What a weight is ranked by: scores of weights, and scores made from scores.

A score is a function `weights -> scores`, higher is kept longer. Weights and
scores are trees with `None` where nothing is prunable.
"""

import numbers
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ong_jax.checks import check_function, check_key, check_names
from ong_jax.devices import whole
from ong_jax.ranking import flat_index
from ong_jax.saliency import (
  Rank,
  Saliency,
  at_least_float32,
  evaluate,
  tempered,
)
from ong_jax.selection import input_axes, leaf_keys
from ong_jax.types import InputAxes, Score, Scores, Weights


def magnitude(weights: Weights) -> Scores:
  """Scores by |w|.

  Example:
    >>> magnitude({'kernel': jnp.array([-2.0, 1.0])})
    {'kernel': Array([2., 1.], dtype=float32)}
  """
  return jax.tree.map(jnp.abs, weights)


def identity(weights: Weights) -> Scores:
  """Scores by the values as they are: for a measure that is a score itself.

  Example:
    >>> identity({'kernel': jnp.array([-2.0, 1.0])})
    {'kernel': Array([-2.,  1.], dtype=float32)}
  """
  return weights


def random(key: jax.Array) -> Score:
  """Scores at random, uniform in [0, 1), float32.

  Each leaf draws from its own key, made from its path, so that a layer more or
  less does not change the draw of the others.

  Args:
    key: a key of `jax.random.key`.

  Example:
    >>> scores = random(jax.random.key(0))({'kernel': jnp.ones((2, 2))})
    >>> scores['kernel'].shape
    (2, 2)
  """

  check_key(key)

  def draw(w, k):
    # As a matrix: the same numbers, which compile faster than those of a
    # convolution, and are split as its kernel where that is by its last axis.
    columns = w.shape[-1] if w.ndim else 1
    draws = jax.random.uniform(k, (w.size // columns, columns), jnp.float32)
    return draws.reshape(w.shape)

  return lambda weights: jax.tree.map(draw, weights, leaf_keys(key, weights))


def ong(
  key: jax.Array,
  *,
  saliency: Saliency = tempered,
  rank: Rank = 1,
  inputs: InputAxes = input_axes,
  **options: Any,
) -> Score:
  """Scores by a non-negative matrix factorization of |W|, V ~ W H.

  ONG's formula could not be read in its paper. What its authors' later work on
  pruning uses is `saliency=saliency.residual, rank=7`, the reconstructed ONG.
  The defaults are what our comparison supports (results/README.md): level with
  it at the outset, and close to magnitude on trained weights, where the
  residual destroys the network. At rank 1 the start changes the scores by
  rounding alone.

  A factorization sees its kernel whole, so one that is split over devices is
  gathered.

  Args:
    key: of the factorizations' starts. The same weights and the same key give
      the same scores.
    saliency: what is made of V [m, n] and its factors: `tempered`, `residual`,
      `recon` and the others of `ong_jax.saliency`, or your own
      `(v, w, h) -> [m, n]`. A matrix with a single row or column has no
      structure to find and is scored by magnitude.
    rank: of the factorization, lowered to half the smaller side; or a function
      of the matrix.
    inputs: `(path, leaf) -> int`, how many axes of a kernel are its fan-in.
    **options: of `nmf.nmf`: solver, start, max_sweeps, tol, restarts.

  References:
    Behera and Prasad, ONG: One-Shot NMF-based Gradient Masking for Efficient
    Model Sparsification, 2025, arXiv:2508.12891.

  Example:
    >>> score = ong(jax.random.key(0), rank=1)
    >>> scores = score({'kernel': jnp.ones((16, 16)).at[1, 2].set(2.0)})
    >>> jnp.unravel_index(scores['kernel'].argmax(), (16, 16))
    (Array(1, dtype=int32), Array(2, dtype=int32))
  """

  check_key(key)
  check_function('saliency', saliency, '`ong_jax.saliency.tempered`')
  check_names(options, ('solver', 'start', 'max_sweeps', 'tol', 'restarts'))
  if not callable(rank):
    _check_count('rank', rank, lowest=1)
  return lambda weights: evaluate(key, weights, saliency, rank, options, inputs)


def normalized(score: Score) -> Score:
  """Divides each leaf's scores by their root mean square.

  So that a pooled ranking does not depend on the scale of a layer.

  Example:
    >>> normalized(magnitude)({'kernel': jnp.array([3.0, 3.0])})
    {'kernel': Array([1., 1.], dtype=float32)}
  """

  def normalize(s):
    s = _near_one(at_least_float32(whole(s)))
    rms = jnp.sqrt(jnp.mean(jnp.square(s)))
    return s / jnp.where(rms > 0, rms, 1)

  return lambda weights: jax.tree.map(normalize, score(weights))


def lamp(score: Score) -> Score:
  """Divides each squared score by the sum of those that are not below it.

  Layer-adaptive: in each leaf the highest score becomes 1, so that no leaf is
  emptied before all are down to one weight. Sorts every leaf, for which one
  that is split over devices is gathered. The order inside a leaf is kept up to
  float32 rounding.

  References:
    Lee et al., Layer-adaptive sparsity for the magnitude-based pruning, 2021,
    arXiv:2010.07611.

  Example:
    >>> lamp(magnitude)({'kernel': jnp.array([1.0, 3.0, 1.0])})['kernel']
    Array([0.09090909, 1.        , 0.09090909], dtype=float32)
  """

  def adapt(s):
    s = _near_one(at_least_float32(whole(s)))
    squares = jnp.square(s).ravel()
    ascending = jnp.sort(squares)
    tails = jnp.cumsum(ascending[::-1])[::-1]  # From each to the highest.
    first = jnp.searchsorted(ascending, squares)  # Equal ones share a sum.
    tail = tails[first]
    return (squares / jnp.where(tail > 0, tail, 1)).reshape(s.shape)

  return lambda weights: jax.tree.map(adapt, score(weights))


def at_least(score: Score, num_weights: int, axis: int = -1) -> Score:
  """Puts a floor under every filter: its best weights score infinity.

  A filter is a slice of the last axis (Flax's output features); of a
  convolution or a dense kernel, an input channel is one of the axis before. The
  weights that a floor adds are paid for by the lowest elsewhere, since the
  count stays what it was; a budget too small for all floors is refused by
  `one_shot`. A floor of a floor has both: weights that the first one raised
  count for the second.

  Args:
    score: the score that decides within and beyond the floors.
    num_weights: kept in every filter at least, or all if it has fewer; 0 is no
      floor.
    axis: -1, or -2: in every slice of the axis before the last, of which a
      depthwise kernel and an array of one dimension have one, and an attention
      kernel [inputs, heads, features] one a head.

  Example:
    >>> weights = {'kernel': jnp.array([[9.0, 1.0], [8.0, 2.0]])}
    >>> at_least(magnitude, 1)(weights)['kernel']
    Array([[inf,  1.],
           [ 8., inf]], dtype=float32)
    >>> at_least(magnitude, 1, axis=-2)(weights)['kernel']
    Array([[inf,  1.],
           [inf,  2.]], dtype=float32)
  """

  _check_count('num_weights', num_weights, lowest=0)
  if axis not in (-1, -2) or not isinstance(axis, numbers.Integral):
    raise ValueError(f'`axis` must be -1 or -2; got {axis!r}.')

  def raise_floor(s):
    s, shape = jnp.atleast_2d(s), s.shape
    others = tuple(i for i in range(s.ndim) if i != s.ndim + axis)
    place, none = flat_index(s.shape), ~jnp.uint32(0)

    def raise_next(_, best):  # One after the other: `top_k` would gather.
      # By place, as the best of what is left may itself be -inf.
      rest = jnp.where(best, -jnp.inf, s)
      left = ~best & (rest == rest.max(others, keepdims=True))
      first = jnp.where(left, place, none).min(others, keepdims=True)
      return best | (place == first)

    best = jnp.zeros_like(s, bool)
    num_raised = min(num_weights, s.size // s.shape[axis])
    best = jax.lax.fori_loop(0, num_raised, raise_next, best)
    return jnp.where(best, jnp.inf, s).reshape(shape)

  return lambda weights: jax.tree.map(raise_floor, score(weights))


def average(scores: Sequence[Score]) -> Score:
  """Averages scores, such as those of several starts of a factorization.

  Example:
    >>> average([magnitude, magnitude])({'kernel': jnp.array([-2.0])})
    {'kernel': Array([2.], dtype=float32)}
  """
  if callable(scores):
    raise TypeError('`scores` must be a list of scores; got one. Pass `[it]`.')
  if not scores:
    raise ValueError('`scores` must have at least one score.')

  def mean(*leaves):  # Wide: a sum overflows half precision.
    return sum(map(at_least_float32, leaves)) / len(leaves)

  return lambda weights: jax.tree.map(mean, *[s(weights) for s in scores])


def _near_one(s: jax.Array) -> jax.Array:
  """Scales a leaf so that its squares neither overflow nor vanish.

  By a power of two, which rounds nothing. Infinite scores, as floors are, stay.
  """
  highest = jnp.max(jnp.where(jnp.isinf(s), 0, jnp.abs(s)), initial=0)
  return jnp.ldexp(s, -jnp.frexp(highest)[1])


def _check_count(name: str, value: int, lowest: int) -> None:
  if not isinstance(value, numbers.Integral) or value < lowest:
    raise ValueError(
      f'`{name}` must be an integer of at least {lowest}; got {value!r}.'
    )
