"""Directories of runs as finished runs leave them, without running any."""

import dataclasses
import json
import math
import pathlib

from experiments import studies
from experiments.config import Config

_LAYERS = {'conv1/kernel': (3, 3, 3, 16), 'fc/kernel': (64, 10)}


def finish(out, accuracy, *, lines=2, reached=None, **fields):
  """Writes what a run of a config leaves: its directory is returned."""
  fields = {'model': 'resnet8', 'dataset': 'synthetic', 'epochs': 2.0} | fields
  config = Config(**fields)
  path = pathlib.Path(out, studies.name(config))
  path.mkdir(parents=True)
  sparsity = 0.0 if config.method == 'dense' else config.sparsity
  sparsity = sparsity if reached is None else reached
  prunable = sum(map(math.prod, _LAYERS.values()))
  result = dataclasses.asdict(config) | {
    'sparsity_asked': config.sparsity,
    'test_accuracy': accuracy,
    'sparsity': sparsity,
    'kept': prunable - round(sparsity * prunable),
    'prunable': prunable,
    'speedup': 1 / (1 - sparsity),
    'train_flops': (1 - sparsity / 2) * 1e9,
    'train_flops_dense': 1e9,
    'seconds': 80.0,
    'device': '1 x cpu',
    'versions': {'jax': '0.10.2'},
    'layers': [
      {'path': name, 'shape': shape, 'sparsity': sparsity * share}
      for (name, shape), share in zip(_LAYERS.items(), (0.9, 1))
    ],
  }
  (path / 'config.json').write_text(json.dumps(dataclasses.asdict(config)))
  (path / 'result.json').write_text(json.dumps(result))
  with (path / 'metrics.jsonl').open('w') as file:
    for i in range(1, lines + 1):
      line = {'step': 4 * i, 'epoch': i, 'test_accuracy': accuracy * i / lines}
      file.write(json.dumps(line) + '\n')
    file.write('{"torn": ')
  return path


def study(out):
  """Writes the runs of a small study: (method, sparsity) x two seeds."""
  for seed in 0, 1:
    finish(out, 0.90 + 0.02 * seed, method='dense', sparsity=0, seed=seed)
    for i, sparsity in enumerate((0.8, 0.9, 0.95, 0.99)):
      for j, method in enumerate(('ong', 'magnitude', 'random', 'rigl')):
        accuracy = 0.85 - 0.05 * i + 0.01 * j + 0.02 * seed
        finish(out, accuracy, method=method, sparsity=sparsity, seed=seed)
