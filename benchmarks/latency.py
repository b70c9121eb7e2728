"""Does a sum of layers predict what a narrower network takes?

    python -m benchmarks.latency [resnet56 | ...] [batch size] [block] [clock]

Measures the table of latencies, then the network itself at a few widths, alike
for all groups. The table is measured once, the networks in turns, so the
prediction for the whole network is off by what the machine changed in between.
The clock is `wall`, or `process` for a core that is shared; then bind it to one
with `taskset -c 1`.
"""

import sys
import time

from flax.core import FrozenDict

from experiments import groups, latency, models, timing
from ong_jax import costs

_REPEATS = 15
_CLOCKS = {'wall': time.perf_counter_ns, 'process': time.process_time_ns}
_FRACTIONS = (1, 3 / 4, 1 / 2, 1 / 4, 0)  # Of the blocks; at least one stays.


def main(
  name: str = 'resnet56',
  batch_size: str = '64',
  per_block: str = '8',
  clock: str = 'wall',
) -> None:
  """Prints the table of one network."""
  model = models.create(name, 10)
  blocks = dict.fromkeys(groups.sizes(model), int(per_block))
  table = latency.measure(
    model,
    groups.names(model)['params'],
    blocks,
    batch_size=int(batch_size),
    repeats=_REPEATS,
    clock=_CLOCKS[clock],
  )
  dense = costs.num_blocks(table)
  left = {
    f: {g: max(1, round(f * n)) for g, n in dense.items()} for f in _FRACTIONS
  }
  networks = {}
  for fraction, num_blocks in left.items():
    widths = {g: n * blocks[g] for g, n in num_blocks.items()}
    small = model.clone(widths=FrozenDict(widths))
    networks[fraction] = small, timing.fill(timing.shapes(small))
  times = timing.network_latency(
    networks,
    batch_size=int(batch_size),
    repeats=_REPEATS,
    clock=_CLOCKS[clock],
  )
  print(
    f'{name}, batches of {batch_size}, blocks of {per_block}, {clock} clock, '
    f'{table.rest / 1e3:.1f} ms outside of what can be pruned'
  )
  print('| blocks left | predicted | measured | ratio to all |')
  print('| --- | --- | --- | --- |')
  for fraction, measured in times.items():
    predicted = int(costs.total(table, left[fraction]))
    print(
      f'| {fraction:g} | {predicted / 1e3:.1f} ms | {measured / 1e3:.1f} ms '
      f'| {measured / times[1]:.2f} |'
    )


if __name__ == '__main__':
  main(*sys.argv[1:])
