"""What property tests draw, and how: the profile, values, trees."""

import ml_dtypes
import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

# The same cases in every run, on any machine, however slow.
settings.register_profile(
  'ordinary', derandomize=True, deadline=None, database=None
)
settings.load_profile('ordinary')

FLOATS = {
  'float32': np.dtype(np.float32),
  'bfloat16': np.dtype(ml_dtypes.bfloat16),
  'float16': np.dtype(np.float16),
}
_SPECIAL = (0.0, -0.0, 1.0, -1.0, 1.5, 1e-5, -1e-5, 6e4, -6e4, 0.25)
_WILD = (np.nan, -np.nan, np.inf, -np.inf)


def _bits(dtype):
  return np.dtype(f'u{dtype.itemsize}')


def _table(dtype, wild):
  """256 values that one byte chooses from: ties, edges, and the like."""
  info = ml_dtypes.finfo(dtype)
  edges = [info.tiny, info.smallest_subnormal, info.max, info.eps]
  edges = [float(x) for x in edges]
  values = [*_SPECIAL, *edges, *(-x for x in edges), *(_WILD if wild else ())]
  return np.resize(np.array(values), 256).astype(dtype)


@st.composite
def arrays(draw, shape, dtype='float32', wild=False):
  """An array: of any bits, of few values (so with ties), or all alike.

  Args:
    draw: of hypothesis.
    shape: of the array.
    dtype: a name of `FLOATS`.
    wild: whether there may be NaN and infinities.
  """
  dtype, size = FLOATS[dtype], int(np.prod(shape))
  kind = draw(st.sampled_from(['bits', 'few', 'same', 'plain']))
  if kind == 'bits':
    raw = draw(st.binary(min_size=size * dtype.itemsize, max_size=size * 4))
    x = np.frombuffer(raw[: size * dtype.itemsize], _bits(dtype)).view(dtype)
    with np.errstate(invalid='ignore'):  # NaN that NumPy may not touch.
      is_nan, finite = np.isnan(x), np.isfinite(x)
    x = np.where(
      is_nan if wild else ~finite, dtype.type(np.nan if wild else 1), x
    )
  elif kind == 'plain':
    seed = draw(st.integers(0, 2**32 - 1))
    x = np.random.default_rng(seed).normal(size=size).astype(dtype)
  else:
    codes = draw(st.binary(min_size=size, max_size=size))
    if kind == 'same':
      codes = codes[:1] * size
    x = _table(dtype, wild)[np.frombuffer(codes, np.uint8)]
  return x.reshape(shape)


@st.composite
def trees(draw, shapes, dtypes=('float32',), wild=False):
  """A dict of arrays; the dtypes are taken in turns."""
  return {
    name: draw(arrays(shape, dtypes[i % len(dtypes)], wild))
    for i, (name, shape) in enumerate(shapes.items())
  }


@st.composite
def masks(draw, shapes):
  """A dict of bool arrays."""
  found = {}
  for name, shape in shapes.items():
    size = int(np.prod(shape))
    raw = np.frombuffer(draw(st.binary(min_size=size, max_size=size)), np.uint8)
    found[name] = (raw < draw(st.sampled_from([0, 13, 128, 256]))).reshape(
      shape
    )
  return found


def round_kept(total, sparsity):
  """The law of every budget, N - round(sparsity * N)."""
  return total - round(sparsity * total)


def bits(x):
  """What can be compared to the last bit, -0.0 included; all NaN alike."""
  x = np.asarray(x)
  return np.where(np.isnan(x), x.dtype.type(np.nan), x).view(_bits(x.dtype))
