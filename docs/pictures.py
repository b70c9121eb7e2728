"""Draws the pictures beside this file.

    python -m docs.pictures [NAME ...]

From masks and runs of its own: thirty runs of three epochs on made-up images,
for `accuracy`, take three minutes on two CPU cores. `comparison` is of the
results that are in the repository.
"""

import functools
import itertools
import pathlib
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from matplotlib.figure import Figure

import ong_jax
from experiments import dots, models, paired, rows, run
from experiments.config import Config, check_choice
from ong_jax import plots

HERE = pathlib.Path(__file__).with_name('pictures')
RUNS = HERE.parents[1] / 'results' / 'runs' / 'cpu-compare'
_REFERENCE = 'random (learning_rate=0.8)'
_METHODS = ('ong', 'magnitude', 'random')
_SPARSITIES = (0.9, 0.95, 0.98)
_RUNS = Config(
  model='resnet8',
  dataset='synthetic',
  epochs=3,
  batch_size=64,
  augment=False,
)


@functools.cache
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


def trained() -> list[dict]:
  """Trains each method at each sparsity, and dense, from three seeds."""
  settings = [
    {'method': method, 'sparsity': sparsity}
    for method, sparsity in itertools.product(_METHODS, _SPARSITIES)
  ] + [{'method': 'dense'}]
  return [
    run.run(Config(**{**vars(_RUNS), **setting, 'seed': seed}))
    for setting, seed in itertools.product(settings, range(3))
  ]


def comparison() -> Any:
  """Draws by how much rows of the committed comparison are ahead of random."""
  runs, _ = rows.read([RUNS])
  (section,) = rows.sections(runs)
  found = paired.against(section, _REFERENCE)
  return dots.differences(section, found)


PICTURES: dict[str, Callable[[], Any]] = {
  'kernel': lambda: plots.kernel(masks()['ong']['layer1_0']['conv1']['kernel']),
  'densities': lambda: plots.densities(*masks().values(), labels=list(masks())),
  'overlap': lambda: plots.overlap(masks()['ong'], masks()['magnitude']),
  'accuracy': lambda: plots.accuracy(trained()),
  'comparison': comparison,
}


def main() -> None:
  """Draws all or those named, and stores them for a page: 110 dots an inch."""
  for name in sys.argv[1:] or PICTURES:
    check_choice('NAME', name, PICTURES)
    drawn = PICTURES[name]()
    figure = drawn if isinstance(drawn, Figure) else drawn.figure
    # No date and no version: the same picture is the same file.
    figure.savefig(HERE / f'{name}.png', dpi=110, metadata={'Software': None})


if __name__ == '__main__':
  main()
