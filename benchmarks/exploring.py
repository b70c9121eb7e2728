"""Does it help to explore? IEE against the same criterion without it.

    python -m benchmarks.exploring WORKDIR [random]

Trains a ResNet-8 at 90 % sparsity for 8 epochs of `cifar10_mini`, three seeds,
Erdos-Renyi-kernel densities, by magnitude, by Taylor and by ONG's recon_mag:
under the criterion's mask of the outset (static), and under that mask as IEE
moves it. With `random` it begins with a random mask, as the paper does. Equal
steps. Prints the runs, and the differences between pairs of the same seed. A
run that is finished in WORKDIR is not run again.
"""

import pathlib
import sys

import numpy as np

from experiments import console
from experiments.config import Config
from experiments.run import run

_SEEDS = (0, 1, 2)
_ARMS = {'static': 0.0, 'IEE': 0.3}  # The fraction that the first cycle moves.


def main() -> None:
  """Runs what is not done yet, and prints the tables."""
  first = sys.argv[2] if len(sys.argv) == 3 else 'criterion'
  if len(sys.argv) not in (2, 3) or first not in ('criterion', 'random'):
    sys.exit(__doc__)
  workdir = pathlib.Path(sys.argv[1])
  rows, pairs = [], []
  for criterion in ('magnitude', 'taylor', 'recon_mag'):
    found = {}
    for arm, fraction in _ARMS.items():
      options = {'criterion': criterion, 'first': first, 'fraction': fraction}
      found[arm] = [
        _accuracy(workdir / f'{first}-{criterion}-{arm}-{seed}', seed, options)
        for seed in _SEEDS
      ]
      runs = ', '.join(f'{x:.2%}' for x in found[arm])
      rows.append(
        f'| {criterion} | {arm} | {runs} | {np.mean(found[arm]):.2%} |'
      )
    gaps = np.subtract(found['IEE'], found['static'])
    pairs.append(
      f'| {criterion} | {gaps.mean():+.2%} | {gaps.std(ddof=1):.2%} |'
    )
  console.log(f'| criterion (first mask: {first}) | training | seeds | mean |')
  for row in ('| --- | --- | --- | --- |', *rows):
    console.log(row)
  console.log('| criterion | IEE - static, mean | standard deviation |')
  for row in ('| --- | --- | --- |', *pairs):
    console.log(row)


def _accuracy(path: pathlib.Path, seed: int, options: dict) -> float:
  config = Config(
    method='iee',
    sparsity=0.9,
    model='resnet8',
    dataset='cifar10_mini',
    epochs=8,
    seed=seed,
    options=options,
  )
  return run(config, workdir=str(path))['test_accuracy']


if __name__ == '__main__':
  main()
