"""How long does a training step take, against PyTorch on the same machine?

    python -m benchmarks.training [resnet20 | resnet56 | resnet18 | ...] ...

Times are medians of interleaved repeats, of the whole step: augmentation,
gradients, optimizer. On a CPU in float32; on a GPU in bfloat16, PyTorch with
`torch.compile` and its channels last. PyTorch's times are the best of its two
memory formats. Both keep the memory that they free, see
`experiments/memory.py`. Data are random, for time does not depend on them.
"""

import os
import statistics
import sys
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

import ong_jax
from experiments import (
  inputs,
  learning_rates,
  models,
  operations,
  sharding,
  train,
)
from experiments.config import Config

_SPARSITY = 0.95
_NUM_IMAGES = 50_000  # An order is drawn over all of them.
_PIXELS = {'image_mean': (0.5,) * 3, 'image_std': (0.25,) * 3}


def measure(
  name: str,
  *,
  batch_size: int = 128,
  repeats: int = 7,
  steps: int = 1,
  threads: int | None = None,
) -> dict[str, float]:
  """Measures one network.

  Args:
    name: a key of `models.MODELS`.
    batch_size: images in a step.
    repeats: of which the medians are taken.
    steps: between two looks at the clock; of a GPU, many.
    threads: of PyTorch; by default the cores that this process may use, as
      XLA does.

  Returns:
    Seconds a step: 'dense', 'masked', 'torch' and, on a CPU, 'torch
    channels_last'; 'first_step' is the dense one's with its compilation.

  Raises:
    ImportError: without PyTorch.
  """
  config = Config(
    model=name,
    batch_size=batch_size,
    dtype='float32' if _on_cpu() else 'bfloat16',
    **_PIXELS,
  )
  dense = _ours(config, _dense())
  begun = time.perf_counter()
  dense(1)
  first = time.perf_counter() - begun
  calls = {
    'dense': dense,
    'masked': _ours(
      config, ong_jax.static(ong_jax.magnitude(sparsity=_SPARSITY))
    ),
    'torch': _theirs(config, threads, channels_last=not _on_cpu()),
  }
  if _on_cpu():
    calls['torch channels_last'] = _theirs(config, threads, channels_last=True)
  return {'first_step': first} | _interleaved(calls, repeats, steps)


def product_rate(size: int = 8192, repeats: int = 20) -> float:
  """Measures the floating-point operations per second of a matrix product."""
  x = jnp.ones((size, size), jnp.float32 if _on_cpu() else jnp.bfloat16)
  product = jax.jit(lambda x: (x @ x) * jnp.asarray(1 / size, x.dtype))
  x = jax.block_until_ready(product(x))
  begun = time.perf_counter()
  for _ in range(repeats):
    x = product(x)
  jax.block_until_ready(x)
  return 2 * size**3 * repeats / (time.perf_counter() - begun)


def _interleaved(
  calls: dict[str, Callable[[int], None]], repeats: int, steps: int
) -> dict[str, float]:
  for call in calls.values():  # Compiles, and fills the caches.
    call(max(2, steps))
  found = {name: [] for name in calls}
  for _ in range(repeats):
    for name, call in calls.items():
      begun = time.perf_counter()
      call(steps)
      found[name].append((time.perf_counter() - begun) / steps)
  return {name: statistics.median(times) for name, times in found.items()}


def _on_cpu() -> bool:
  return jax.default_backend() == 'cpu'


def _dense() -> ong_jax.SparseMethod:
  return ong_jax.SparseMethod(
    effective=lambda trainable, opt_state, key: trainable,
    finish=lambda trainable, opt_state, key=None: (trainable, None),
  )


def _ours(
  config: Config, method: ong_jax.SparseMethod
) -> Callable[[int], None]:
  """Makes a function that takes so many steps, as a run does."""
  model = models.create(config.model, 10, dtype=config.dtype)
  images = jnp.zeros((1, 32, 32, 3))
  variables = jax.jit(lambda key: model.init(key, images, train=False))(
    jax.random.key(0)
  )
  mesh = sharding.make_mesh(1, config.batch_size, jax.devices()[:1])
  rate = learning_rates.training(config, num_steps=100_000)
  tx = method.transform(train.optimizer(config, rate, config.learning_rate))
  trainable = method.init(variables['params'])
  state = train.TrainState(
    step=jnp.int32(0),
    trainable=trainable,
    opt_state=tx.init(trainable),
    stats=variables['batch_stats'],
    loss=jnp.float32(0),
    correct=jnp.int32(0),
  )
  splits = sharding.shardings(mesh, state)
  state = jax.device_put(state, splits)
  step = train.make_train_step(config, model, mesh, method, tx)
  loop = train.make_loop(step, splits, fused=not _on_cpu())
  random = np.random.default_rng(0)
  data = inputs.Images(
    jnp.asarray(random.integers(0, 256, (_NUM_IMAGES, 32, 32, 3), np.uint8)),
    jnp.asarray(random.integers(0, 10, _NUM_IMAGES, np.int32)),
  )
  data = sharding.replicate(mesh, data)

  def take(steps):
    nonlocal state
    state = jax.block_until_ready(loop(state, data, steps))

  return take


def _theirs(
  config: Config, threads: int | None, channels_last: bool
) -> Callable[[int], None]:
  """Makes the same of PyTorch."""
  try:
    import torch
  except ImportError as error:
    raise ImportError(
      'This benchmark compares with PyTorch: `pip install torch`.'
    ) from error
  from torch.nn import functional

  torch.set_num_threads(threads or len(os.sched_getaffinity(0)))
  device = torch.device('cpu' if _on_cpu() else 'cuda')
  memory = torch.channels_last if channels_last else torch.contiguous_format
  model = models.create(config.model, 10)
  network = _torch_network(torch, model).to(device).to(memory_format=memory)
  run = network if _on_cpu() else torch.compile(network)
  sgd = torch.optim.SGD(
    network.parameters(),
    config.learning_rate,
    config.momentum,
    weight_decay=config.weight_decay,
    nesterov=True,
    foreach=not _on_cpu(),
  )
  images = torch.randint(
    0, 256, (_NUM_IMAGES, 3, 32, 32), dtype=torch.uint8, device=device
  )
  labels = torch.randint(0, 10, (_NUM_IMAGES,), device=device)
  order = torch.randperm(_NUM_IMAGES, device=device)
  batch, pixels, taken = config.batch_size, torch.arange(32, device=device), 0

  def augmented(x):
    corners = torch.randint(0, 9, (2, batch, 1), device=device) + pixels
    flips = torch.rand((batch, 1), device=device) < 0.5
    columns = torch.where(flips, corners[1].flip(-1), corners[1])
    which = torch.arange(batch, device=device)[:, None, None]
    padded = functional.pad(x, (4, 4, 4, 4)).permute(0, 2, 3, 1)
    return padded[which, corners[0][:, :, None], columns[:, None, :]]

  def take(steps):
    nonlocal taken
    for _ in range(steps):
      first = taken * batch % (_NUM_IMAGES - batch + 1)
      taken += 1
      ids = order[first : first + batch]
      x = augmented(images[ids]).permute(0, 3, 1, 2).float()
      x = ((x / 255 - 0.5) / 0.25).contiguous(memory_format=memory)
      sgd.zero_grad()
      with torch.autocast(device.type, torch.bfloat16, enabled=not _on_cpu()):
        logits = run(x)
      functional.cross_entropy(logits.float(), labels[ids]).backward()
      sgd.step()
    if not _on_cpu():
      torch.cuda.synchronize()

  return take


def _torch_network(torch, model: models.ResNet):
  """The same network, in training mode."""
  nn, functional = torch.nn, torch.nn.functional

  def conv(inputs, outputs, size, stride):
    return nn.Sequential(
      nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False),
      nn.BatchNorm2d(outputs),
    )

  class Block(nn.Module):
    def __init__(self, inputs, outputs, stride):
      super().__init__()
      self.conv1 = conv(inputs, outputs, 3, stride)
      self.conv2 = conv(outputs, outputs, 3, 1)
      self.stride, self.missing = stride, outputs - inputs
      changes = stride > 1 or self.missing > 0
      self.projection = None
      if changes and model.projection:
        self.projection = conv(inputs, outputs, 1, stride)

    def forward(self, x):
      y = self.conv2(functional.relu(self.conv1(x)))
      if self.projection is not None:
        x = self.projection(x)
      elif self.stride > 1 or self.missing:
        half = self.missing // 2
        x = x[:, :, :: self.stride, :: self.stride]
        x = functional.pad(x, (0, 0, 0, 0, half, half))
      return functional.relu(y + x)

  layers, channels = [conv(3, model.width, 3, 1), nn.ReLU()], model.width
  for stage, num_blocks in enumerate(model.num_blocks):
    for block in range(num_blocks):
      outputs = model.width * 2**stage
      stride = 2 if stage > 0 and block == 0 else 1
      layers.append(Block(channels, outputs, stride))
      channels = outputs
  layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
  return nn.Sequential(*layers, nn.Linear(channels, model.num_classes)).train()


def _operations(name: str) -> int:
  """Counts a step's for one image: gradients cost twice what outputs do."""
  return 2 * 3 * sum(operations.macs(models.create(name, 10)).values())


def main(*names: str) -> None:
  """Prints a table, with a line for each network."""
  options = {} if _on_cpu() else {'batch_size': 512, 'steps': 50}
  batch = options.get('batch_size', 128)
  rate = product_rate(2048 if _on_cpu() else 8192)
  print(
    f'Batches of {batch}, {_SPARSITY:.0%} sparsity, '
    f'{jax.devices()[0].device_kind}, matrix products of {rate / 1e9:,.0f} '
    'GFLOP/s\n\n| network | first step | dense | masked | masked / dense '
    '| PyTorch | dense / PyTorch | images/s | of the rate of products |\n'
    + '| --- ' * 9
    + '|'
  )
  for name in names or ('resnet20', 'resnet56', 'resnet18'):
    found = measure(name, **options)
    dense = found['dense']
    theirs = min(t for key, t in found.items() if key.startswith('torch'))
    print(
      f'| {name} | {found["first_step"]:.1f} s | {dense * 1e3:.1f} ms '
      f'| {found["masked"] * 1e3:.1f} ms | {found["masked"] / dense:.3f} '
      f'| {theirs * 1e3:.1f} ms | {dense / theirs:.2f} | {batch / dense:,.0f} '
      f'| {_operations(name) * batch / dense / rate:.1%} |',
      flush=True,
    )


if __name__ == '__main__':
  main(*sys.argv[1:])
