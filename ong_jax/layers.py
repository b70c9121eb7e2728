"""Which inputs meet which weights, read off the program that a network is.

Whatever library a network is written in, JAX sees it as matrix products and
convolutions. Following the weights to those tells which axes of a kernel are
inputs, and what they are fed: nothing has to be known of layers, and no module
has to be changed.
"""

import functools
import itertools
import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np

from ong_jax import selection
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


class _Kernel(NamedTuple):
  """A value that is weights in another order."""

  leaf: int
  name: str
  index: np.ndarray  # Of the shape of the value.


# What changes the order of weights, and what changes nothing.
_REORDERS = ('reshape', 'transpose', 'squeeze', 'slice', 'split', 'rev')
_KEEPS = ('convert_element_type', 'copy', 'name', 'sharding_constraint')
_LOOPS = ('scan', 'while', 'cond')


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


def observe(
  apply: Apply,
  statistic: Statistic,
  batches: Iterable[Any],
  params: Params,
  leaves: Iterable[int],
  prunable: Predicate = selection.is_kernel,
) -> list[Any]:
  """Adds up over batches what the inputs of some leaves have to say.

  Nothing that comes after them in the network is computed.

  Args:
    apply: `(params, batch) -> outputs`.
    statistic: of the inputs of a layer, [groups, positions, fan_in] in float32
      at least. Positions are those of all examples, pixels or tokens; leave
      padding out of the batches.
    batches: anything that can be iterated.
    params: of the network.
    leaves: which of the leaves of the weights.
    prunable: `(path, leaf) -> bool`.

  Returns:
    A sum for every layer of these leaves, in the order of `find`.

  Example:
    >>> def apply(params, x):
    ...   return x @ params['kernel']
    >>> def count(x):
    ...   return x.shape[1]
    >>> params = {'kernel': jnp.ones((4, 2))}
    >>> batches = [jnp.ones((5, 4)), jnp.ones((5, 4))]
    >>> int(observe(apply, count, batches, params, [0])[0])
    10
  """
  total = None
  run = _compiled(apply, statistic, tuple(leaves), prunable)
  for batch in batches:
    found = run(params, batch)
    total = found if total is None else jax.tree.map(jnp.add, total, found)
  if total is None:
    raise ValueError('`batches` must hold at least one batch.')
  return total


@functools.lru_cache(maxsize=256)
def _compiled(apply, statistic, leaves, prunable):
  def of_layer(x, layer):
    return statistic(x) if layer.leaf in leaves else None

  def run(params, batch):
    _, found = _observe(apply, params, batch, prunable, of_layer)
    return [x for x in found if x is not None]

  return jax.jit(run)


def _observe(apply, params, batch, prunable, of_layer):
  """Runs a network: the layers that its weights are, and what is said of each.

  Of a layer that is met more than once, the sum.
  """
  closed = jax.make_jaxpr(apply)(params, batch)
  weights = jax.tree_util.tree_leaves_with_path(
    selection.select(params, prunable), is_leaf=lambda x: x is None
  )
  kernels, number = [], itertools.count()
  for path, w in weights:
    kernels.append(
      None
      if w is None
      else _Kernel(
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
  _run(closed.jaxpr, closed.consts, values, kernels, meet)
  return list(layers.values()), list(found.values())


def _run(jaxpr, consts, values, kernels, meet):
  """Evaluates equations, following the weights; returns values and kernels."""
  env = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *values]))
  followed = {v: k for v, k in zip(jaxpr.invars, kernels) if k is not None}

  def value(v):
    return v.val if isinstance(v, jax.extend.core.Literal) else env[v]

  def kernel(v):
    literal = isinstance(v, jax.extend.core.Literal)
    return None if literal else followed.get(v)

  for eqn in jaxpr.eqns:
    args, ours = [value(v) for v in eqn.invars], [kernel(v) for v in eqn.invars]
    inner = _inner(eqn)
    if any(ours) and inner is not None:
      results, out = _run(inner.jaxpr, inner.consts, args, ours, meet)
    else:
      out = _follow(eqn, args, ours, meet) if any(ours) else []
      bound = eqn.primitive.get_bind_params(eqn.params)
      results = eqn.primitive.bind(*args, **bound)
      if not eqn.primitive.multiple_results:
        results = [results]
    env.update(zip(eqn.outvars, results))
    followed.update((v, k) for v, k in zip(eqn.outvars, out) if k is not None)
  return [value(v) for v in jaxpr.outvars], [kernel(v) for v in jaxpr.outvars]


def _inner(eqn) -> Any:
  """The program that an equation calls, if it just calls one."""
  if eqn.primitive.name in _LOOPS:
    return None
  for name in ('jaxpr', 'call_jaxpr'):
    inner = eqn.params.get(name)
    if isinstance(inner, jax.extend.core.ClosedJaxpr):
      return inner
    if isinstance(inner, jax.extend.core.Jaxpr):
      return jax.extend.core.ClosedJaxpr(inner, ())
  return None


def _follow(eqn, args, ours, meet) -> list[_Kernel]:
  """Says what becomes of weights, or has them meet their inputs."""
  name = eqn.primitive.name
  kernel = next(k for k in ours if k is not None)
  if name in _KEEPS:
    return [kernel]
  if name in _REORDERS:
    with jax.ensure_compile_time_eval():
      index = eqn.primitive.bind(jnp.asarray(kernel.index), **eqn.params)
    index = index if eqn.primitive.multiple_results else [index]
    return [kernel._replace(index=np.asarray(i)) for i in index]
  if sum(k is not None for k in ours) == 1:
    if name == 'dot_general':
      meet(kernel, *_product(eqn.params, args, ours))
      return []
    if name == 'conv_general_dilated' and ours[1]:
      meet(kernel, *_convolution(eqn.params, args[0], kernel.index))
      return []
  raise ValueError(
    f"Leaf '{kernel.name}' goes into a `{name}`; weights can be followed only "
    'to matrix products and convolutions. Pass a `prunable` that leaves it '
    'out, or an `apply` that multiplies by the kernel itself.'
  )


def _product(params, args, ours):
  """Index [groups, fan_in, outputs] and inputs [groups, positions, fan_in]."""
  contracted, batched = params['dimension_numbers']
  side = 0 if ours[0] else 1
  index, x = ours[side].index, args[1 - side]

  def axes(array, of):
    rest = set(range(array.ndim)) - {*contracted[of], *batched[of]}
    return batched[of], contracted[of], sorted(rest)

  def sizes(array, groups):
    return [math.prod(array.shape[i] for i in group) for group in groups]

  groups, inputs, outputs = axes(index, side)
  index = index.transpose(*groups, *inputs, *outputs).reshape(
    sizes(index, (groups, inputs, outputs))
  )
  groups, inputs, positions = axes(x, 1 - side)
  x = x.transpose(*groups, *positions, *inputs).reshape(
    sizes(x, (groups, positions, inputs))
  )
  return index, x


def _convolution(params, x, index):
  """The same of a convolution, whose inputs are patches."""
  numbers, groups = params['dimension_numbers'], params['feature_group_count']
  if params['batch_group_count'] != 1:
    raise ValueError('Convolutions that group their batch cannot be followed.')
  out, features, *window = numbers.rhs_spec
  index = index.transpose(*window, features, out)
  window, outputs = index.shape[:-2], index.shape[-1]
  index = index.reshape(-1, groups, outputs // groups).transpose(1, 0, 2)
  batch, channels, *space = numbers.lhs_spec
  x = x.transpose(batch, *space, channels)
  edges = zip(params['padding'], params['lhs_dilation'])
  spread = [(low, high, step - 1) for (low, high), step in edges]
  x = jax.lax.pad(x, jnp.zeros([], x.dtype), [(0,) * 3, *spread, (0,) * 3])
  strides, steps = params['window_strides'], params['rhs_dilation']
  reach = [step * (size - 1) for step, size in zip(steps, window)]
  patches = []
  for place in itertools.product(*map(range, window)):
    begin = [step * i for step, i in zip(steps, place)]
    end = [size - r + b for size, r, b in zip(x.shape[1:-1], reach, begin)]
    patches.append(
      jax.lax.slice(
        x, (0, *begin, 0), (len(x), *end, x.shape[-1]), (1, *strides, 1)
      )
    )
  patches = jnp.stack(patches, axis=-2)
  patches = patches.reshape(
    -1, math.prod(window), groups, x.shape[-1] // groups
  )
  x = patches.transpose(2, 0, 1, 3)
  return index, x.reshape(groups, x.shape[1], -1)


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
