"""The files as which a network can leave, and what is won by each."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from experiments import finished, inputs, pretrained, tensor_files
from ong_jax.export import compressed, onnx_graph, sparse


class Format(NamedTuple):
  """One kind of file."""

  # Replaces what is at the path. Raises a `ValueError` for an ending that is
  # not the format's, an `OSError`, or an `ImportError` for want of a package.
  write: Callable[[str, finished.Network], None]
  speed: str  # What it makes faster, in a sentence.
  suffixes: tuple[str, ...]


def _variables(network: finished.Network) -> dict:
  found = {
    'params': network.params,
    'batch_stats': network.batch_stats,
    'image_mean': network.image_mean,
    'image_std': network.image_std,
  }
  widths = getattr(network.model, 'widths', None)  # Of what was shrunk.
  if widths:
    found['widths'] = {name: np.int32(width) for name, width in widths.items()}
  return found


def _compressed(path: str, network: finished.Network) -> None:
  variables = _variables(network)
  mask = jax.tree.map(lambda _: None, variables)
  mask['params'] = finished.mask_of(network)
  compressed.save(path, variables, mask)


def _torch(path: str, network: finished.Network) -> None:
  normalization = network.image_mean, network.image_std
  pretrained.store_torch(
    path, network.params, network.batch_stats, normalization
  )


def _onnx(path: str, network: finished.Network) -> None:
  """Writes the function from pixels to logits, for any number of images."""

  def logits(variables, images):
    images = inputs.normalize(network, images)
    return network.model.apply(variables, images, train=False)

  variables = {'params': network.params, 'batch_stats': network.batch_stats}
  shape = jax.export.symbolic_shape('batch, 32, 32, 3')
  images = jax.ShapeDtypeStruct(shape, np.uint8)
  onnx_graph.save(path, logits, variables, images)


def _scipy(path: str, network: finished.Network) -> None:
  sparse.save(path, _variables(network))


FORMATS = {
  'safetensors': Format(
    _compressed,
    'none. It is smaller to store and to send; loaded, its zeros are there, '
    'and are multiplied.',
    ('.safetensors',),
  ),
  'torch': Format(
    _torch,
    'none. It is stored dense, and its zeros are multiplied.',
    tensor_files.SUFFIXES,
  ),
  'onnx': Format(
    _onnx,
    'none. onnxruntime multiplies its zeros, too.',
    ('.onnx',),
  ),
  'scipy': Format(
    _scipy,
    'products with these matrices skip zeros, and were slower than dense ones '
    'up to 99 % sparsity all the same (benchmarks/taking_away.py).',
    ('.npz',),
  ),
}


def num_bytes(network: finished.Network) -> int:
  """Returns the bytes of a network's arrays as they are in memory.

  Example:
    >>> import numpy as np
    >>> params = {'kernel': np.ones((2, 3), 'float32')}
    >>> num_bytes(finished.Network(None, params, {}, None, None))
    24
  """
  arrays = jax.tree.leaves((network.params, network.batch_stats))
  return sum(x.nbytes for x in arrays)
