"""What is smaller, and what is faster, when a sparse network is taken away?

    python -m benchmarks.taking_away [resnet20 | resnet18 | ...] [batch size]

A dense network, the same at 95 % sparsity, and the same without half of the
channels of every group: in JAX, where also a training step is timed, and in
onnxruntime. Then the product with the largest kernel at several sparsities, by
NumPy and by SciPy's CSR, and the sizes of files. Times are medians of
interleaved repeats; weights and images are random, for time does not depend on
them.
"""

import os
import pathlib
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import onnxruntime
import optax
from flax.core import FrozenDict

import ong_jax
from benchmarks.measure import duration, interleaved, machine
from experiments import finished, groups, models, timing, writers
from ong_jax import channels, shrinking
from ong_jax.export import sparse

_REPEATS = 15
_SPARSITY = 0.95
_NO_CHANGE = np.zeros(3, np.float32), np.ones(3, np.float32)


def main(name: str = 'resnet20', batch_size: str = '64') -> None:
  """Prints the tables of one network."""
  networks = _networks(name)
  pixels = np.random.default_rng(0).integers(
    256, size=(int(batch_size), 32, 32, 3), dtype=np.uint8
  )
  print(
    f'{name}, batches of {batch_size}, n = {_REPEATS}, {machine()}, '
    f'onnxruntime {onnxruntime.__version__}'
  )
  print('| | dense | masked, 95 % | half of the channels |')
  print('| --- | --- | --- | --- |')
  images = np.float32(pixels / 255)
  _print('JAX, forward', {k: _forward(n, images) for k, n in networks.items()})
  _print('JAX, training step', _steps(networks, images))
  with tempfile.TemporaryDirectory() as folder:
    files = {k: pathlib.Path(folder, k) for k in networks}
    for key, network in networks.items():
      writers.FORMATS['onnx'].write(str(files[key]), network)
    calls = {k: _runtime(file, pixels) for k, file in files.items()}
    _print('onnxruntime, forward', calls)
    for kind in writers.FORMATS:
      for key, network in networks.items():
        file = files[key].with_suffix('.npz')  # Which all formats accept.
        writers.FORMATS[kind].write(str(file), network)
        files[key] = file
      sizes = [f'{os.path.getsize(file):,}' for file in files.values()]
      print(f'| bytes, {kind} | {" | ".join(sizes)} |')
  _print_products(networks['dense'])


def _networks(name: str) -> dict[str, finished.Network]:
  model = models.create(name, 10)
  variables = jax.device_get(timing.fill(timing.shapes(model)))
  params, stats = variables['params'], variables['batch_stats']
  dense = finished.Network(model, params, stats, *_NO_CHANGE)
  mask = ong_jax.magnitude(sparsity=_SPARSITY)(params)
  masked = jax.device_get(ong_jax.apply_mask(params, mask))
  names, kept = groups.names(model), _half(model)
  shrunk = channels.shrink(variables, names, kept)
  model = model.clone(widths=FrozenDict(channels.widths(kept)))
  return {
    'dense': dense,
    'masked': dense._replace(params=masked),
    'small': dense._replace(model=model, **shrunk),
  }


def _half(model: Any) -> dict[str, np.ndarray]:
  sizes = groups.sizes(model)
  return {group: np.arange(size) % 2 == 0 for group, size in sizes.items()}


def _forward(network: finished.Network, images: np.ndarray) -> Callable:
  variables = jax.device_put(
    {'params': network.params, 'batch_stats': network.batch_stats}
  )
  forward = jax.jit(lambda v, x: network.model.apply(v, x, train=False))
  return lambda: forward(variables, images)


def _steps(
  networks: dict[str, finished.Network], images: np.ndarray
) -> dict[str, Callable]:
  """Training steps: of the small one with the state of the masked one."""
  labels = np.arange(len(images)) % 10
  dense, small = networks['dense'], networks['small']
  names, kept = groups.names(dense.model)['params'], _half(dense.model)
  unstructured = ong_jax.magnitude(sparsity=_SPARSITY)(dense.params)
  sgd = optax.sgd(0.01, momentum=0.9, nesterov=True)
  state = shrinking.shrink_state(
    sgd.init(dense.params), dense.params, names, kept
  )
  masked_tx = ong_jax.masked_transform(sgd, unstructured)
  masked = networks['masked'], masked_tx, masked_tx.init(dense.params)
  return {
    'dense': _step(dense, sgd, sgd.init(dense.params), images, labels),
    'masked': _step(*masked, images, labels),
    'small': _step(small, sgd, state, images, labels),
  }


def _step(network, tx, opt_state, images, labels) -> Callable:
  @jax.jit
  def step(params, opt_state):
    def loss(params):
      logits, new = network.model.apply(
        {'params': params, 'batch_stats': network.batch_stats},
        images,
        train=True,
        mutable=['batch_stats'],
      )
      losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
      return losses.mean(), new

    grads, new = jax.grad(loss, has_aux=True)(params)
    updates, opt_state = tx.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state, new

  params, opt_state = jax.device_put((network.params, opt_state))
  return lambda: step(params, opt_state)


def _runtime(file: pathlib.Path, pixels: np.ndarray) -> Callable:
  session = onnxruntime.InferenceSession(
    str(file), providers=['CPUExecutionProvider']
  )
  return lambda: session.run(None, {'input_0': pixels})


def _print(what: str, calls: dict[str, Callable]) -> None:
  times = interleaved(calls, _REPEATS)
  dense = times['dense'].median
  cells = [
    f'{duration(t.median)} ({t.median / dense:.2f})' for t in times.values()
  ]
  print(f'| {what} | {" | ".join(cells)} |')


def _print_products(network: finished.Network) -> None:
  kernel = max(jax.tree.leaves(network.params), key=np.size)
  matrix = kernel.reshape(-1, kernel.shape[-1])
  x = np.random.default_rng(0).normal(size=(4096, len(matrix)))
  x = x.astype(np.float32)
  print(f'\n| 4096 rows by {matrix.shape} | NumPy | CSR |\n| --- | --- | --- |')
  for sparsity in 0.8, 0.9, 0.95, 0.98, 0.99:
    mask = ong_jax.magnitude(sparsity=sparsity)({'kernel': matrix})
    pruned = np.where(mask['kernel'], matrix, 0)
    csr = sparse.to_scipy(pruned)
    times = interleaved(
      {'NumPy': lambda m=pruned: x @ m, 'CSR': lambda m=csr: x @ m}, _REPEATS
    )
    numpy, ours = times['NumPy'].median, times['CSR'].median
    print(
      f'| {sparsity:.0%} | {duration(numpy)} | {duration(ours)} '
      f'({ours / numpy:.2f}) |'
    )


if __name__ == '__main__':
  main(*sys.argv[1:])
