"""What is left of a trained network that is pruned at once, by each score?

    python -m benchmarks.one_shot RESNET20.npz WORKDIR [ROW ...]

Prunes all kernels of a trained ResNet-20 to 50, 70, 80 and 90 %, and to two of
every four weights, re-estimates BatchNorm on 10,000 training images, and counts
what is right on the whole test set of CIFAR-10. Nothing is trained. Scores that
look at data see ten batches of 128 training images. What is measured already in
WORKDIR is not measured again.
"""

import functools
import json
import pathlib
import sys
import time
from collections.abc import Callable
from typing import Any

import jax

import ong_jax
from experiments import calibration, console, run
from experiments.config import Config
from ong_jax import (
  activations,
  allocation,
  calibrated,
  flow,
  patterns,
  saliency,
  scores,
  surgeon,
)

_COLUMNS = (0.5, 0.7, 0.8, 0.9, '2:4')
_BATCHES = 10


def _rows(data: calibration.Calibration) -> dict[str, Callable]:
  """For each row (sparsity or pattern) -> what prunes: params -> both."""
  batches = data.batches(_BATCHES)

  def once(score, allocate=allocation.pooled, measure=None):
    def make(column):
      budget = {'sparsity': column, 'allocate': allocate}
      if column == '2:4':
        budget = {'pattern': patterns.n_of_m(2, 4)}
      prune = ong_jax.one_shot(score, **budget, measure=measure)
      return lambda params: (params, prune(params))

    return make

  def synflow(column):
    if column == '2:4':  # In one round: what competes does not change.
      return once(scores.identity, measure=flow.synaptic_flow(data.flow))(
        column
      )
    prune = ong_jax.synflow(data.flow, sparsity=column)
    return lambda params: (params, prune(params))

  def wanda(column):
    budget = {'sparsity': column}
    if column == '2:4':
      budget = {'n_of_m': (2, 4)}
    prune = ong_jax.wanda(data.logits, batches, **budget)
    return lambda params: (params, prune(params))

  def sparsegpt(column):
    budget = {'sparsity': column}
    if column == '2:4':
      budget = {'n_of_m': (2, 4)}
    return ong_jax.sparsegpt(data.logits, batches, **budget)

  def compensated(make):
    update = surgeon.compensate(data.logits, batches)

    def prune(column, params):
      params, mask = make(column)(params)
      return update(params, mask), mask

    return lambda column: functools.partial(prune, column)

  ongs = {
    f'ong, {f.__name__}': once(
      scores.ong(jax.random.key(0), saliency=f, rank=7)
    )
    for f in (
      saliency.residual,
      saliency.tempered,
      saliency.recon_mag,
      saliency.recon,
      saliency.signed_residual,
      saliency.rel_residual,
      saliency.component,
    )
  }
  recon_mag = scores.ong(jax.random.key(0), saliency=saliency.recon_mag, rank=7)
  fed = activations.weighted_magnitude(data.logits, batches)
  return {
    'magnitude': once(scores.magnitude),
    'magnitude, uniform': once(scores.magnitude, allocation.uniform),
    'lamp': once(scores.lamp(scores.magnitude)),
    'snip': once(
      scores.identity, measure=calibrated.sensitivity(data.loss, batches)
    ),
    'grasp': once(
      scores.identity, measure=calibrated.gradient_flow(data.loss, batches)
    ),
    'synflow': synflow,
    'wanda': wanda,
    'sparsegpt': sparsegpt,
    **ongs,
    'magnitude, compensated': compensated(once(scores.magnitude)),
    'lamp, compensated': compensated(once(scores.lamp(scores.magnitude))),
    'ong, recon_mag of |w||x|': once(recon_mag, measure=fed),
  }


def main() -> None:
  """Measures the rows that are named, and prints their table."""
  if len(sys.argv) < 3:
    sys.exit(__doc__)
  config = Config(
    method='dense', model='resnet20', dataset='cifar10', init_from=sys.argv[1]
  )
  workdir = pathlib.Path(sys.argv[2])
  workdir.mkdir(parents=True, exist_ok=True)
  setup, params, stats = run.set_up(config, data_dir=None)
  data = calibration.make(setup.config, setup.model, setup.train_data)
  rows = _rows(data)
  table = []
  for name in sys.argv[3:] or rows:
    cells = []
    for column in _COLUMNS:
      path = workdir / f'{name}-{column}.json'.replace(' ', '_')
      if not path.exists():
        path.write_text(
          json.dumps(_measure(setup, rows[name](column), params, stats))
        )
      cells.append(f'{json.loads(path.read_text())["accuracy"]:.2%}')
    table.append(f'| {name} | ' + ' | '.join(cells) + ' |')
    console.log(table[-1])
  heads = [c if c == '2:4' else f'{c:.0%}' for c in _COLUMNS]
  console.log('| score | ' + ' | '.join(heads) + ' |')
  console.log('| --- ' * (len(heads) + 1) + '|')
  for row in table:
    console.log(row)


def _measure(
  setup: Any, prune: Callable, params: Any, stats: Any
) -> dict[str, Any]:
  begun = time.monotonic()
  pruned, mask = jax.block_until_ready(prune(params))
  seconds = time.monotonic() - begun
  pruned = ong_jax.apply_mask(pruned, mask)
  stats = setup.reestimate(pruned, stats, setup.train_data)
  return {
    'accuracy': setup.evaluate(pruned, stats, setup.test_data),
    'sparsity': ong_jax.sparsity(mask),
    'kept': {
      ong_jax.selection.name_of(path): int(m.sum())
      for path, m in jax.tree_util.tree_leaves_with_path(mask)
    },
    'seconds_to_prune': seconds,
  }


if __name__ == '__main__':
  main()
