"""Convolutions whose kernels have fast gradients on a CPU.

XLA's gradient of a kernel is a convolution whose window is a whole image. On a
CPU it first reorders both images, and takes two to four times as long as the
convolution itself. Here it is a few matrix products instead; the gradient of
the input, and the convolution, remain XLA's. Elsewhere than on a CPU all does.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

_NUMBERS = ('NHWC', 'HWIO', 'NHWC')
_FEWEST_CHANNELS = 8  # With fewer, as in RGB images, products are not faster.


def conv(
  x: jax.Array,
  kernel: jax.Array,
  strides: Sequence[int],
  padding: str | Sequence[tuple[int, int]],
  *,
  lhs_dilation: Sequence[int] | None = None,
  rhs_dilation: Sequence[int] | None = None,
  dimension_numbers: Any = None,
  feature_group_count: int = 1,
  precision: Any = None,
) -> jax.Array:
  """Is `jax.lax.conv_general_dilated`, for `nn.Conv(conv_general_dilated=...)`.

  Only what its derivative by the kernel is made of differs, which is faster and
  keeps three images in the place of one until it is taken, and that only for
  images [batch, height, width, channels] and kernels [height, width, in, out]
  without dilation or groups. It can be derived in all ways and any number of
  times, for the derivative consists of ordinary operations.

  Example:
    >>> x, kernel = jnp.ones((1, 4, 4, 8)), jnp.ones((3, 3, 8, 1))
    >>> nhwc = functools.partial(
    ...   conv, dimension_numbers=('NHWC', 'HWIO', 'NHWC')
    ... )
    >>> def loss(kernel):
    ...   return nhwc(x, kernel, (1, 1), 'SAME').sum()
    >>> jax.grad(loss)(kernel)[:, :, 0, 0]  # Of 4 rows, 3 meet the first tap.
    Array([[ 9., 12.,  9.],
           [12., 16., 12.],
           [ 9., 12.,  9.]], dtype=float32)
  """
  call = functools.partial(
    lax.conv_general_dilated,
    window_strides=strides,
    padding=padding,
    lhs_dilation=lhs_dilation,
    rhs_dilation=rhs_dilation,
    dimension_numbers=dimension_numbers,
    feature_group_count=feature_group_count,
    precision=precision,
  )
  if (
    jax.default_backend() != 'cpu'
    or not _is_known(x, kernel, dimension_numbers)
    or feature_group_count != 1
    or {*(lhs_dilation or ()), *(rhs_dilation or ())} - {1}
    or x.shape[-1] < _FEWEST_CHANNELS
  ):
    return call(x, kernel)
  if isinstance(padding, str):
    padding = lax.padtype_to_pads(
      x.shape[1:3], kernel.shape[:2], strides, padding
    )
  along_kernel = _rows if set(strides) == {1} else _taps

  @jax.custom_jvp
  def convolve(x, kernel):
    return call(x, kernel)

  @convolve.defjvp
  def convolve_jvp(primals, tangents):
    x, kernel = primals
    dx, dkernel = tangents
    out = convolve(x, kernel)
    size = out.shape[1:3]
    dout = along_kernel(x, dkernel, size, strides, padding, precision)
    return out, call(dx, kernel) + dout

  return convolve(x, kernel)


def _is_known(x, kernel, numbers):
  """Whether that is of two dimensions, and channels come last."""
  if x.ndim != 4:
    return False
  found, known = (
    lax.conv_dimension_numbers(x.shape, kernel.shape, n)
    for n in (numbers, _NUMBERS)
  )
  return found == known


def _rows(x, kernel, size, strides, padding, precision):
  """One product, over the columns of the kernel; its rows are added up.

  So what is copied, forth and back, is three times an image for a 3x3 kernel
  and not nine times, and the product of the gradient is square.
  """
  del strides  # All are 1.
  (top, _), (left, _) = padding
  height, width, channels, features = kernel.shape
  columns = [_moved(x, 2, left - j, size[1]) for j in range(width)]
  columns = jnp.concatenate(columns, -1).reshape(-1, width * channels)
  # Of two axes: others XLA would transpose.
  kernel = kernel.transpose(1, 2, 0, 3).reshape(
    width * channels, height * features
  )
  rows = jnp.matmul(columns, kernel, precision=precision)
  rows = rows.reshape(*x.shape[:2], size[1], height, features)
  return sum(
    _moved(rows[:, :, :, i], 1, top - i, size[0]) for i in range(height)
  )


def _moved(x, axis, places, size):
  """Moves along an axis, and brings that to its new size, with zeros."""
  edges = [(0, 0, 0)] * x.ndim
  edges[axis] = places, size - x.shape[axis] - places, 0
  return lax.pad(x, jnp.zeros([], x.dtype), edges)


def _taps(x, kernel, size, strides, padding, precision):
  """One product for each of the places in the kernel."""
  edges = [(0, 0, 0), *((low, high, 0) for low, high in padding), (0, 0, 0)]
  x = lax.pad(x, jnp.zeros([], x.dtype), edges)
  reach = [step * (n - 1) + 1 for step, n in zip(strides, size)]
  return sum(
    jnp.matmul(
      x[:, i : i + reach[0] : strides[0], j : j + reach[1] : strides[1]],
      kernel[i, j],
      precision=precision,
    )
    for i in range(kernel.shape[0])
    for j in range(kernel.shape[1])
  )
