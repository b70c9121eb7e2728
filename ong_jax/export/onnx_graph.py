"""An inference function as an ONNX graph.

The function is traced, all that depends on no input is computed, and every
primitive that remains becomes the operators of `operators`, one by one. So a
pruned weight is the same 0 in the file.
"""

import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.extend import core

from ong_jax import optional
from ong_jax.export import files
from ong_jax.export.graph import Constant, Graph, Node
from ong_jax.export.operators import OPERATORS
from ong_jax.selection import name_of
from ong_jax.types import Params

# Primitives that only call a function: where each of them has it.
_CALLS = {
  'jit': 'jaxpr',
  'pjit': 'jaxpr',
  'closed_call': 'call_jaxpr',
  'custom_jvp_call': 'call_jaxpr',
  'custom_vjp_call': 'call_jaxpr',
}


def to_onnx(function: Callable, params: Params, *inputs: Any) -> Any:
  """Makes an ONNX model of a function.

  Args:
    function: `(params, *inputs) -> output`, where the output is an array or a
      tree of arrays.
    params: tree of arrays, which the model will hold.
    *inputs: `jax.ShapeDtypeStruct`s. A size that may change is one of
      `jax.export.symbolic_shape`.

  Returns:
    An `onnx.ModelProto` of opset 18. Its inputs are `input_0`, `input_1`, ...,
    its outputs `output_0`, ..., in the order of the leaves; params have their
    names, where they are stored as they are.

  Raises:
    NotImplementedError: the function has a primitive, or uses it in a way,
      that is not known here; it is named.
    ImportError: onnx is not installed.

  Example:
    >>> x = jax.ShapeDtypeStruct((4, 2), 'float32')
    >>> params = {'kernel': np.ones((2, 3), 'float32')}
    >>> model = to_onnx(lambda params, x: x @ params['kernel'], params, x)
    >>> [node.op_type for node in model.graph.node]
    ['MatMul', 'Identity']
    >>> [constant.name for constant in model.graph.initializer]
    ['kernel']
  """
  onnx = optional.load('onnx', 'export')
  leaves, treedef = jax.tree_util.tree_flatten_with_path(params)
  closed, shapes = jax.make_jaxpr(
    lambda leaves, *inputs: function(treedef.unflatten(leaves), *inputs),
    return_shape=True,
  )([leaf for _, leaf in leaves], *inputs)
  graph = Graph()
  constants = [
    Constant(np.asarray(leaf), name_of(path)) for path, leaf in leaves
  ]
  given = jax.tree.leaves(inputs)
  nodes = [Node(f'input_{i}', x.shape) for i, x in enumerate(given)]
  outputs = _run(graph, closed, [*constants, *nodes])
  results = jax.tree.leaves(shapes)
  for i, (value, result) in enumerate(zip(outputs, results)):
    name = graph.exact(value, result)
    graph.add('Identity', [name], result.shape, output=f'output_{i}')
  proto = onnx.helper.make_graph(
    graph.nodes,
    'network',
    [_value_info(node.name, x) for node, x in zip(nodes, given)],
    [_value_info(f'output_{i}', x) for i, x in enumerate(results)],
    list(graph.initializers.values()),
  )
  opset = onnx.helper.make_opsetid('', 18)
  model = onnx.helper.make_model(
    proto, opset_imports=[opset], producer_name='ong_jax', ir_version=8
  )
  onnx.checker.check_model(model, full_check=True)
  return model


def save(
  path: str | os.PathLike, function: Callable, params: Params, *inputs: Any
) -> None:
  """Writes what `to_onnx` makes to a file.

  Raises:
    NotImplementedError, ImportError: as `to_onnx`.
    OSError: the file cannot be written.

  Example:
    >>> import tempfile
    >>> x = jax.ShapeDtypeStruct((4,), 'float32')
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   save(f'{folder}/net.onnx', lambda _, x: x + 1, {}, x)
  """
  files.replace(path, to_onnx(function, params, *inputs).SerializeToString())


def _run(
  graph: Graph, closed: core.ClosedJaxpr, inputs: list[Constant | Node]
) -> list[Constant | Node]:
  """Follows a program from its inputs to its outputs, adding to the graph."""
  env = dict(zip(closed.jaxpr.invars, inputs, strict=True))
  for var, const in zip(closed.jaxpr.constvars, closed.consts):
    env[var] = Constant(np.asarray(const))

  def read(atom):
    if isinstance(atom, core.Literal):
      return Constant(np.asarray(atom.val, atom.aval.dtype))
    return env[atom]

  for eqn in closed.jaxpr.eqns:
    values = [read(atom) for atom in eqn.invars]
    if call := _CALLS.get(eqn.primitive.name):
      outputs = _run(graph, _closed(eqn.params[call]), values)
    else:
      outputs = _apply(graph, eqn, values)
    env |= zip(eqn.outvars, outputs)
  return [read(atom) for atom in closed.jaxpr.outvars]


def _closed(jaxpr: Any) -> core.ClosedJaxpr:
  if isinstance(jaxpr, core.ClosedJaxpr):
    return jaxpr
  return core.ClosedJaxpr(jaxpr, ())


def _apply(
  graph: Graph, eqn: core.JaxprEqn, values: list[Constant | Node]
) -> list[Constant | Node]:
  """Computes a primitive, or adds its operators to the graph."""
  concrete = all(
    isinstance(size, int) for var in eqn.outvars for size in var.aval.shape
  )
  if concrete and all(isinstance(value, Constant) for value in values):
    arrays = [value.array for value in values]
    outputs = eqn.primitive.bind(*arrays, **eqn.params)
    if not eqn.primitive.multiple_results:
      outputs = [outputs]
    return [Constant(np.asarray(x)) for x in outputs]
  name = eqn.primitive.name
  if name not in OPERATORS:
    raise NotImplementedError(
      f"The function has the primitive '{name}', which is not known to "
      f'ong_jax/export/operators.py; it knows {", ".join(sorted(OPERATORS))}. '
      'Add it there, or write the function with these.'
    )
  avals = [atom.aval for atom in eqn.invars]
  return [
    OPERATORS[name](graph, eqn.params, values, avals, eqn.outvars[0].aval)
  ]


def _value_info(name: str, x: Any) -> Any:
  onnx = optional.load('onnx', 'export')
  kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(x.dtype))
  sizes = [size if isinstance(size, int) else str(size) for size in x.shape]
  return onnx.helper.make_tensor_value_info(name, kind, sizes)
