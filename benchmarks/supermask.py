"""Is there a supermask in random weights?

    python -m benchmarks.supermask WORKDIR [DATA_DIR]

For each of three seeds, ProbMask learns which weights of a ResNet-8 to keep;
the weights stay the signed constants that were drawn. On the very same weights
stand two random masks: one density for all layers, and the layer counts of the
supermask, shuffled within each. All three are evaluated alike, with BatchNorm
re-estimated on training images. A run that is finished in WORKDIR is not run
again.
"""

import pathlib
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

import ong_jax
from experiments import (
  checkpoints,
  console,
  data,
  evaluation,
  inputs,
  models,
  networks,
  sharding,
)
from experiments.config import Config
from experiments.run import run
from ong_jax import scores, selection

_SEEDS = (0, 1, 2)


def main() -> None:
  """Runs all seeds, and prints their table."""
  if not 2 <= len(sys.argv) <= 3:
    sys.exit(__doc__)
  data_dir = sys.argv[2] if len(sys.argv) == 3 else None
  rows = []
  for seed in _SEEDS:
    config = Config(
      method='probmask-supermask',
      sparsity=0.5,
      model='resnet8',
      dataset='cifar10',
      epochs=5,
      # At equal cost, one sample and twice the steps came further than two.
      options={'samples': 1},
      initializer='signed',
      seed=seed,
    )
    path = str(pathlib.Path(sys.argv[1]) / str(seed))
    run(config, data_dir=data_dir, workdir=path)
    rows.append(_row(config, data_dir, path))
    console.log(rows[-1])
  head = (
    'seed | supermask | random, one density | random, the same layer counts | '
    'kept | weights as drawn'
  )
  for row in [f'| {head} |', '|' + ' --- |' * 6, *rows]:
    console.log(row)


def _row(config: Config, data_dir: str | None, path: str) -> str:
  """Compares the supermask of a finished run with random ones."""
  measure, drawn = _network(config, data_dir)
  found, _, _ = checkpoints.load_final(path)
  # No weight is drawn as 0: what is 0 is pruned.
  mask = jax.tree.map(lambda w: w != 0, selection.select(found))
  counts = jax.tree.map(jnp.sum, mask)
  kept = sum(int(n) for n in jax.tree.leaves(counts))
  total = sum(m.size for m in jax.tree.leaves(mask))
  same = jax.tree.map(jnp.array_equal, found, ong_jax.apply_mask(drawn, mask))
  draw = scores.random(jax.random.key(config.seed))
  shuffled = ong_jax.top_k(draw(selection.select(drawn)), counts)
  uniform = ong_jax.one_shot(draw, config.sparsity)(drawn)
  accuracies = [
    f'{measure(ong_jax.apply_mask(drawn, m)):.2%}'
    for m in (mask, uniform, shuffled)
  ]
  return (
    f'| {config.seed} | {" | ".join(accuracies)} | {kept:,} of {total:,} '
    f'({kept / total:.2%}) | {"yes" if all(jax.tree.leaves(same)) else "no"} |'
  )


def _network(
  config: Config, data_dir: str | None
) -> tuple[Callable[[Any], float], Any]:
  """Returns `params -> test accuracy`, and the params as they were drawn."""
  mesh = sharding.make_mesh(1, config.batch_size)
  dataset = data.load(config.dataset, data_dir)
  model = models.create(
    config.model, dataset.num_classes, initializer=config.initializer
  )
  params, stats, config = networks.initial(config, model, dataset)
  evaluate = evaluation.make_evaluate(config, model, mesh)
  reestimate = evaluation.make_reestimate(config, model, mesh)
  train = inputs.Images(dataset.train_images, dataset.train_labels)
  test = inputs.Images(dataset.test_images, dataset.test_labels)
  return lambda p: evaluate(p, reestimate(p, stats, train), test), params


if __name__ == '__main__':
  main()
