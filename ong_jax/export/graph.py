"""What an ONNX graph is made of, while it is made."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ong_jax import optional


class Constant(NamedTuple):
  """An array that depends on no input."""

  array: np.ndarray
  name: str = ''  # Of the params that it is.

  @property
  def shape(self) -> tuple[int, ...]:
    """As it is; elementwise operators stretch sizes of 1."""
    return self.array.shape


class Node(NamedTuple):
  """What an operator returns, or an input."""

  name: str
  shape: tuple[Any, ...]  # As it is, like that of a constant.


class Graph:
  """Operators in their order, and the arrays that they read."""

  def __init__(self):
    """Begins an empty graph."""
    self.nodes: list[Any] = []
    self.initializers: dict[str, Any] = {}

  def add(
    self,
    operator: str,
    inputs: Sequence[str],
    shape: Iterable[Any],
    *,
    output: str = '',
    **attributes: Any,
  ) -> Node:
    """Adds an operator.

    Args:
      operator: ONNX's name of it.
      inputs: names of what it reads.
      shape: of its output.
      output: name of that; by default one that is free.
      **attributes: ONNX's.

    Returns:
      Its output.
    """
    output = output or f'{operator}_{len(self.nodes)}'
    helper = optional.load('onnx.helper', 'export')
    self.nodes.append(
      helper.make_node(operator, list(inputs), [output], **attributes)
    )
    return Node(output, tuple(shape))

  def name(self, value: Constant | Node) -> str:
    """Returns a name to read a value by; stores it if it is a constant."""
    if isinstance(value, Node):
      return value.name
    helper = optional.load('onnx.numpy_helper', 'export')
    array = np.ascontiguousarray(value.array).reshape(value.shape)
    name = value.name
    if name in self.initializers:
      known = helper.to_array(self.initializers[name])
      if known.shape == array.shape and known.tobytes() == array.tobytes():
        return name
      name = ''  # The same params, transposed.
    name = name or f'constant_{len(self.initializers)}'
    self.initializers[name] = helper.from_array(array, name)
    return name

  def integers(self, *values: int) -> str:
    """Stores what an operator takes as an array of integers."""
    return self.name(Constant(np.array(values, np.int64)))

  def exact(self, value: Constant | Node, aval: Any) -> str:
    """Returns a name to read a value by, stretched to the shape it should have.

    Raises:
      NotImplementedError: that shape is not known.
    """
    name = self.name(value)
    if tuple(value.shape) == tuple(aval.shape):
      return name
    if not all(isinstance(size, int) for size in aval.shape):
      raise NotImplementedError(
        f'An array is broadcast to {aval.shape}, which can only be done if all '
        'sizes are known. Pass inputs of a known size.'
      )
    return self.add(
      'Expand', [name, self.integers(*aval.shape)], aval.shape
    ).name
