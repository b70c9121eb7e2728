"""Does every method learn?

    python -m benchmarks.every_method WORKDIR [METHOD ...]

Trains a ResNet-8 by each method (all of them, if none is named) at 90 %
sparsity (those of N in every M: 75 %) for 8 epochs of `cifar10_mini`, and
prints a table. What a method's own cycles have in the paper is scaled to the
run, and stands in `result.json`. A run that is finished in WORKDIR is not run
again. One short run each is no ranking: it shows that a method works.
"""

import pathlib
import sys

from experiments import console
from experiments.config import Config
from experiments.methods import METHODS
from experiments.run import run

_USUAL = {'sparsity': 0.9, 'epochs': 8}
# These keep one of every four weights.
_N_OF_M = ('iee-nm', 'magnitude-nm', 'sr-ste', 'mask-decay', 'structure-decay')
_OWN = {
  'imp': {'dense_epochs': 4, 'epochs': 4},  # Prunes what was trained before.
} | {name: {'sparsity': 0.75} for name in _N_OF_M}


def main() -> None:
  """Runs the methods that are named, and prints their table."""
  if len(sys.argv) < 2:
    sys.exit(__doc__)
  workdir = pathlib.Path(sys.argv[1])
  rows = []
  for name in sys.argv[2:] or METHODS:
    config = Config(
      method=name,
      model='resnet8',
      dataset='cifar10_mini',
      **(_USUAL | _OWN.get(name, {})),
    )
    result = run(config, workdir=str(workdir / name))
    last = result['prunings'][-1:]
    before = last[0]['accuracy_before'] if last else None
    after = last[0]['accuracy_after'] if last else None
    rows.append(
      f'| `{name}` | {result["test_accuracy"]:.2%} | '
      f'{result["sparsity"]:.4%} | {result["speedup"]:.2f} | '
      + (f'{before:.2%} -> {after:.2%} |' if last else '- |')
    )
  head = 'method | test accuracy | sparsity | MAC speed-up | last pruning'
  for row in [f'| {head} |', '| --- | --- | --- | --- | --- |', *rows]:
    console.log(row)


if __name__ == '__main__':
  main()
