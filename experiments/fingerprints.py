"""Numbers that tell whether arrays are, bit by bit, what they were."""

from typing import Any

import jax
import numpy as np


def of(tree: Any) -> np.ndarray:
  """Sums up the bits of each leaf: every change of a single bit shows.

  An array is taken as 32-bit words, each mixed with its place along every axis,
  and added up modulo 2**32. So the sum is the same however
  the array is split over devices; with many processes, each adds up what it
  holds, and their sum is that of all. Of damage to more than one bit, one case
  in 2**32 or so goes unseen.

  Args:
    tree: arrays of any type but PRNG keys.

  Returns:
    uint32 [leaves].

  Example:
    >>> before, after = of([np.array([1.0, 2.0])]), of([np.array([2.0, 1.0])])
    >>> before == after
    array([False])
  """
  sums = [
    np.array(_parts(x), np.uint32).sum(dtype=np.uint32)
    for x in jax.tree.leaves(tree)
  ]
  return np.array(sums, np.uint32)


def _parts(x: Any) -> list[np.ndarray]:
  """The sum of each part of an array that this process answers for."""
  if not isinstance(x, jax.Array):
    x = np.asarray(x)
    return [_sum(x, (slice(None),) * x.ndim, x.shape)]
  return [
    _sum(np.asarray(shard.data), shard.index, x.shape)
    for shard in x.addressable_shards
    if shard.replica_id == 0
  ]


def _sum(
  x: np.ndarray, index: tuple[slice, ...], shape: tuple[int, ...]
) -> np.ndarray:
  """Adds up a part, which is at `index` of an array of a shape."""
  places = [
    np.arange(*along.indices(size), dtype=np.uint32)
    for along, size in zip(index, shape)
  ]
  x = np.ascontiguousarray(x).reshape(x.shape)
  if x.dtype.itemsize == 8:  # Two words.
    x = x.reshape(-1).view(np.uint32).reshape(*x.shape, 2)
    places.append(np.arange(2, dtype=np.uint32))
  words = x.view(f'u{x.dtype.itemsize}').astype(np.uint32, copy=False)
  words = words.reshape(words.shape or (1,))  # NumPy warns of scalars.
  place = np.full(words.shape, 0x9E3779B1, np.uint32)  # Not 0 for zeros.
  for axis, along in enumerate(places):
    shape = [1] * words.ndim
    shape[axis] = -1
    place = _mixed(place ^ along.reshape(shape))
  return _mixed(words ^ place).sum(dtype=np.uint32)


def _mixed(x: np.ndarray) -> np.ndarray:
  """Spreads every bit over all of a word, as MurmurHash3 does in the end.

  Without it, two changes of a high bit cancel in a sum: 2**31 + 2**31 is 0.
  """
  x = (x ^ (x >> 16)) * np.uint32(0x85EBCA6B)
  x = (x ^ (x >> 13)) * np.uint32(0xC2B2AE35)
  return x ^ (x >> 16)
