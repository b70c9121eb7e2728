"""The structure of a tree as JSON, without its arrays."""

from typing import Any

from jax.tree_util import DictKey, KeyPath, SequenceKey

from ong_jax.selection import name_of

_SEQUENCES = {'list': list, 'tuple': tuple}


class Leaf:
  """What the structure says of an array."""

  def __init__(self, dtype: str, shape: tuple[int, ...] | None):
    """Takes the name of the dtype, and the shape where a mask belongs to it."""
    self.dtype, self.shape = dtype, shape


def encode(node: Any, path: KeyPath = ()) -> Any:
  """Makes what `json.dumps` takes of a tree.

  Args:
    node: nested dicts, lists and tuples of `Leaf` and None. Keys are str or
      int.
    path: of the node in its tree, for errors.

  Returns:
    None and strings, lists and dicts of them.

  Raises:
    TypeError: a node is of another type; it is named.

  Example:
    >>> encode({'kernel': Leaf('float32', (2, 3)), 'bias': Leaf('int8', None)})
    {'dict': [['kernel', ['float32', 2, 3]], ['bias', 'int8']]}
  """
  if node is None:
    return None
  if isinstance(node, Leaf):
    return node.dtype if node.shape is None else [node.dtype, *node.shape]
  kind = type(node)
  keys = list(node) if kind is dict else []
  if kind not in (dict, list, tuple) or {*map(type, keys)} - {str, int}:
    raise TypeError(
      '`params` must be nested dicts with keys of str or int, lists and '
      f"tuples; node '{name_of(path)}' is a {kind.__name__}"
      f'{f" with keys {keys[:4]}" if keys else ""}. Make it one, for example '
      'by `flax.core.unfreeze` or `nnx.to_pure_dict`.'
    )
  if kind is dict:
    return {
      'dict': [[k, encode(v, (*path, DictKey(k)))] for k, v in node.items()]
    }
  return {
    kind.__name__: [
      encode(v, (*path, SequenceKey(i))) for i, v in enumerate(node)
    ]
  }


def decode(node: Any) -> Any:
  """Undoes `encode`.

  Raises:
    KeyError, TypeError, ValueError, AttributeError: it is not of `encode`.

  Example:
    >>> decode({'list': ['int8', None]})[0].dtype
    'int8'
  """
  if node is None:
    return None
  if isinstance(node, str):
    return Leaf(node, None)
  if isinstance(node, list):
    return Leaf(node[0], tuple(node[1:]))
  ((kind, items),) = node.items()
  if kind == 'dict':
    return {key: decode(child) for key, child in items}
  return _SEQUENCES[kind](map(decode, items))
