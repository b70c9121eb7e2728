"""How long does it take to factorize a network, against scikit-learn?

    python -m benchmarks.nmf [--quick]

All kernels of a ResNet-18 (`--quick`: of a ResNet-20) as [fan_in, features], at
rank 8. The peer is scikit-learn's coordinate descent from the same starts, 50
sweeps without a tolerance, at one thread and, if there are as many cores, at
two; it compiles nothing. Ours
makes as few sweeps as reach the peer's total loss. `first` includes the
compilation, without a cache of programs; `cached` is the first call of a fresh
process that finds the program in JAX's cache on disk, imports excluded. The
times of `warm` are medians of interleaved repeats.

Needs scikit-learn. On one core: `taskset -c 0 python -m benchmarks.nmf`.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from experiments import models
from ong_jax import saliency, selection, starts

_RANK = 8
_PEER_SWEEPS = 50


def _weights(name: str) -> dict:
  model = models.create(name, 10)
  images = jnp.zeros((1, 32, 32, 3))
  params = jax.jit(lambda key: model.init(key, images, train=False))(
    jax.random.key(0)
  )['params']
  return selection.select(params)


def _ours(weights: dict, sweeps: int) -> tuple[float, float]:
  """Returns seconds and the total of ||V - W H||^2."""
  start = time.perf_counter()
  factors = saliency.factorize(
    jax.random.key(0), weights, _RANK, max_sweeps=sweeps, tol=0.0
  )
  jax.block_until_ready(factors)
  seconds = time.perf_counter() - start
  found = jax.tree.leaves(factors, is_leaf=lambda x: hasattr(x, 'loss'))
  matrices = map(saliency.as_matrix, jax.tree.leaves(weights))
  return seconds, sum(_loss(v, f.w, f.h) for v, f in zip(matrices, found))


def _loss(v, w, h):
  v, w, h = (np.asarray(x, np.float64) for x in (v, w, h))
  return float(np.sum(np.square(v - w @ h)))


def _peer(weights: dict) -> Callable:
  """Prepares scikit-learn's run: threads -> seconds, total loss."""
  from sklearn.decomposition import NMF
  from threadpoolctl import threadpool_limits

  problems = []
  keys = jax.tree.leaves(selection.leaf_keys(jax.random.key(0), weights))
  for key, kernel in zip(keys, jax.tree.leaves(weights)):
    v = saliency.as_matrix(kernel)
    rank = max(1, min(_RANK, min(v.shape) // 2))
    w, h = starts.random_start(key, v, rank)
    problems.append([np.array(x) for x in (v, w, h)])

  def run(threads):
    start, found = time.perf_counter(), []
    with threadpool_limits(threads), warnings.catch_warnings():
      warnings.simplefilter('ignore')  # That it did not converge.
      for v, w, h in problems:
        peer = NMF(
          len(h), init='custom', solver='cd', tol=0, max_iter=_PEER_SWEEPS
        )
        found.append((peer.fit_transform(v, W=w, H=h), peer.components_))
    seconds = time.perf_counter() - start
    return seconds, sum(_loss(v, *f) for (v, *_), f in zip(problems, found))

  return run


def _threads() -> range:
  """Of the peer: 2 only where there are 2 cores, else they fight for one."""
  return range(1, min(2, len(os.sched_getaffinity(0))) + 1)


def _fresh(name: str, sweeps: int, cache: str) -> float:
  """Seconds of the first call of a process with a cache of programs."""
  command = [sys.executable, '-m', 'benchmarks.nmf', '--once', name]
  environment = os.environ | {
    'JAX_COMPILATION_CACHE_DIR': cache,
    'JAX_ENABLE_COMPILATION_CACHE': 'true',
  }
  done = subprocess.run(
    [*command, str(sweeps)],
    env=environment,
    check=True,
    capture_output=True,
    text=True,
  )
  return json.loads(done.stdout.splitlines()[-1])


def _once(name: str, sweeps: str) -> None:
  print(json.dumps(_ours(_weights(name), int(sweeps))[0]))


def rows(quick: bool = False) -> dict[str, float]:
  """Measures; times in seconds, losses are totals of ||V - W H||^2."""
  name = 'resnet20' if quick else 'resnet18'
  weights = _weights(name)
  peer = _peer(weights)
  _, peer_loss = peer(1)
  # As many sweeps as it takes: each number is a program, so not all are tried.
  for sweeps in range(11, _PEER_SWEEPS + 1, 2):
    _, loss = _ours(weights, sweeps)
    if loss <= peer_loss:
      break
  calls = {'warm': lambda: _ours(weights, sweeps)}
  for threads in _threads():
    calls[f'peer_{threads}'] = lambda threads=threads: peer(threads)
  times = {name: [] for name in calls}
  for _ in range(7):
    for title, call in calls.items():
      time.sleep(0.2)  # Threads of the one before spin for a while.
      times[title].append(call()[0])
  result = {title: statistics.median(x) for title, x in times.items()}
  with tempfile.TemporaryDirectory() as cache:
    result['first'] = _fresh(name, sweeps, cache)  # Which fills the cache.
    result['cached'] = _fresh(name, sweeps, cache)
  size = sum(leaf.size for leaf in jax.tree.leaves(weights))
  return result | {
    'weights': size,
    'sweeps': sweeps,
    'loss': loss,
    'peer_loss': peer_loss,
  }


def main(*arguments: str) -> None:
  """Prints the table."""
  if arguments[:1] == ('--once',):
    return _once(*arguments[1:])
  found = rows('--quick' in arguments)
  best = min(found[f'peer_{threads}'] for threads in _threads())
  device = jax.devices()[0].device_kind
  cores = len(os.sched_getaffinity(0))
  print(f'{found["weights"]:,} weights, rank {_RANK}, {device}, {cores} cores')
  print('\n| NMF | time | ratio to the best peer | sweeps | loss |')
  print('| --- | --- | --- | --- | --- |')
  for title, name, sweeps, loss in (
    *(
      (f'scikit-learn, threads: {n}', f'peer_{n}', _PEER_SWEEPS, 'peer_loss')
      for n in _threads()
    ),
    ('ong_jax, first, no cache', 'first', found['sweeps'], 'loss'),
    ('ong_jax, first, filled cache', 'cached', found['sweeps'], 'loss'),
    ('ong_jax, warm', 'warm', found['sweeps'], 'loss'),
  ):
    print(
      f'| {title} | {found[name]:.3f} s | {found[name] / best:.2f} | {sweeps} '
      f'| {found[loss]:.4f} |'
    )
  return None


if __name__ == '__main__':
  main(*sys.argv[1:])
