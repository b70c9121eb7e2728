"""Draws the pictures beside this file, from masks and runs of its own.

    python -m docs.pictures

Thirty runs of three epochs on made-up images take three minutes on two CPU
cores.
"""

import itertools
import pathlib

import jax
import jax.numpy as jnp

import ong_jax
from experiments import models, run
from experiments.config import Config
from ong_jax import plots

HERE = pathlib.Path(__file__).with_name('pictures')
_METHODS = ('ong', 'magnitude', 'random')
_SPARSITIES = (0.9, 0.95, 0.98)
_RUNS = Config(
  model='resnet8',
  dataset='synthetic',
  epochs=3,
  batch_size=64,
  augment=False,
)


def masks() -> dict[str, ong_jax.types.Mask]:
  """Prunes a ResNet-8 at the outset to 5 %, in three ways."""
  model = models.create('resnet8', num_classes=10)
  images = jnp.zeros((1, 32, 32, 3))
  params = model.init(jax.random.key(0), images, train=False)['params']
  pruners = {
    'ong': ong_jax.ong(jax.random.key(1), sparsity=0.95),
    'magnitude': ong_jax.magnitude(sparsity=0.95),
    'random': ong_jax.random(jax.random.key(2), sparsity=0.95),
  }
  return {name: prune(params) for name, prune in pruners.items()}


def rows() -> list[dict]:
  """Trains each method at each sparsity, and dense, from three seeds."""
  settings = [
    {'method': method, 'sparsity': sparsity}
    for method, sparsity in itertools.product(_METHODS, _SPARSITIES)
  ] + [{'method': 'dense'}]
  return [
    run.run(Config(**{**vars(_RUNS), **setting, 'seed': seed}))
    for setting, seed in itertools.product(settings, range(3))
  ]


def main() -> None:
  """Draws all, and stores them for a page: 110 points an inch."""
  found = masks()
  pictures = {
    'kernel': plots.kernel(found['ong']['layer1_0']['conv1']['kernel']),
    'densities': plots.densities(*found.values(), labels=list(found)),
    'overlap': plots.overlap(found['ong'], found['magnitude']),
    'accuracy': plots.accuracy(rows()),
  }
  for name, ax in pictures.items():
    # No date and no version: the same picture is the same file.
    ax.figure.savefig(
      HERE / f'{name}.png', dpi=110, metadata={'Software': None}
    )


if __name__ == '__main__':
  main()
