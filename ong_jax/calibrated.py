"""What data say of each weight, and the pruners that go by it.

A measure is a function of the params to a tree like their weights, which
`one_shot` ranks instead of the weights themselves. So every score can be made
of it, floors and controls included:

    one_shot(
      scores.at_least(scores.identity, 1),
      0.95,
      allocate=allocation.pooled,
      measure=sensitivity(loss, batches),
    )

Batches are seen one after the other, and none is held.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from ong_jax import allocation, scores, selection
from ong_jax.batches import check_batches, mean_over_batches
from ong_jax.checks import check_function
from ong_jax.pruners import one_shot
from ong_jax.saliency import at_least_float32
from ong_jax.types import (
  Allocation,
  Measure,
  Params,
  Predicate,
  Pruner,
  Weights,
)

# (params, batch) -> [] float.
Loss = Callable[[Params, Any], jax.Array]


def gradients(
  loss: Loss, batches: Iterable[Any]
) -> Callable[[Params], Iterator[Params]]:
  """Makes `params -> gradients`, one batch after the other.

  Args:
    loss: `(params, batch) -> [] float`.
    batches: anything that can be iterated more than once, such as a list.

  Raises:
    TypeError: `batches` can be iterated only once.

  Example:
    >>> find = gradients(lambda params, batch: params['w'] * batch, [2.0, 3.0])
    >>> [float(grads['w']) for grads in find({'w': jnp.array(1.0)})]
    [2.0, 3.0]
  """
  check_function('loss', loss, 'one of params and batch')
  check_batches(batches)
  gradient = jax.jit(jax.grad(loss))
  return lambda params: (gradient(params, batch) for batch in batches)


def sensitivity(
  loss: Loss,
  batches: Iterable[Any],
  prunable: Predicate = selection.is_kernel,
) -> Measure:
  """Measures |w dL/dw|, L the mean of the loss over all batches.

  That is |dL/dc| where c = 1 multiplies the weight: how much the loss depends
  on its being there.

  Args:
    loss: `(params, batch) -> [] float`; with BatchNorm in training mode, if
      there is any.
    batches: anything that can be iterated more than once; of equal size, or
      the examples of a smaller one weigh more.
    prunable: `(path, leaf) -> bool`.

  References:
    Lee et al., SNIP: single-shot network pruning based on connection
    sensitivity, 2019, arXiv:1810.02340.

  Example:
    >>> def loss(params, batch):
    ...   return jnp.sum(params['kernel'] * batch)
    >>> measure = sensitivity(loss, [jnp.ones((1, 2)), jnp.zeros((1, 2))])
    >>> measure({'kernel': jnp.array([[4.0, -2.0]])})
    {'kernel': Array([[2., 1.]], dtype=float32)}
  """
  check_function('loss', loss, 'one of params and batch')
  check_batches(batches)
  gradient = jax.jit(jax.grad(_of_weights(loss)))

  def measure(params):
    weights = selection.select(params, prunable)
    grads = mean_over_batches(
      gradient(weights, params, batch) for batch in batches
    )
    return jax.tree.map(lambda w, g: jnp.abs(_product(w, g)), weights, grads)

  return measure


def gradient_flow(
  loss: Loss,
  batches: Iterable[Any],
  prunable: Predicate = selection.is_kernel,
) -> Measure:
  """Measures w (H g): what removing a weight costs the norm of the gradient.

  g is the gradient of the mean loss in the prunable weights, H its Hessian.
  Positive and negative differ: weights whose removal would raise |g|^2 have the
  lowest values. Goes over all batches twice.

  Args:
    loss: `(params, batch) -> [] float`, twice differentiable. In the paper, of
      logits divided by 200.
    batches: anything that can be iterated more than once; in the paper ten
      examples of each class.
    prunable: `(path, leaf) -> bool`.

  References:
    Wang et al., Picking winning tickets before training by preserving gradient
    flow, 2020, arXiv:2002.07376.

  Example:
    >>> def loss(params, batch):  # H is the identity, and g = w.
    ...   return 0.5 * jnp.sum(params['kernel'] ** 2)
    >>> gradient_flow(loss, [None])({'kernel': jnp.array([[3.0, -2.0]])})
    {'kernel': Array([[9., 4.]], dtype=float32)}
  """
  check_function('loss', loss, 'one of params and batch')
  check_batches(batches)
  gradient = jax.jit(jax.grad(_of_weights(loss)))

  @jax.jit
  def curvature(weights, direction, params, batch):
    direction = jax.tree.map(lambda w, g: g.astype(w.dtype), weights, direction)
    return jax.jvp(
      lambda w: gradient(w, params, batch), (weights,), (direction,)
    )[1]

  def measure(params):
    weights = selection.select(params, prunable)
    direction = mean_over_batches(
      gradient(weights, params, batch) for batch in batches
    )
    _check_gradient(direction)
    products = mean_over_batches(
      curvature(weights, direction, params, batch) for batch in batches
    )
    return jax.tree.map(_product, weights, products)

  return measure


def snip(
  loss: Loss,
  batches: Iterable[Any],
  *,
  sparsity: float,
  allocate: Allocation = allocation.pooled,
  prunable: Predicate = selection.is_kernel,
) -> Pruner:
  """Makes a pruner by connection sensitivity, |w dL/dw|, at initialization.

  Its ranking depends on how each layer was scaled when it was drawn. Shuffled
  inside each layer its masks are known to train as well (Frankle et al., 2020,
  arXiv:2009.08576): compare with `controls.shuffle`.

  Args:
    loss, batches: see `sensitivity`; in the paper one batch of 100 or 128.
    sparsity: fraction of the prunable weights to remove, in [0, 1).
    allocate: how the budget is split; by default one ranking over all leaves.
    prunable: `(path, leaf) -> bool`.

  Returns:
    A function `params -> mask`; see `one_shot`.

  References:
    Lee et al., SNIP: single-shot network pruning based on connection
    sensitivity, 2019, arXiv:1810.02340.

  Example:
    >>> def loss(params, batch):
    ...   return jnp.sum(params['kernel'] * batch)
    >>> prune = snip(loss, [jnp.array([[1.0, 5.0]])], sparsity=0.5)
    >>> prune({'kernel': jnp.array([[4.0, -2.0]])})
    {'kernel': Array([[False,  True]], dtype=bool)}
  """
  return one_shot(
    scores.identity,
    sparsity,
    allocate=allocate,
    prunable=prunable,
    measure=sensitivity(loss, batches, prunable),
  )


def grasp(
  loss: Loss,
  batches: Iterable[Any],
  *,
  sparsity: float,
  allocate: Allocation = allocation.pooled,
  prunable: Predicate = selection.is_kernel,
) -> Pruner:
  """Makes a pruner that preserves the gradient's norm, at initialization.

  Args:
    loss, batches: see `gradient_flow`.
    sparsity: fraction of the prunable weights to remove, in [0, 1).
    allocate: how the budget is split; by default one ranking over all leaves.
    prunable: `(path, leaf) -> bool`.

  Returns:
    A function `params -> mask`; see `one_shot`.

  References:
    Wang et al., Picking winning tickets before training by preserving gradient
    flow, 2020, arXiv:2002.07376.

  Example:
    >>> def loss(params, batch):
    ...   return 0.5 * jnp.sum(params['kernel'] ** 2)
    >>> prune = grasp(loss, [None], sparsity=0.5)
    >>> prune({'kernel': jnp.array([[3.0, -2.0]])})
    {'kernel': Array([[ True, False]], dtype=bool)}
  """
  return one_shot(
    scores.identity,
    sparsity,
    allocate=allocate,
    prunable=prunable,
    measure=gradient_flow(loss, batches, prunable),
  )


def _of_weights(loss: Loss) -> Callable[[Weights, Params, Any], jax.Array]:
  """Takes the weights apart, so that nothing else need be differentiable."""

  def of_weights(weights, params, batch):
    params = jax.tree.map(lambda p, w: p if w is None else w, params, weights)
    value = loss(params, batch)
    if jnp.shape(value):
      raise TypeError(
        '`loss` must return a scalar, such as a mean over the batch; its shape '
        f'is {jnp.shape(value)}.'
      )
    return value

  return of_weights


def _check_gradient(grads: Weights) -> None:
  """Raises a `ValueError`: what is NaN everywhere has a curvature of 0."""
  for path, g in jax.tree_util.tree_leaves_with_path(grads):
    if isinstance(g, jax.core.Tracer):
      continue
    if num_bad := g.size - int(jnp.isfinite(g).sum()):
      raise ValueError(
        f"Of leaf '{selection.name_of(path)}', {num_bad} measured values are "
        'not finite: its gradient. Look at the batches, and at the loss.'
      )


def _product(w: jax.Array, x: jax.Array) -> jax.Array:
  return at_least_float32(w) * at_least_float32(x)
