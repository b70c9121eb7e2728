"""How long does it take to make and to keep a mask, against what it could take?

    python -m benchmarks.pruning [resnet18 | resnet56 | ...]

`numpy.partition`, which finds a threshold and no mask, and sorting in JAX are
the peers of `top_k`; the same optimizer without `masked_transform` is that of
the masked update. `first` includes the compilation, which is what a user waits
for who prunes once.
"""

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax

import ong_jax
from benchmarks.measure import (
  Row,
  duration,
  interleaved,
  machine,
  seconds,
  table,
  verdict,
)
from experiments import models
from ong_jax import allocation, saliency, scores, selection

_SPARSITIES = (0.5, 0.8, 0.95, 0.99, 0.999)
_GOAL_S = 0.2


@functools.cache
def initial_params(name: str) -> dict:
  """The params of a network of `experiments.models`."""
  model = models.create(name, 10)
  images = jnp.zeros((1, 32, 32, 3))
  init = jax.jit(lambda key: model.init(key, images, train=False))
  return init(jax.random.key(0))['params']


def rows(name: str = 'resnet18', repeats: int = 7) -> list[Row]:
  """Of `top_k` at several sparsities, in one ranking and by leaf."""
  weights = selection.select(initial_params(name))
  ranked = jax.block_until_ready(scores.magnitude(weights))
  flat = np.concatenate([np.ravel(x) for x in jax.tree.leaves(ranked)])
  found = []
  for sparsity in _SPARSITIES:
    kept = allocation.pooled(weights, sparsity)
    each = allocation.erk(weights, sparsity)
    times = interleaved(
      {
        'numpy': lambda kept=kept: np.partition(flat, flat.size - kept),
        'pooled': lambda kept=kept: ong_jax.top_k(ranked, kept),
        'each': lambda each=each: ong_jax.top_k(ranked, each),
      },
      repeats,
    )
    for how, title in (('pooled', 'in one ranking'), ('each', 'by leaf')):
      found.append(
        Row(
          f'exact top-k of {flat.size:,} scores, {sparsity:.1%} sparse, '
          f'{title}',
          f'`numpy.partition` {duration(times["numpy"].median)}',
          duration(times[how].median),
          f'{times[how].median / times["numpy"].median:.1f}',
          f'{_GOAL_S} s',
          verdict(times[how].median, _GOAL_S, 'top-k'),
        )
      )
  return found


def sorting(name: str = 'resnet18') -> Row:
  """Of sorting all scores once, in JAX."""
  weights = selection.select(initial_params(name))
  leaves = jax.tree.leaves(scores.magnitude(weights))
  flat = jnp.concatenate([x.ravel() for x in leaves])
  sort = seconds(lambda: jnp.sort(flat))
  return Row('', f'`jnp.sort` of {flat.size:,} {duration(sort)}', ours='')


def pruners(name: str = 'resnet18', repeats: int = 5) -> list[Row]:
  """Of whole pruners, with and without compilation."""
  params, key = initial_params(name), jax.random.key(0)
  times = interleaved(
    {
      'magnitude': lambda: ong_jax.magnitude(sparsity=0.95)(params),
      'random': lambda: ong_jax.random(key, sparsity=0.95)(params),
      'ong-reconstructed': lambda: ong_jax.ong(
        key, sparsity=0.95, saliency=saliency.residual, rank=7
      )(params),
    },
    repeats,
  )
  return [
    Row(
      f'`{pruner}` of {name}, first call / later',
      ours=f'{duration(time.first)} / {duration(time.median)}',
    )
    for pruner, time in times.items()
  ]


def updates(name: str = 'resnet18', repeats: int = 11) -> Row:
  """Of the optimizer's update alone: of a whole step see `training`."""
  params = initial_params(name)
  sgd = optax.sgd(0.1, 0.9, nesterov=True)
  mask = ong_jax.magnitude(sparsity=0.95)(params)
  calls = {}
  for title, tx in (
    ('dense', sgd),
    ('masked', ong_jax.masked_transform(sgd, mask)),
  ):
    update, state = jax.jit(tx.update), tx.init(params)
    calls[title] = lambda update=update, state=state: update(
      params, state, params
    )
  times = interleaved(calls, repeats)
  return Row(
    f'update of {name} alone, masked',
    f'the same, dense {duration(times["dense"].median)}',
    duration(times['masked'].median),
    f'{times["masked"].median / times["dense"].median:.2f}',
  )


def everything(name: str = 'resnet18', repeats: int = 7) -> list[Row]:
  """All of the above."""
  return [
    *rows(name, repeats),
    sorting(name),
    *pruners(name, repeats),
    updates(name),
  ]


def main(name: str = 'resnet18') -> None:
  """Prints the table of one network."""
  print(f'{name}; {machine()}\n')
  print(table(everything(name)))


if __name__ == '__main__':
  main(*sys.argv[1:])
