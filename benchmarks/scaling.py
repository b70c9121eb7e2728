"""Does the cost grow in proportion to the weights?

    python -m benchmarks.scaling [--quick]

The kernels of a transformer's layer, from one million weights to 256 (16 with
`--quick`): time of the factorization, of `top_k`, of masking and of the
summary, after compilation. The exponent is the slope of log time over log
weights, from the second size on; of the first, overheads are a part.
"""

import math
import sys

import jax
import numpy as np

import ong_jax
from benchmarks.measure import (
  Row,
  duration,
  interleaved,
  machine,
  table,
  verdict,
)
from ong_jax import allocation, saliency, scores, selection

_GOAL = 1.05


def transformer_layer(width: int) -> dict:
  """Random kernels of attention and of a multilayer perceptron."""
  shapes = dict.fromkeys(('query', 'key', 'value', 'out'), (width, width))
  shapes |= {'up': (width, 4 * width), 'down': (4 * width, width)}
  draw = jax.jit(
    lambda key, shape: jax.random.normal(key, (math.prod(shape),)).reshape(
      shape
    ),
    static_argnums=1,
  )
  return {
    name: {'kernel': draw(jax.random.key(i), shape)}
    for i, (name, shape) in enumerate(shapes.items())
  }


def times_of(width: int, repeats: int) -> tuple[int, dict[str, float]]:
  """Number of weights, and seconds of each operation on them."""
  params = transformer_layer(width)
  weights = selection.select(params)
  size = sum(leaf.size for leaf in jax.tree.leaves(weights))
  ranked = jax.block_until_ready(scores.magnitude(weights))
  kept = allocation.pooled(weights, 0.95)
  mask = ong_jax.top_k(ranked, kept)
  key, masked = jax.random.key(0), jax.jit(ong_jax.apply_mask)
  calls = {
    'factorization': lambda: saliency.factorize(
      key, weights, 8, max_sweeps=20, tol=0.0
    ),
    'top-k': lambda: ong_jax.top_k(ranked, kept),
    'masking': lambda: masked(params, mask),
    'summary': lambda: ong_jax.summarize(mask),
  }
  return size, {
    name: time.median for name, time in interleaved(calls, repeats).items()
  }


def rows(quick: bool = False) -> list[Row]:
  """A row for each operation."""
  widths = [288 * 2**i for i in range(3 if quick else 5)]
  sizes, times = zip(*(times_of(width, 3 if quick else 5) for width in widths))
  found = []
  for name in times[0]:
    values = [time[name] for time in times]
    exponent = np.polyfit(np.log(sizes[1:]), np.log(values[1:]), 1)[0]
    found.append(
      Row(
        f'{name}, {sizes[0] / 1e6:.0f} M to {sizes[-1] / 1e6:.0f} M weights',
        ours=', '.join(duration(value) for value in values),
        ratio=f'exponent {exponent:.2f}',
        goal=f'{_GOAL}',
        verdict=verdict(exponent, _GOAL, 'scaling'),
      )
    )
  return found


def main(*arguments: str) -> None:
  """Prints the table."""
  print(f'{machine()}\n')
  print(table(rows(quick='--quick' in arguments)))


if __name__ == '__main__':
  main(*sys.argv[1:])
