"""Which inputs meet which weights, read off the program that a network is.

Whatever library a network is written in, JAX sees it as matrix products and
convolutions. Following the weights to those tells which axes of a kernel are
inputs, and what they are fed: nothing has to be known of layers, and no module
has to be changed.
"""

import functools
import itertools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np

from ong_jax import selection
from ong_jax.program import Kernel, evaluate
from ong_jax.types import Params, Predicate

# (params, batch) -> anything: a network that is run.
Apply = Callable[[Params, Any], Any]
# [groups, positions, fan_in] -> a tree that can be added up over batches.
Statistic = Callable[[jax.Array], Any]


class Layer(NamedTuple):
  """What one kernel is multiplied by, or a part of it."""

  leaf: int  # Which of the leaves of the weights.
  name: str
  # int [groups, fan_in, outputs]: where in the flat leaf each weight is.
  index: np.ndarray


def find(
  apply: Apply,
  params: Params,
  batch: Any,
  prunable: Predicate = selection.is_kernel,
) -> list[Layer]:
  """Lists the layers in the order in which data meet them; computes nothing.

  Args:
    apply: `(params, batch) -> outputs`.
    params: of the network.
    batch: one, of which only the shapes are read.
    prunable: `(path, leaf) -> bool`.

  Raises:
    ValueError: a weight meets no input, or in a way that cannot be followed:
      through arithmetic, or inside a loop. The leaf is named.

  Example:
    >>> def apply(params, x):
    ...   return x @ params['kernel'].reshape(4, 6)
    >>> params = {'kernel': jnp.ones((4, 2, 3))}
    >>> [layer.index.shape for layer in find(apply, params, jnp.ones((5, 4)))]
    [(1, 4, 6)]
  """
  layers = []

  def run(params, batch):
    found, _ = _observe(apply, params, batch, prunable, lambda x, layer: ())
    layers.extend(found)

  jax.eval_shape(run, params, batch)
  _check_all_are_met(layers, selection.select(params, prunable))
  return layers


def observer(
  apply: Apply,
  statistic: Statistic,
  batches: Iterable[Any],
  prunable: Predicate = selection.is_kernel,
) -> Callable[[Params, Iterable[int]], list[Any]]:
  """Makes what adds up over batches what the inputs of layers have to say.

  Args:
    apply: `(params, batch) -> outputs`.
    statistic: of the inputs of a layer, [groups, positions, fan_in] in float32
      at least. Positions are those of all examples, pixels or tokens; leave
      padding out of the batches.
    batches: anything that can be iterated more than once.
    prunable: `(path, leaf) -> bool`.

  Returns:
    A function of the params and of numbers of leaves of the weights: a sum for
    every layer of these leaves, in the order of `find`. Nothing that comes
    after them in the network is computed.

  Example:
    >>> def apply(params, x):
    ...   return x @ params['kernel']
    >>> batches = [jnp.ones((5, 4)), jnp.ones((5, 4))]
    >>> observe = observer(apply, lambda x: x.shape[1], batches)
    >>> int(observe({'kernel': jnp.ones((4, 2))}, [0])[0])
    10
  """

  @functools.partial(jax.jit, static_argnames='leaves')
  def run(params, batch, leaves):
    def of_layer(x, layer):
      return statistic(x) if layer.leaf in leaves else None

    _, found = _observe(apply, params, batch, prunable, of_layer)
    return [x for x in found if x is not None]

  def observe(params, leaves):
    total = None
    for batch in batches:
      found = run(params, batch, leaves=tuple(leaves))
      total = found if total is None else jax.tree.map(jnp.add, total, found)
    if total is None:
      raise ValueError('`batches` must hold at least one batch.')
    return total

  return observe


def _observe(apply, params, batch, prunable, of_layer):
  """Runs a network: the layers that its weights are, and what is said of each.

  Of a layer that is met more than once, the sum.
  """
  # A function of its own: JAX keeps the program of one that it has seen.
  closed = jax.make_jaxpr(lambda *args: apply(*args))(params, batch)
  weights = jax.tree_util.tree_leaves_with_path(
    selection.select(params, prunable), is_leaf=lambda x: x is None
  )
  kernels, number = [], itertools.count()
  for path, w in weights:
    kernels.append(
      None
      if w is None
      else Kernel(
        next(number),
        selection.name_of(path),
        np.arange(w.size).reshape(w.shape),
      )
    )
  layers, found = {}, {}

  def meet(kernel, index, x):
    layer = Layer(kernel.leaf, kernel.name, index)
    key = kernel.leaf, index.shape, index.tobytes()
    layers.setdefault(key, layer)
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    new = of_layer(x, layer)
    old = found.get(key)
    found[key] = new if old is None else jax.tree.map(jnp.add, old, new)

  values = jax.tree.leaves((params, batch))
  kernels += [None] * (len(values) - len(kernels))
  evaluate(closed.jaxpr, closed.consts, values, kernels, meet)
  return list(layers.values()), list(found.values())


def _check_all_are_met(layers: list[Layer], weights: Any) -> None:
  for leaf, (path, w) in enumerate(
    jax.tree_util.tree_leaves_with_path(weights)
  ):
    met = np.zeros(w.size, bool)
    for layer in layers:
      if layer.leaf == leaf:
        met[layer.index] = True
    if not met.all():
      raise ValueError(
        f"Of leaf '{selection.name_of(path)}', {w.size - met.sum()} of "
        f'{w.size} weights meet no input when the network is run. Pass a '
        '`prunable` that leaves it out.'
      )
