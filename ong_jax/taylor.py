"""What removing something would cost to first order, averaged over batches."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ong_jax import channels as groups
from ong_jax import selection
from ong_jax.types import Params, Predicate, Scores

# (params, their gradients on one batch) -> scores, to be averaged.
Observe = Callable[[Params, Params], Scores]


class Average(NamedTuple):
  """A mean over batches, of which none is held."""

  total: Scores
  count: jax.Array  # [] int32


def weights(prunable: Predicate = selection.is_kernel) -> Observe:
  """Scores each weight by |w dL/dw|: how far the loss would move without it.

  References:
    Molchanov et al., Pruning convolutional neural networks for resource
    efficient inference, 2017, arXiv:1611.06440.

  Example:
    >>> params = {'kernel': jnp.array([[2.0, -1.0]])}
    >>> weights()(params, {'kernel': jnp.array([[-3.0, 1.0]])})
    {'kernel': Array([[6., 1.]], dtype=float32)}
  """

  def observe(params, grads):
    return jax.tree.map(
      lambda w, g: jnp.abs(_product(w, g)),
      selection.select(params, prunable),
      selection.select(grads, prunable),
    )

  return observe


def channels(names: Any) -> Observe:
  """Scores each channel by |sum of gamma dL/dgamma + beta dL/dbeta|.

  The sum is over the BatchNorms of all layers that the channel is tied through.
  Where a group has none, it is over w dL/dw of the kernels that write it, and
  of their biases.

  Args:
    names: tree like the params, a `PartitionSpec` for a leaf: for each axis the
      name of the group of channels that it is, or None.

  Returns:
    A function to a dict of arrays [channels], float32, by group.

  References:
    Molchanov et al., Importance estimation for neural network pruning, 2019,
    arXiv:1906.10771. Shen et al., Structural pruning via latency-saliency
    knapsack, 2022, arXiv:2210.06659.

  Example:
    >>> from jax.sharding import PartitionSpec as P
    >>> names = {'scale': P('a'), 'bias': P('a')}
    >>> ones = {'scale': jnp.ones(2), 'bias': jnp.ones(2)}
    >>> grads = {'scale': jnp.array([1.0, 2.0]), 'bias': jnp.array([1.0, -2.0])}
    >>> channels(names)(ones, grads)
    {'a': Array([2., 0.], dtype=float32)}
  """

  def observe(params, grads):
    groups.sizes(names, params)  # Refuses what does not fit.
    leaves, treedef = jax.tree_util.tree_flatten_with_path(params)
    paths = {path for path, _ in leaves}
    terms = {True: {}, False: {}}  # Of BatchNorm, and of other layers.
    for (path, w), g, spec in zip(
      leaves, treedef.flatten_up_to(grads), treedef.flatten_up_to(names)
    ):
      if spec and spec[-1] is not None:
        total = _product(w, g).reshape(-1, w.shape[-1]).sum(0)
        terms[_is_norm(path, paths)].setdefault(spec[-1], []).append(total)
    return {
      group: jnp.abs(sum(found))
      for group, found in (terms[False] | terms[True]).items()
    }

  return observe


def _product(w: jax.Array, g: jax.Array) -> jax.Array:
  return w.astype(jnp.float32) * g.astype(jnp.float32)


def _is_norm(path: Any, paths: set) -> bool:
  """Whether a leaf is a `scale`, or a bias beside one."""
  names = [selection.name_of(p).removesuffix('/value') for p in (path, *paths)]
  layer = names[0].rpartition('/')[0]
  return f'{layer}/scale'.lstrip('/') in names[1:]


def nothing(observe: Observe, params: Params) -> Average:
  """Returns the average of no batch.

  Example:
    >>> int(nothing(weights(), {'kernel': jnp.ones((1, 2))}).count)
    0
  """
  shapes = jax.eval_shape(observe, params, params)
  zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
  return Average(zeros, jnp.zeros([], jnp.int32))


def add(average: Average, scores: Scores, when: Any = True) -> Average:
  """Adds a batch, unless something in it is not finite.

  Args:
    average: so far.
    scores: of the batch.
    when: [] bool, may be traced; if not, nothing is added.

  Example:
    >>> average = Average(jnp.zeros(1), jnp.array(0))
    >>> average = add(average, jnp.array([3.0]))
    >>> mean(add(average, jnp.array([jnp.nan])))
    Array([3.], dtype=float32)
  """
  for leaf in jax.tree.leaves(scores):
    when &= jnp.isfinite(leaf).all()
  total = jax.tree.map(
    lambda x, y: x + jnp.where(when, y, 0), average.total, scores
  )
  return Average(total, average.count + when)


def mean(average: Average) -> Scores:
  """Returns the mean; zeros, if there was no batch.

  Example:
    >>> mean(Average(jnp.array([6.0]), jnp.array(2)))
    Array([3.], dtype=float32)
  """
  return jax.tree.map(
    lambda x: x / jnp.maximum(average.count, 1), average.total
  )


def over(
  observe: Observe, params: Params, gradients: Iterable[Params]
) -> Scores:
  """Averages over batches, of whose gradients one is held at a time.

  Example:
    >>> ones = {'kernel': jnp.ones((1, 2))}
    >>> batches = ({'kernel': jnp.full((1, 2), x)} for x in (1.0, -3.0))
    >>> over(weights(), ones, batches)
    {'kernel': Array([[2., 2.]], dtype=float32)}
  """
  average = nothing(observe, params)
  for grads in gradients:
    average = add(average, observe(params, grads))
  return mean(average)
