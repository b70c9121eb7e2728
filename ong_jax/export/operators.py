"""JAX's primitives in ONNX's operators, of opset 18.

Each is a function of the graph, the parameters of the primitive, its inputs,
their shapes and dtypes as JAX has them, and those of the output. It returns the
output.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ong_jax import optional
from ong_jax.export.graph import Constant, Graph, Node

_Value = Constant | Node


def _refuse_unless(known: bool, primitive: str, what: str) -> None:
  if not known:
    raise NotImplementedError(
      f"The function uses the primitive '{primitive}' with {what}, which is "
      'not known to ong_jax/export/operators.py.'
    )


def _elementwise(*operators: str) -> Any:
  """Applies operators one after the other; the first may have many inputs."""

  def apply(graph, params, values, avals, out):
    del params, avals
    names = [graph.name(value) for value in values]
    # Sizes of 1 are stretched by whoever reads the output, as here.
    shape = _broadcast([value.shape for value in values])
    for operator in operators:
      node = graph.add(operator, names, shape)
      names = [node.name]
    return node

  return apply


def _broadcast(shapes: list[Sequence[Any]]) -> list[Any]:
  ndim = max(map(len, shapes))
  shapes = [(1,) * (ndim - len(shape)) + tuple(shape) for shape in shapes]
  return [
    next((size for size in sizes if not _is(size, 1)), 1)
    for sizes in zip(*shapes)
  ]


def _is(size: Any, number: int) -> bool:
  """Compares sizes; JAX raises where a symbolic one might be equal."""
  return isinstance(size, int) and size == number


def _convolution(graph, params, values, avals, out) -> Node:
  name, numbers = 'conv_general_dilated', params['dimension_numbers']
  pads = params['padding']
  _refuse_unless(avals[0].dtype == out.dtype, name, 'a change of the dtype')
  plain = {*params['lhs_dilation'], params['batch_group_count']} == {1}
  _refuse_unless(plain, name, 'dilated inputs or groups of the batch')
  _refuse_unless(min(map(min, pads)) >= 0, name, 'negative padding')
  kernel = values[1]
  if isinstance(kernel, Constant):
    kernel = kernel._replace(array=kernel.array.transpose(numbers.rhs_spec))
    weights = graph.name(kernel)
  else:
    weights = _transposed(
      graph, graph.exact(kernel, avals[1]), avals[1].shape, numbers.rhs_spec
    )
  x = graph.exact(values[0], avals[0])
  x = _transposed(graph, x, avals[0].shape, numbers.lhs_spec)
  node = graph.add(
    'Conv',
    [x, weights],
    [out.shape[i] for i in numbers.out_spec],
    strides=list(params['window_strides']),
    dilations=list(params['rhs_dilation']),
    pads=[*(low for low, _ in pads), *(high for _, high in pads)],
    group=params['feature_group_count'],
  )
  back = tuple(int(i) for i in np.argsort(numbers.out_spec))
  return Node(_transposed(graph, node.name, node.shape, back), out.shape)


def _transposed(
  graph: Graph, name: str, shape: Sequence[Any], axes: Sequence[int]
) -> str:
  if tuple(axes) == tuple(range(len(axes))):
    return name
  shape = [shape[axis] for axis in axes]
  return graph.add('Transpose', [name], shape, perm=list(axes)).name


def _transpose(graph, params, values, avals, out) -> Node:
  name = graph.exact(values[0], avals[0])
  name = _transposed(graph, name, avals[0].shape, params['permutation'])
  return Node(name, out.shape)


def _product(graph, params, values, avals, out) -> Node:
  (lhs, rhs), batch = params['dimension_numbers']
  plain = batch == ((), ()) and len(lhs) == 1 and len(avals[1].shape) == 2
  _refuse_unless(plain, 'dot_general', 'other than one matrix on the right')
  same = avals[0].dtype == avals[1].dtype == out.dtype
  _refuse_unless(same, 'dot_general', 'a change of the dtype')
  axes = [i for i in range(len(avals[0].shape)) if i not in lhs]
  x = graph.exact(values[0], avals[0])
  x = _transposed(graph, x, avals[0].shape, [*axes, *lhs])
  matrix = graph.exact(values[1], avals[1])
  matrix = _transposed(graph, matrix, avals[1].shape, [*rhs, 1 - rhs[0]])
  return graph.add('MatMul', [x, matrix], out.shape)


def _reduction(operator: str) -> Any:
  def apply(graph, params, values, avals, out):
    names = [graph.exact(values[0], avals[0]), graph.integers(*params['axes'])]
    return graph.add(
      operator, names, out.shape, keepdims=0, noop_with_empty_axes=1
    )

  return apply


def _reshape(graph, params, values, avals, out) -> Node:
  del params
  return _reshaped(graph, graph.exact(values[0], avals[0]), out.shape)


def _reshaped(graph: Graph, name: str, shape: Sequence[Any]) -> Node:
  sizes = [size if isinstance(size, int) else -1 for size in shape]
  _refuse_unless(sizes.count(-1) < 2, 'reshape', 'two unknown sizes')
  return graph.add('Reshape', [name, graph.integers(*sizes)], shape)


def _broadcast_in_dim(graph, params, values, avals, out) -> _Value:
  """Only adds axes of size 1; elementwise operators do the rest."""
  shape = [1] * len(out.shape)
  for i, axis in enumerate(params['broadcast_dimensions']):
    shape[axis] = values[0].shape[i]
  if isinstance(values[0], Constant):
    return Constant(values[0].array.reshape(shape))
  return _reshaped(graph, values[0].name, shape)


def _pad(graph, params, values, avals, out) -> Node:
  config = params['padding_config']
  plain = all(min(low, high) >= 0 == inner for low, high, inner in config)
  _refuse_unless(plain, 'pad', 'negative or inner padding')
  ends = (
    [int(low) for low, _, _ in config],
    [int(high) for _, high, _ in config],
  )
  names = [graph.exact(values[0], avals[0]), graph.integers(*ends[0], *ends[1])]
  return graph.add('Pad', [*names, graph.name(values[1])], out.shape)


def _slice(graph, params, values, avals, out) -> Node:
  shape = avals[0].shape
  starts, limits = params['start_indices'], params['limit_indices']
  strides = params['strides'] or (1,) * len(shape)
  cut = [  # Axes that stay whole may be of any size.
    i
    for i in range(len(shape))
    if (starts[i], limits[i], strides[i]) != (0, shape[i], 1)
  ]
  known = all(isinstance(limits[i], int) for i in cut)
  _refuse_unless(known, 'slice', 'an end that is not known')
  names = [graph.exact(values[0], avals[0])]
  for numbers in starts, limits, range(len(shape)), strides:
    names.append(graph.integers(*(numbers[i] for i in cut)))
  return graph.add('Slice', names, out.shape)


def _gather(graph, params, values, avals, out) -> Node:
  """Takes rows, columns, ... one axis after the other, as x[:, ::2, ::2]."""
  numbers, shape = params['dimension_numbers'], avals[0].shape
  axes = numbers.start_index_map
  others = tuple(i for i in range(len(shape)) if i not in axes)
  plain = (
    isinstance(values[1], Constant)
    and not numbers.operand_batching_dims
    and axes == numbers.collapsed_slice_dims
    and others == numbers.offset_dims
    and all(params['slice_sizes'][i] == shape[i] for i in others)
    and values[1].array.ndim == len(axes) + 1
  )
  _refuse_unless(plain, 'gather', 'other than whole slices at known places')
  name, indices = graph.exact(values[0], avals[0]), values[1].array
  for i, axis in enumerate(axes):
    first = [0] * len(axes)
    first[i] = slice(None)
    line = indices[(*first, i)]
    grid = line.reshape([-1 if j == i else 1 for j in range(len(axes))])
    plain = (indices[..., i] == grid).all()
    inside = line.min() >= 0 and line.max() < shape[axis]
    _refuse_unless(plain and inside, 'gather', 'places that are no grid')
    places = graph.integers(*line.tolist())
    node = graph.add('Gather', [name, places], out.shape, axis=axis)
    name = node.name
  return node


def _convert(graph, params, values, avals, out) -> _Value:
  if avals[0].dtype == out.dtype:
    return values[0]
  kind = optional.load('onnx.helper', 'export').np_dtype_to_tensor_dtype(
    np.dtype(out.dtype)
  )
  return graph.add('Cast', [graph.name(values[0])], values[0].shape, to=kind)


OPERATORS = {
  'add': _elementwise('Add'),
  'sub': _elementwise('Sub'),
  'mul': _elementwise('Mul'),
  'div': _elementwise('Div'),
  'max': _elementwise('Max'),
  'min': _elementwise('Min'),
  'neg': _elementwise('Neg'),
  'abs': _elementwise('Abs'),
  'exp': _elementwise('Exp'),
  'log': _elementwise('Log'),
  'tanh': _elementwise('Tanh'),
  'sqrt': _elementwise('Sqrt'),
  'rsqrt': _elementwise('Sqrt', 'Reciprocal'),
  'logistic': _elementwise('Sigmoid'),
  'reduce_sum': _reduction('ReduceSum'),
  'reduce_max': _reduction('ReduceMax'),
  'reduce_min': _reduction('ReduceMin'),
  'conv_general_dilated': _convolution,
  'dot_general': _product,
  'transpose': _transpose,
  'reshape': _reshape,
  'squeeze': _reshape,
  'broadcast_in_dim': _broadcast_in_dim,
  'pad': _pad,
  'slice': _slice,
  'gather': _gather,
  'convert_element_type': _convert,
}
