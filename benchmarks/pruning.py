"""How long does it take to make and to keep a mask, against what it could take?

    python -m benchmarks.pruning [resnet56 | resnet18 | ...]

Times are medians of interleaved repeats. `first` includes the compilation,
which is what a user waits for who prunes once. The exact threshold by
`numpy.partition` and a full `jnp.sort` are the peers of top-k; the same step
without `masked_transform` is that of the masked step.
"""

import statistics
import sys
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

import ong_jax
from experiments import models
from ong_jax import allocation, scores, selection

_REPEATS = 7


def _seconds(call: Callable) -> float:
  start = time.perf_counter()
  jax.block_until_ready(call())
  return time.perf_counter() - start


def _compare(title: str, calls: dict[str, Callable]) -> None:
  """Prints a table whose ratios are to the first line."""
  firsts = {name: _seconds(call) for name, call in calls.items()}
  repeats = {name: [] for name in calls}
  for _ in range(_REPEATS):
    for name, call in calls.items():
      repeats[name].append(_seconds(call))
  medians = {name: statistics.median(times) for name, times in repeats.items()}
  base = next(iter(medians.values()))
  print(f'\n| {title} | first | then | ratio |\n| --- | --- | --- | --- |')
  for name, median in medians.items():
    print(
      f'| {name} | {firsts[name]:.2f} s | {median * 1e3:.1f} ms '
      f'| {median / base:.2f} |'
    )


def main(name: str = 'resnet56') -> None:
  """Prints the tables of one network."""
  model = models.create(name, 10)
  images = jnp.zeros((1, 32, 32, 3))
  params = jax.jit(lambda key: model.init(key, images, train=False))(
    jax.random.key(0)
  )['params']
  weights = selection.select(params)
  size = sum(leaf.size for leaf in jax.tree.leaves(weights))
  print(f'{name}, {size:,} weights, {jax.devices()[0].device_kind}')
  ranked = jax.block_until_ready(scores.magnitude(weights))
  flat = np.concatenate([np.ravel(x) for x in jax.tree.leaves(ranked)])
  on_device = jnp.asarray(flat)
  kept = allocation.pooled(weights, 0.95)
  per_leaf = allocation.erk(weights, 0.95)
  sort = jax.jit(jnp.sort)
  _compare(
    'top-k',
    {
      'numpy.partition': lambda: np.partition(flat, size - kept),
      'ong_jax.top_k, pooled': lambda: ong_jax.top_k(ranked, kept),
      'ong_jax.top_k, per leaf': lambda: ong_jax.top_k(ranked, per_leaf),
      'jnp.sort': lambda: sort(on_device),
    },
  )
  key = jax.random.key(0)
  _compare(
    'pruner',
    {
      'magnitude': lambda: ong_jax.magnitude(sparsity=0.95)(params),
      'random': lambda: ong_jax.random(key, sparsity=0.95)(params),
      'ong': lambda: ong_jax.ong(key, sparsity=0.95)(params),
    },
  )
  mask = ong_jax.magnitude(sparsity=0.95)(params)
  sgd = optax.sgd(0.1, 0.9, nesterov=True)
  calls = {}
  for title, tx in {
    'sgd': sgd,
    'masked_transform(sgd)': ong_jax.masked_transform(sgd, mask),
  }.items():
    update = jax.jit(tx.update)
    state = tx.init(params)
    calls[title] = lambda update=update, state=state: update(
      params, state, params
    )
  _compare('update', calls)


if __name__ == '__main__':
  main(*sys.argv[1:])
