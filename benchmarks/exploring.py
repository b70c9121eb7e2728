"""Does it help to explore? IEE against the same criterion without it.

    python -m benchmarks.exploring WORKDIR

Trains a ResNet-8 at 90 % sparsity for 10 epochs of `cifar10_mini`, three seeds,
Erdos-Renyi-kernel densities, by magnitude, by Taylor and by ONG's recon_mag:
under the criterion's mask of the outset (static), under that mask as IEE moves
it, and under a random mask as IEE moves it, which is how the paper begins; and
under the random mask itself. Equal steps. Prints the runs and the differences
between pairs of the same seed. A run that is finished in WORKDIR is not run
again.
"""

import pathlib
import sys

import numpy as np

from experiments import report
from experiments.config import Config
from experiments.run import run

_SEEDS = (0, 1, 2)
_ARMS = {
  'static': {'first': 'criterion', 'fraction': 0.0},
  'IEE': {'first': 'criterion'},
  'IEE from random': {'first': 'random'},
}


def main() -> None:
  """Runs what is not done yet, and prints the tables."""
  if len(sys.argv) != 2:
    sys.exit(__doc__)
  workdir = pathlib.Path(sys.argv[1])
  found = {}
  for seed in _SEEDS:
    for criterion in ('magnitude', 'taylor', 'recon_mag'):
      for arm, options in _ARMS.items():
        name = f'{criterion}-{arm.replace(" ", "-")}-{seed}'
        found[criterion, arm, seed] = _accuracy(
          workdir / name, 'iee', seed, options | {'criterion': criterion}
        )
    found['random', 'static', seed] = _accuracy(
      workdir / f'random-{seed}', 'random', seed, {}
    )
  cells = {key[:2]: [found[*key[:2], seed] for seed in _SEEDS] for key in found}
  report.log('| criterion | training | seeds 0, 1, 2 | mean |')
  report.log('| --- | --- | --- | --- |')
  for (criterion, arm), values in cells.items():
    runs = ', '.join(f'{x:.2%}' for x in values)
    report.log(f'| {criterion} | {arm} | {runs} | {np.mean(values):.2%} |')
  report.log('| criterion | difference | mean | standard deviation |')
  report.log('| --- | --- | --- | --- |')
  for criterion, arm in cells:
    if arm != 'static':
      than = 'random' if arm == 'IEE from random' else criterion
      gaps = np.subtract(cells[criterion, arm], cells[than, 'static'])
      report.log(
        f'| {criterion} | {arm} - {than} static | {gaps.mean():+.2%} | '
        f'{gaps.std(ddof=1):.2%} |'
      )


def _accuracy(
  path: pathlib.Path, method: str, seed: int, options: dict
) -> float:
  config = Config(
    method=method,
    sparsity=0.9,
    model='resnet8',
    dataset='cifar10_mini',
    epochs=10,
    seed=seed,
    options=options,
  )
  return run(config, workdir=str(path))['test_accuracy']


if __name__ == '__main__':
  main()
