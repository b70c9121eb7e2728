"""Following weights through a program, to where they meet their inputs."""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np

# (kernel, index [groups, fan_in, outputs], inputs [groups, positions, fan_in]):
# told of every product of weights and inputs.
Meet = Callable[['Kernel', np.ndarray, jax.Array], None]


class Kernel(NamedTuple):
  """A value that is weights in some order."""

  leaf: int  # Which of the leaves of the weights.
  name: str
  index: np.ndarray  # Shaped as the value: where in the flat leaf each is.


# What changes the order of weights, and what changes nothing.
# `broadcast_in_dim` adds axes; weights that are repeated are refused.
_REORDERS = (
  'reshape',
  'transpose',
  'squeeze',
  'slice',
  'split',
  'rev',
  'broadcast_in_dim',
)
_KEEPS = ('convert_element_type', 'copy', 'name', 'sharding_constraint')
_LOOPS = ('scan', 'while', 'cond')


def evaluate(
  jaxpr: Any,
  consts: Sequence[Any],
  values: Sequence[Any],
  kernels: Sequence[Kernel | None],
  meet: Meet,
) -> tuple[list[Any], list[Kernel | None]]:
  """Evaluates a program equation by equation, following weights.

  Args:
    jaxpr: the program.
    consts: its constants.
    values: its inputs.
    kernels: which of these are weights; None where they are not.
    meet: called at every matrix product and convolution by a kernel.

  Returns:
    Its outputs, and which of them are weights.

  Raises:
    ValueError: weights go into anything else; the leaf is named.

  Example:
    >>> closed = jax.make_jaxpr(jnp.matmul)(jnp.ones((5, 2)), jnp.ones((2, 3)))
    >>> kernel = Kernel(0, 'kernel', np.arange(6).reshape(2, 3))
    >>> values = [jnp.ones((5, 2)), jnp.ones((2, 3))]
    >>> def meet(kernel, index, inputs):
    ...   print(kernel.name, index.shape, inputs.shape)
    >>> outputs, _ = evaluate(closed.jaxpr, (), values, [None, kernel], meet)
    kernel (1, 2, 3) (1, 5, 2)
  """
  env = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *values]))
  followed = {v: k for v, k in zip(jaxpr.invars, kernels) if k is not None}

  def value(v):
    return v.val if isinstance(v, jax.extend.core.Literal) else env[v]

  def kernel(v):
    literal = isinstance(v, jax.extend.core.Literal)
    return None if literal else followed.get(v)

  for eqn in jaxpr.eqns:
    args, ours = [value(v) for v in eqn.invars], [kernel(v) for v in eqn.invars]
    inner = called(eqn)
    if any(ours) and inner is not None:
      results, out = evaluate(inner.jaxpr, inner.consts, args, ours, meet)
    else:
      out = _follow(eqn, args, ours, meet) if any(ours) else []
      bound = eqn.primitive.get_bind_params(eqn.params)
      results = eqn.primitive.bind(*args, **bound)
      if not eqn.primitive.multiple_results:
        results = [results]
    env.update(zip(eqn.outvars, results))
    followed.update((v, k) for v, k in zip(eqn.outvars, out) if k is not None)
  return [value(v) for v in jaxpr.outvars], [kernel(v) for v in jaxpr.outvars]


def called(eqn: Any) -> Any:
  """Returns the closed program that an equation calls, if it just calls one.

  Example:
    >>> closed = jax.make_jaxpr(jax.jit(jnp.sin))(1.0)
    >>> [eqn.primitive.name for eqn in called(closed.eqns[0]).eqns]
    ['sin']
    >>> called(called(closed.eqns[0]).eqns[0]) is None
    True
  """
  if eqn.primitive.name in _LOOPS:
    return None
  for name in ('jaxpr', 'call_jaxpr'):
    inner = eqn.params.get(name)
    if isinstance(inner, jax.extend.core.ClosedJaxpr):
      return inner
    if isinstance(inner, jax.extend.core.Jaxpr):
      return jax.extend.core.ClosedJaxpr(inner, ())
  return None


def _follow(eqn, args, ours, meet) -> list[Kernel]:
  """Says what becomes of weights, or has them meet their inputs."""
  name = eqn.primitive.name
  kernel = next(k for k in ours if k is not None)
  if name in _KEEPS:
    return [kernel]
  repeats = name == 'broadcast_in_dim' and (
    math.prod(eqn.params['shape']) > kernel.index.size
  )
  if name in _REORDERS and not repeats:
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
