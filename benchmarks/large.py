"""How near the machine's bandwidth is ONG on a transformer?

    python -m benchmarks.large [layers]

Layers of width 2,048 have 50 million weights each; twenty, the default, have a
billion. A sweep of the factorization has to read the weights twice, which at
the bandwidth of a copy is its limit. Peak memory is the device's own account,
which a CPU does not give. For a GPU; on a CPU, try one layer.
"""

import sys

import jax
import jax.numpy as jnp

import ong_jax
from benchmarks.measure import (
  NOT_MEASURED,
  Row,
  Times,
  duration,
  interleaved,
  machine,
  table,
  verdict,
)
from benchmarks.scaling import transformer_layer
from ong_jax import allocation, saliency, scores, selection

_WIDTH = 2048
_RANK = 8
_SWEEPS = (5, 15)  # The difference is free of what comes before and after.
_SLOWDOWN_GOAL = 2.0
_MEMORY_GOAL = 1.3


def rows(layers: int = 20, repeats: int = 5) -> list[Row]:
  """Of a sweep, of the whole pruner, of `top_k`, and of memory."""
  params = {f'layer{i}': transformer_layer(_WIDTH) for i in range(layers)}
  weights = selection.select(params)
  size = sum(leaf.size for leaf in jax.tree.leaves(weights))
  times, bandwidth = _times(weights, repeats)
  sweep = times['many'].median - times['few'].median
  sweep /= _SWEEPS[1] - _SWEEPS[0]
  limit = 2 * 4 * size / bandwidth
  stats = jax.devices()[0].memory_stats() or {}
  before = stats.get('bytes_in_use')
  prune = ong_jax.ong(
    jax.random.key(0),
    sparsity=0.95,
    saliency=saliency.residual,
    rank=_RANK,
  )
  pruning = interleaved({'ong': lambda: prune(params)}, 1)['ong']
  return [
    Row(
      f'a sweep over {size:,} weights, rank {_RANK}',
      f'two reads at {bandwidth / 1e9:,.0f} GB/s {duration(limit)}',
      duration(sweep),
      f'{sweep / limit:.2f}',
      f'{_SLOWDOWN_GOAL}',
      verdict(sweep / limit, _SLOWDOWN_GOAL, 'large-models'),
    ),
    Row(
      f'top-k of {size:,} scores',
      f'a read {duration(limit / 2)}',
      duration(times['top-k'].median),
      f'{times["top-k"].median / limit * 2:.1f}',
    ),
    Row(
      f'`ong` of {size:,} weights, first call / later',
      ours=f'{duration(pruning.first)} / {duration(pruning.median)}',
    ),
    _memory(before, 4 * size),
  ]


def _times(weights: dict, repeats: int) -> tuple[dict[str, Times], float]:
  """Of parts of pruning, and bytes per second of a copy."""
  key, ranked = jax.random.key(0), scores.magnitude(weights)
  kept = allocation.pooled(weights, 0.95)
  block = jnp.ones(2**28 if jax.default_backend() != 'cpu' else 2**25)
  copy = jax.jit(lambda x: x + 1)

  def factorize(sweeps):
    return saliency.factorize(key, weights, _RANK, max_sweeps=sweeps, tol=0.0)

  times = interleaved(
    {
      'copy': lambda: copy(block),
      'few': lambda: factorize(_SWEEPS[0]),
      'many': lambda: factorize(_SWEEPS[1]),
      'top-k': lambda: ong_jax.top_k(ranked, kept),
    },
    repeats,
  )
  return times, 2 * block.nbytes / times['copy'].median


def _memory(before: int | None, weights: int) -> Row:
  """Of the peak, less what was there before beside the weights."""
  what = 'peak memory of `ong` / memory of the weights'
  if before is None:
    return Row(what, ours=NOT_MEASURED, goal=f'{_MEMORY_GOAL}')
  # The peak is of the whole process: here pruning comes last, and needs most.
  peak = jax.devices()[0].memory_stats()['peak_bytes_in_use']
  ratio = (peak - before + weights) / weights
  return Row(
    what,
    ours=f'{ratio:.2f}',
    goal=f'{_MEMORY_GOAL}',
    verdict=verdict(ratio, _MEMORY_GOAL, 'large-models'),
  )


def main(layers: str = '20') -> None:
  """Prints the table."""
  print(f'{machine()}\n')
  print(table(rows(int(layers))))


if __name__ == '__main__':
  main(*sys.argv[1:])
