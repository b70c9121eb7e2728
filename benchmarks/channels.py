"""Is a network without channels as fast as its table of latencies says?

    python -m benchmarks.channels RUN [DATA_DIR]

RUN is the `--workdir` of a finished run of `iee-channels` by latency, DATA_DIR
what `--data_dir` was, if it was given. Makes the smaller network, compares its
logits with those of the masked one on 500 test images, and measures both it and
the dense one, in turns.
"""

import pathlib
import sys

import jax
import numpy as np
from flax.core import FrozenDict

from experiments import (
  checkpoints,
  console,
  data,
  groups,
  inputs,
  latency,
  models,
  timing,
)
from experiments.config import Config
from ong_jax import channels, costs

_REPEATS = 15
_IMAGES = 500


def main() -> None:
  """Prints what was predicted, and what is measured."""
  if len(sys.argv) not in (2, 3):
    sys.exit(__doc__)
  run = pathlib.Path(sys.argv[1])
  params, stats, fields = checkpoints.load_final(str(run))
  dataset = data.load(fields['dataset'], *sys.argv[2:])
  model = models.create(fields['model'], dataset.num_classes)
  masked, names = {'params': params, 'batch_stats': stats}, groups.names(model)
  nonzero = jax.tree.map(lambda p: np.asarray(p) != 0, params)
  kept = channels.collapse(names['params'], nonzero)
  widths = channels.widths(kept)
  small = model.clone(widths=FrozenDict(widths))
  shrunk = channels.shrink(masked, names, kept)
  config = Config(
    image_mean=fields['image_mean'], image_std=fields['image_std']
  )
  images = inputs.normalize(config, dataset.test_images[:_IMAGES])
  ours, theirs = (
    jax.jit(lambda v, x, m=m: m.apply(v, x, train=False))(v, images)
    for m, v in ((small, shrunk), (model, masked))
  )
  table = latency.load(run / 'latency.json')
  left = {g: width // table.blocks[g] for g, width in widths.items()}
  times = timing.network_latency(
    {'dense': (model, masked), 'small': (small, shrunk)},
    batch_size=fields['batch_size'],
    repeats=_REPEATS,
  )
  predicted = {
    'dense': int(costs.total(table, costs.num_blocks(table))),
    'small': int(costs.total(table, left)),
  }
  size = sum(x.size for x in jax.tree.leaves(shrunk['params']))
  console.log(f'channels left: {widths}')
  console.log(
    f'parameters: {size:,} of {sum(x.size for x in jax.tree.leaves(params)):,}'
  )
  console.log(
    f'logits differ by {abs(ours - theirs).max():.1e} at most, of '
    f'{abs(theirs).max():.1f}'
  )
  console.log(f'| batches of {fields["batch_size"]} | predicted | measured |')
  console.log('| --- | --- | --- |')
  for name, seen in times.items():
    told = predicted[name]
    console.log(
      f'| {name} | {told / 1e3:.1f} ms ({told / predicted["dense"]:.2f}) | '
      f'{seen / 1e3:.1f} ms ({seen / times["dense"]:.2f}) |'
    )


if __name__ == '__main__':
  main()
