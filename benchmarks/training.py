"""How long does a training step take, against PyTorch on the same machine?

    python -m benchmarks.training [resnet20 | resnet56 | resnet18 | ...] ...

Times are medians of interleaved repeats, of the whole step: augmentation,
gradients, optimizer. On a CPU in float32; on a GPU in bfloat16, PyTorch with
`torch.compile` and its channels last. On a CPU PyTorch's times are the best of
its two memory formats. Data are random, for time does not depend on them.
"""

import sys
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

import ong_jax
from benchmarks import peer
from benchmarks.measure import (
  Row,
  duration,
  interleaved,
  machine,
  table,
  verdict,
)
from experiments import (
  inputs,
  learning_rates,
  models,
  operations,
  sharding,
  train,
)
from experiments.config import Config

NETWORKS = ('resnet20', 'resnet56', 'resnet18')
_SPARSITY = 0.95
_MASKED_GOAL = 1.02  # Of the dense step.
_PIXELS = {'image_mean': (0.5,) * 3, 'image_std': (0.25,) * 3}


def rows(
  name: str,
  repeats: int = 7,
  masked: bool = True,
  formats: tuple[bool, ...] = (False, True),
) -> list[Row]:
  """Of a dense step against PyTorch's, and of a masked against the dense.

  Args:
    name: of the network.
    repeats: of each, of which the medians are taken.
    masked: whether to time the masked step, too.
    formats: whether PyTorch's channels come last; of several, the fastest
      counts. On a GPU they do.
  """
  on_cpu = _on_cpu()
  batch, steps = (128, 1) if on_cpu else (512, 50)
  config = Config(
    model=name,
    batch_size=batch,
    dtype='float32' if on_cpu else 'bfloat16',
    **_PIXELS,
  )
  pruner = ong_jax.magnitude(sparsity=_SPARSITY)
  calls = {'dense': _ours(config, _dense())}
  if masked:
    calls['masked'] = _ours(config, ong_jax.static(pruner))
  for last in formats if on_cpu else (True,):
    calls[f'torch {last}'] = peer.steps(config, on_cpu, channels_last=last)
  times = interleaved(
    {key: lambda call=call: call(steps) for key, call in calls.items()}, repeats
  )
  seconds = {key: time.median / steps for key, time in times.items()}
  dense = seconds['dense']
  theirs = min(seconds[key] for key in seconds if key.startswith('torch'))
  # The gradients cost twice what the outputs do.
  work = 2 * 3 * sum(operations.macs(models.create(name, 10)).values()) * batch
  share = work / dense / product_rate(2048 if on_cpu else 8192)
  title = f'training step, {name}, batch {batch}, {config.dtype}'
  goal = 1.0 if on_cpu else 1 / 1.3
  found = [
    Row(
      title,
      f'PyTorch {duration(theirs)}',
      f'{duration(dense)}, {batch / dense:,.0f} images/s, {share:.0%} of the '
      'rate of a matrix product',
      f'{dense / theirs:.2f}',
      f'{goal:.2f}',
      verdict(dense / theirs, goal, 'a-training-step'),
    )
  ]
  if masked:
    ratio = seconds['masked'] / dense
    found.append(
      Row(
        f'{title}, {_SPARSITY:.0%} masked',
        f'dense {duration(dense)}',
        duration(seconds['masked']),
        f'{ratio:.3f}',
        f'{_MASKED_GOAL}',
        verdict(ratio, _MASKED_GOAL, 'a-training-step'),
      )
    )
  return found


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
    nonfinite=jnp.int32(0),
  )
  splits = sharding.shardings(mesh, state)
  state = jax.device_put(state, splits)
  step = train.make_train_step(config, model, mesh, method, tx)
  loop = train.make_loop(step, splits, fused=not _on_cpu())
  random = np.random.default_rng(0)
  data = inputs.Images(
    jnp.asarray(
      random.integers(0, 256, (peer.NUM_IMAGES, 32, 32, 3), np.uint8)
    ),
    jnp.asarray(random.integers(0, 10, peer.NUM_IMAGES, np.int32)),
  )
  data = sharding.replicate(mesh, data)

  def take(steps):
    nonlocal state
    state = jax.block_until_ready(loop(state, data, steps))

  return take


def main(*names: str) -> None:
  """Prints the table."""
  print(f'{machine()}\n')
  print(table([row for name in names or NETWORKS for row in rows(name)]))


if __name__ == '__main__':
  main(*sys.argv[1:])
