"""Reading a compiled program for kernels that it puts together."""

import math
import re

import jax

_RESULT = re.compile(r'^\s*(?:ROOT )?\S+ = (.+?) ([a-z][\w-]*)\(')
_SHAPE = re.compile(r'\b[a-z]+\d*\[([\d,]*)\]')
# What brings parts of an array from device to device as they are.
_MOVING = ('all-gather', 'all-to-all', 'collective-permute')


def holding_whole(compiled, params):
  """The instructions whose result has the size of a whole split array.

  Any instruction, as a device can put an array together by others than
  `all-gather`; and by size, as what is put together may have any shape: a
  kernel, its mask, scores or moments, or all of one shape in a stack. Where the
  part of one array is as large as the whole of another, only those count that
  move data.

  Args:
    compiled: program of one device among many.
    params: its arrays, as they are split.
  """
  whole, parts, shapes = set(), set(), []
  for leaf in jax.tree.leaves(params):
    if not leaf.sharding.is_fully_replicated:
      shapes.append(leaf.shape)
      stacked = shapes.count(leaf.shape)
      part = math.prod(leaf.sharding.shard_shape(leaf.shape))
      whole |= {leaf.size, stacked * leaf.size}
      parts |= {part, stacked * part}
  found = []
  for line in compiled.as_text().splitlines():
    if instruction := _RESULT.match(line):
      result, name = instruction.groups()
      sizes = {
        math.prod(map(int, filter(None, shape.split(','))))
        for shape in _SHAPE.findall(result)
      }
      if sizes & (whole if name.startswith(_MOVING) else whole - parts):
        found.append(line.strip())
  return found
