"""A sparse network as one small file: what is kept, and a bit a weight.

The file is in the format of safetensors, so that nothing in it is code. A leaf
`a/b` that a mask belongs to is two tensors: `a/b`, the kept values in their
order, and `a/b.mask`, the bits of `masks.pack`. Any other leaf is one tensor,
as it is. The metadata has the structure of the tree in JSON, and a checksum.
"""

import json
import os
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import KeyPath

from ong_jax import masks, optional
from ong_jax.export import files
from ong_jax.export.structure import Leaf, decode, encode
from ong_jax.selection import name_of
from ong_jax.types import Mask, Params

_FORMAT = 'ong_jax.compressed.1'
_BITS = '.mask'


def save(path: str | os.PathLike, params: Params, mask: Mask) -> None:
  """Writes a masked network to one file, at once or not at all.

  Args:
    path: of the file; what is there is replaced.
    params: nested dicts, lists and tuples of arrays, of which the pruned
      entries are 0. More than params may be in it, BatchNorm's statistics for
      example.
    mask: tree of bool arrays of its structure, `None` where all is kept.

  Raises:
    ValueError: a pruned weight is not 0, two leaves have one name, or the mask
      does not fit (`masks.check_like`).
    TypeError: a node is of another type, or a leaf is not of numbers.
    ImportError: safetensors is not installed.

  Example:
    >>> import tempfile
    >>> params = {'kernel': jnp.array([[3.0, 0.0]]), 'bias': jnp.ones(2)}
    >>> mask = {'kernel': jnp.array([[True, False]]), 'bias': None}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   save(f'{folder}/net', params, mask)
    ...   found, _ = load(f'{folder}/net')
    >>> found['kernel']
    array([[3., 0.]], dtype=float32)
  """
  safetensors = optional.load('safetensors.numpy', 'export')
  masks.check_like(params, mask)
  leaves, treedef = jax.tree_util.tree_flatten_with_path(params)
  kept = treedef.flatten_up_to(mask)
  tensors, described = {}, []
  for (key_path, leaf), m in zip(leaves, kept):
    name, leaf = name_of(key_path), _array(key_path, leaf)
    parts = {name: leaf} if m is None else _parts(name, leaf, np.asarray(m))
    if taken := parts.keys() & tensors.keys():
      raise ValueError(
        f"Two leaves would both be called '{min(taken)}' in the file. Give one "
        'of them another key.'
      )
    tensors |= parts
    shape = None if m is None else leaf.shape
    described.append(Leaf(leaf.dtype.name, shape))
  tree = json.dumps(encode(treedef.unflatten(described)), separators=',:')
  tensors = {name: _storable(x) for name, x in tensors.items()}
  metadata = {'format': _FORMAT, 'tree': tree, 'crc32': _crc32(tree, tensors)}
  files.replace(path, safetensors.save(tensors, metadata))


def load(path: str | os.PathLike) -> tuple[Params, Mask]:
  """Reads what `save` has written, to the bit.

  Only a pruned -0.0 is not as it was: it is 0.0. A kept one is as it was.

  Args:
    path: of the file.

  Returns:
    params and mask: trees of NumPy arrays, the mask `None` where it was.

  Raises:
    ValueError: the file is damaged, or none that `save` has written.
    ImportError: safetensors is not installed.

  Example:
    >>> load('net.safetensors')  # doctest: +SKIP
  """
  safetensors = optional.load('safetensors', 'export')
  try:
    with open(path, 'rb') as file:
      content = file.read()
    tensors = optional.load('safetensors.numpy', 'export').load(content)
    length = int.from_bytes(content[:8], 'little')
    metadata = json.loads(content[8 : 8 + length])['__metadata__']
    if metadata['format'] != _FORMAT:
      raise ValueError(f'its format is {metadata["format"]!r:.40}')
    if metadata['crc32'] != _crc32(metadata['tree'], tensors):
      raise ValueError('its checksum is wrong')
    return _build(decode(json.loads(metadata['tree'])), tensors)
  except (
    AttributeError,
    KeyError,
    TypeError,
    ValueError,
    RecursionError,
    safetensors.SafetensorError,
  ) as error:
    raise ValueError(
      f'{str(path)!r} is damaged, or no file of `compressed.save` '
      f'({type(error).__name__}: {error}). Save the network again, or pass '
      'another file.'
    ) from error


def _array(path: KeyPath, leaf: Any) -> np.ndarray:
  """Brings a leaf to the host, and refuses what cannot be stored."""
  if not isinstance(getattr(leaf, 'dtype', None), np.dtype):  # As a key is.
    raise TypeError(
      f"Leaf '{name_of(path)}' must be an array of numbers; got {leaf!r:.200}."
    )
  leaf = np.asarray(jax.device_get(leaf))
  numeric = jnp.issubdtype(leaf.dtype, np.number) or leaf.dtype == np.bool_
  if not numeric or leaf.dtype.itemsize > 8:
    raise TypeError(
      f"Leaf '{name_of(path)}' must be of numbers of at most 8 bytes; its "
      f'dtype is {leaf.dtype}. Cast it first.'
    )
  return leaf


def _parts(name: str, leaf: np.ndarray, m: np.ndarray) -> dict[str, np.ndarray]:
  """Splits a leaf into the values that are kept, and where they belong."""
  if wrong := np.count_nonzero(leaf[~m]):
    raise ValueError(
      f"Leaf '{name}' has {wrong} pruned weights that are not 0, and would be "
      'lost. Pass `ong_jax.apply_mask(params, mask)` as params.'
    )
  return {name: leaf[m], name + _BITS: np.asarray(masks.pack(jnp.asarray(m)))}


def _storable(x: np.ndarray) -> np.ndarray:
  """Returns bits in place of numbers that NumPy does not know by itself."""
  x = np.ascontiguousarray(x).reshape(x.shape)  # Else [] becomes [1].
  if x.dtype.isbuiltin == 1 and x.dtype.kind in 'biuf':
    return x
  return x.view(f'u{x.dtype.itemsize}')


def _crc32(tree: str, tensors: dict[str, np.ndarray]) -> str:
  """A checksum of all that is read from a file."""
  total = zlib.crc32(tree.encode())
  for name in sorted(tensors):
    x = tensors[name]
    total = zlib.crc32(f'{name} {x.dtype} {x.shape}'.encode(), total)
    total = zlib.crc32(np.ascontiguousarray(x).reshape(-1).view('u1'), total)
  return f'{total:08x}'


def _build(tree: Any, tensors: dict[str, np.ndarray]) -> tuple[Params, Mask]:
  """Makes params and mask of the structure and what was stored."""
  leaves, treedef = jax.tree_util.tree_flatten_with_path(tree)
  pairs = []
  for path, leaf in leaves:
    names = _tensors(name_of(path), leaf)
    pairs.append(_unite(leaf, *(tensors.pop(name) for name in names)))
  if tensors:
    raise ValueError(f"no leaf is read from its tensor '{min(tensors)}'")
  params, mask = ([pair[i] for pair in pairs] for i in (0, 1))
  return treedef.unflatten(params), treedef.unflatten(mask)


def _tensors(name: str, leaf: Leaf) -> list[str]:
  return [name] if leaf.shape is None else [name, name + _BITS]


def _unite(
  leaf: Leaf, values: np.ndarray, *bits: np.ndarray
) -> tuple[np.ndarray, np.ndarray | None]:
  """Puts the kept values where they were, and says where that is."""
  values = _numbers(values, leaf.dtype)
  if leaf.shape is None:
    return values, None
  like = jax.ShapeDtypeStruct(leaf.shape, values.dtype)
  m = np.asarray(masks.unpack(jnp.asarray(*bits), like))
  full = np.zeros(leaf.shape, values.dtype)
  full[m] = values.reshape(np.count_nonzero(m))  # Nothing is broadcast.
  return full, m


def _numbers(stored: np.ndarray, dtype: str) -> np.ndarray:
  found = jnp.dtype(dtype)
  return stored if stored.dtype == found else stored.view(found)
