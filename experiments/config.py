"""Every default of a run, in one place."""

import dataclasses
import difflib
import math
import numbers
from collections.abc import Collection, Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Config:
  """What decides the numbers of a run; stored beside its results."""

  method: str = 'ong'
  sparsity: float = 0.95  # Fraction of the prunable weights, in [0, 1).
  model: str = 'resnet56'
  dataset: str = 'cifar10'
  train_images: int = 0  # The first of every class, as many of each; 0: all.
  # Of every class the last, which are not trained on. What is said of the test
  # set is then of them; 0: the test set itself.
  validation_images: int = 0
  # Of the method, as its recipe names them. Those not given have defaults.
  options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  epochs: float = 200  # Of sparse training; 0 only prunes and evaluates.
  dense_epochs: float = 0  # Before it; 0 prunes at the outset.
  batch_size: int = 128
  learning_rate: float = 0.1  # Peak.
  schedule: str = 'linear'  # Decay to 0: 'linear' or 'cosine'.
  warmup_fraction: float = 0.05  # Of the steps, from 0 to the peak.
  momentum: float = 0.9  # Nesterov's.
  weight_decay: float = 5e-4  # On all parameters.
  label_smoothing: float = 0.0
  bn_images: int = 10_000  # For BatchNorm after pruning; 0 leaves it as it was.
  augment: bool = True  # Crop after padding by 4, flip.
  initializer: str = 'he'
  # Of training before pruning, which retraining rates look back at. None: the
  # `dense_epochs`, or what a network that is loaded has had.
  original_epochs: float | None = None
  # .npz or .safetensors under PyTorch's names, or a workdir.
  init_from: str | None = None
  image_mean: tuple[float, ...] | None = None  # Of pixels / 255; None: what
  image_std: tuple[float, ...] | None = None  # `init_from` or the data have.
  dtype: str = 'float32'  # Of the computation.
  # Of a step whose loss or gradients are not: 'report' counts it, 'skip' also
  # takes it as one without gradients.
  nonfinite: str = 'report'
  # Epochs between two evaluations; 0: only where a part of the run ends.
  evaluate_every: int = 1
  seed: int = 0  # Of weights and batches; the factorization has its own key.
  model_parallel: int = 1  # Devices that share each kernel.


SCHEDULES = ('linear', 'cosine')
DTYPES = ('float32', 'bfloat16')
_INTEGERS = (
  *('batch_size', 'bn_images', 'evaluate_every', 'model_parallel', 'seed'),
  *('train_images', 'validation_images'),
)
NONFINITE = ('report', 'skip')


def check(config: Config, choices: Mapping[str, Collection[str]]) -> None:
  """Raises a `ValueError` that names the field, before anything is computed.

  Args:
    config: to look at.
    choices: what the fields that are names may be, beside this file's own.

  Example:
    >>> check(Config(method='mangitude'), {'method': ['ong', 'magnitude']})
    Traceback (most recent call last):
      ...
    ValueError: `method` must be one of ong, magnitude, got 'mangitude'. \
The nearest is 'magnitude'.
  """
  for name, known in {
    **choices,
    'schedule': SCHEDULES,
    'dtype': DTYPES,
    'nonfinite': NONFINITE,
  }.items():
    check_choice(name, getattr(config, name), known)
  for name, low, high in (
    ('sparsity', 0, 1),
    ('warmup_fraction', 0, 1),
    ('momentum', 0, 1),
    ('label_smoothing', 0, 1),
    ('learning_rate', 0, math.inf),
    ('weight_decay', 0, math.inf),
    ('epochs', 0, math.inf),
    ('dense_epochs', 0, math.inf),
    ('original_epochs', 0, math.inf),
    ('batch_size', 1, 2**31),
    ('bn_images', 0, 2**31),
    ('train_images', 0, 2**31),
    ('validation_images', 0, 2**31),
    ('evaluate_every', 0, 2**31),
    ('model_parallel', 1, 2**31),
    ('seed', 0, 2**32),
  ):
    value = getattr(config, name)
    if value is None and name == 'original_epochs':
      continue
    kind = numbers.Integral if name in _INTEGERS else numbers.Real
    if not isinstance(value, kind) or isinstance(value, bool):
      what = 'an integer' if name in _INTEGERS else 'a number'
      raise TypeError(f'`{name}` must be {what}, got {value!r}.')
    if not low <= value < high:
      raise ValueError(f'`{name}` must lie in [{low}, {high}), got {value}.')
  _check_normalization(config)


def _check_normalization(config: Config) -> None:
  for name, above in (('image_mean', -math.inf), ('image_std', 0)):
    value = getattr(config, name)
    if value is not None and not (
      isinstance(value, tuple | list)
      and len(value) == 3
      and all(isinstance(x, numbers.Real) for x in value)
      and all(above < x < math.inf for x in value)
    ):
      raise ValueError(
        f'`{name}` must have three finite numbers above {above}, one for each '
        f'color, got {value!r}.'
      )


def check_choice(name: str, value: str, known: Collection[str]) -> None:
  """Raises a `ValueError` with the nearest choice, unless `value` is one.

  Example:
    >>> check_choice('dtype', 'float32', ['float32', 'bfloat16'])
  """
  if value not in known:
    nearest = difflib.get_close_matches(str(value), known, n=1, cutoff=0)[0]
    raise ValueError(
      f'`{name}` must be one of {", ".join(known)}, got {value!r}. '
      f'The nearest is {nearest!r}.'
    )
