"""A training step of the same network in PyTorch."""

import os
from collections.abc import Callable

from experiments import models
from experiments.config import Config

NUM_IMAGES = 50_000  # Random ones, for time does not depend on them.


def steps(
  config: Config, on_cpu: bool, channels_last: bool
) -> Callable[[int], None]:
  """Makes a function that takes so many training steps with PyTorch.

  Args:
    config: of a run; what `benchmarks.training` trains.
    on_cpu: whether on a CPU in float32, with all the cores that this process
      may use; else on a GPU in bfloat16, with `torch.compile`.
    channels_last: the memory format of images.

  Raises:
    ImportError: without PyTorch.
  """
  try:
    import torch
  except ImportError as error:
    raise ImportError(
      'This benchmark compares with PyTorch: install requirements-bench.txt.'
    ) from error
  from torch.nn import functional

  torch.set_num_threads(len(os.sched_getaffinity(0)))
  device = torch.device('cpu' if on_cpu else 'cuda')
  memory = torch.channels_last if channels_last else torch.contiguous_format
  model = models.create(config.model, 10)
  network = _network(torch, model).to(device).to(memory_format=memory)
  run = network if on_cpu else torch.compile(network)
  sgd = torch.optim.SGD(
    network.parameters(),
    config.learning_rate,
    config.momentum,
    weight_decay=config.weight_decay,
    nesterov=True,
    foreach=not on_cpu,
  )
  images = torch.randint(
    0, 256, (NUM_IMAGES, 3, 32, 32), dtype=torch.uint8, device=device
  )
  labels = torch.randint(0, 10, (NUM_IMAGES,), device=device)
  order = torch.randperm(NUM_IMAGES, device=device)
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
      first = taken * batch % (NUM_IMAGES - batch + 1)
      taken += 1
      ids = order[first : first + batch]
      x = augmented(images[ids]).permute(0, 3, 1, 2).float()
      x = ((x / 255 - 0.5) / 0.25).contiguous(memory_format=memory)
      sgd.zero_grad()
      with torch.autocast(device.type, torch.bfloat16, enabled=not on_cpu):
        logits = run(x)
      functional.cross_entropy(logits.float(), labels[ids]).backward()
      sgd.step()
    if not on_cpu:
      torch.cuda.synchronize()

  return take


def _network(torch, model: models.ResNet):
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
