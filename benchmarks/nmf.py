"""How long does it take to factorize a network, against scikit-learn?

    python -m benchmarks.nmf [--quick]

All kernels of a ResNet-18 as [fan_in, features], at rank 8. The peer is
scikit-learn's coordinate descent from the same starts, 50 sweeps without a
tolerance, the best of one thread and, if there are as many cores, two; it
compiles nothing. Ours makes as few sweeps as reach the peer's total loss. Times
of a fresh process exclude its imports.

Needs scikit-learn. On one core: `taskset -c 0 python -m benchmarks.nmf`.
"""

import json
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from benchmarks.measure import (
  Row,
  duration,
  interleaved,
  machine,
  seconds,
  table,
  verdict,
)
from benchmarks.pruning import initial_params
from ong_jax import packing, saliency, selection, starts

_MODEL, _RANK, _PEER_SWEEPS = 'resnet18', 8, 50
_GOALS = {  # Of the peer's time.
  'warm': 0.2,
  'compilation included, empty cache': 2.0,
  'compilation cache filled, fresh process': 0.8,
}

Factors = list[tuple[np.ndarray, np.ndarray]]


def _ours(weights: dict, sweeps: int) -> Any:
  return saliency.factorize(
    jax.random.key(0), weights, _RANK, max_sweeps=sweeps, tol=0.0
  )


def _factors(found: Any) -> Factors:
  leaves = jax.tree.leaves(found, is_leaf=lambda x: hasattr(x, 'loss'))
  return [(leaf.w, leaf.h) for leaf in leaves]


def _loss(vs: list[np.ndarray], factors: Factors) -> float:
  """The total of ||V - W H||^2."""
  return sum(
    float(np.sum(np.square(np.float64(v) - np.float64(w) @ np.float64(h))))
    for v, (w, h) in zip(vs, factors)
  )


def _starts(weights: dict, vs: list[np.ndarray]) -> Factors:
  """Where `factorize` starts from."""
  keys = jax.tree.leaves(selection.leaf_keys(jax.random.key(0), weights))
  ranks = [max(1, min(_RANK, min(v.shape) // 2)) for v in vs]

  @jax.jit
  def draw(keys):
    packed = packing.pack(vs)
    factors = starts.random_factors(packed, keys, ranks)
    return packing.side_by_side(packed, *factors)

  factors = map(np.asarray, draw(jax.numpy.stack(keys)))
  ws, hs = packing.apart(*factors, [v.shape for v in vs], ranks)
  roots = [np.sqrt(v.mean()) for v in vs]
  return [(w * root, h * root) for w, h, root in zip(ws, hs, roots)]


def _peer(vs: list[np.ndarray], begin: Factors, threads: int) -> Factors:
  from sklearn.decomposition import NMF
  from threadpoolctl import threadpool_limits

  found = []
  with threadpool_limits(threads), warnings.catch_warnings():
    warnings.simplefilter('ignore')  # That it did not converge.
    for v, (w, h) in zip(vs, begin):
      peer = NMF(
        len(h), init='custom', solver='cd', tol=0, max_iter=_PEER_SWEEPS
      )
      w = peer.fit_transform(v, W=np.array(w), H=np.array(h))
      found.append((w, peer.components_))
  return found


def _fewest(reaches: Callable[[int], bool], most: int) -> int:
  """The least number that reaches, by bisection; `most` if none does."""
  low, high = 0, most
  while high - low > 1:
    middle = (low + high) // 2
    low, high = (low, middle) if reaches(middle) else (middle, high)
  return high


def _fresh(sweeps: int, cache: str) -> float:
  """Seconds of the first call of a process with a cache of programs."""
  environment = os.environ | {
    'JAX_COMPILATION_CACHE_DIR': cache,
    'JAX_ENABLE_COMPILATION_CACHE': 'true',
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
  }
  done = subprocess.run(
    [sys.executable, '-m', 'benchmarks.nmf', '--once', str(sweeps)],
    env=environment,
    check=True,
    capture_output=True,
    text=True,
  )
  return json.loads(done.stdout.splitlines()[-1])


def _once(sweeps: str) -> None:
  weights = selection.select(initial_params(_MODEL))
  print(json.dumps(seconds(lambda: _ours(weights, int(sweeps)))))


def rows(quick: bool = False) -> list[Row]:
  """A row for each state of the compilation cache."""
  weights = selection.select(initial_params(_MODEL))
  vs = [np.array(saliency.as_matrix(x)) for x in jax.tree.leaves(weights)]
  begin = _starts(weights, vs)
  peer_loss = _loss(vs, _peer(vs, begin, 1))

  def loss(sweeps):
    return _loss(vs, _factors(_ours(weights, sweeps)))

  sweeps = _fewest(lambda sweeps: loss(sweeps) <= peer_loss, 2 * _PEER_SWEEPS)
  calls: dict[str, Callable] = {'warm': lambda: _ours(weights, sweeps)}
  # Two threads only where there are two cores, else they fight for one.
  threads = range(1, min(2, len(os.sched_getaffinity(0))) + 1)
  for n in threads:
    calls[f'peer {n}'] = lambda n=n: _peer(vs, begin, n)
  measured = interleaved(calls, 3 if quick else 7)
  peer_s, n = min((measured[f'peer {n}'].median, n) for n in threads)
  times = {'warm': measured['warm'].median}
  with tempfile.TemporaryDirectory() as cache:
    for state in list(_GOALS)[1:]:  # The first run fills the cache.
      times[state] = _fresh(sweeps, cache)
  size = sum(v.size for v in vs)
  return [
    Row(
      f'NMF of all kernels of {_MODEL} ({size:,} weights), rank {_RANK}, '
      f'{state}',
      f'scikit-learn, threads: {n}, {duration(peer_s)}, {_PEER_SWEEPS} sweeps, '
      f'loss {peer_loss:.3f}',
      f'{duration(times[state])}, {sweeps} sweeps, loss {loss(sweeps):.3f}',
      f'{times[state] / peer_s:.2f}',
      f'{goal}',
      verdict(times[state] / peer_s, goal, 'the-factorization')
      if loss(sweeps) <= peer_loss
      else 'its loss was not reached',
    )
    for state, goal in _GOALS.items()
  ]


def main(*arguments: str) -> None:
  """Prints the table."""
  if arguments[:1] == ('--once',):
    return _once(*arguments[1:])
  print(f'{machine()}\n')
  print(table(rows('--quick' in arguments)))
  return None


if __name__ == '__main__':
  main(*sys.argv[1:])
