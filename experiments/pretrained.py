"""Reads networks that were trained with PyTorch, without PyTorch."""

import contextlib
import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import models

# The input of the public CIFAR networks is (pixel / 255 - MEAN) / STD, with
# ImageNet's numbers, not CIFAR's own.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)

_OURS_TO_TORCH = {
  'kernel': 'weight',
  'scale': 'weight',
  'bias': 'bias',
  'mean': 'running_mean',
  'var': 'running_var',
  'shortcut_conv': 'shortcut.0',
  'shortcut_bn': 'shortcut.1',
}
_TORCH_AXES = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}  # HWIO to OIHW, IO to OI.


def load_torch(path: str, params: Any, batch_stats: Any) -> tuple[Any, Any]:
  """Reads an .npz of a PyTorch state dict into the trees of one of `models`.

  PyTorch's `layer1.0.conv1.weight` [out, in, height, width] is our
  `layer1_0/conv1/kernel` [height, width, in, out]; the other names follow. A
  projection may be called `shortcut` or `downsample`, the classifier `linear`
  or `fc`; `num_batches_tracked` is not read. A module is saved by

    np.savez(path, **{k: v.numpy() for k, v in module.state_dict().items()})

  Args:
    path: the file.
    params: tree to fill. Only names and shapes are read, so what
      `jax.eval_shape` makes of the model's `init` will do.
    batch_stats: likewise.

  Returns:
    The two trees with the file's values, in float32.

  Raises:
    ValueError: if the file is not such an .npz, or its names and shapes are
      not exactly those of the trees, or a value is not finite.

  Example:
    >>> model = models.create('resnet20', num_classes=10)
    >>> init = functools.partial(model.init, train=False)
    >>> images = jnp.zeros((1, 32, 32, 3))
    >>> shapes = jax.eval_shape(init, jax.random.key(0), images)
    >>> load_torch('resnet20.npz', **shapes)  # doctest: +SKIP
  """
  arrays = _read(path)
  try:
    return _fill(arrays, params, batch_stats)
  except ValueError as error:
    raise ValueError(
      f'{str(path)!r} does not fit the model: {error}. {_way_out(arrays)}'
    ) from error


def _read(path: str) -> dict[str, np.ndarray]:
  advice = 'Save a PyTorch module as the docstring of `load_torch` shows.'
  try:
    # Not `np.load`, which takes whatever is no zip file for a pickle.
    with open(path, 'rb') as file, np.lib.npyio.NpzFile(file) as members:
      arrays = {
        name: np.asarray(members[name])  # Bytes in another kind of zip file.
        for name in members
        if not name.endswith('num_batches_tracked')
      }
  except FileNotFoundError as error:
    raise ValueError(f'{str(path)!r} is not there.') from error
  except Exception as error:  # Damage shows in six types, zlib's among them.
    raise ValueError(
      f'{str(path)!r} cannot be read as an .npz file ({error}). {advice}'
    ) from error
  for name, array in arrays.items():
    if array.dtype.kind != 'f':
      raise ValueError(
        f'{str(path)!r} must hold floats, but {name!r} is of type '
        f'{array.dtype}. {advice}'
      )
    if not np.isfinite(array).all():
      raise ValueError(
        f'{str(path)!r} must hold finite values, but {name!r} of shape '
        f'{array.shape} has {np.sum(~np.isfinite(array))} that are not.'
      )
  return arrays


def _fill(arrays: dict[str, np.ndarray], *trees: Any) -> tuple[Any, ...]:
  """Returns the trees with their leaves read, and nothing left over."""
  names = {_without_aliases(name): name for name in arrays}
  unread = set(arrays)

  def read(key_path, leaf):
    ours = jax.tree_util.keystr(key_path, simple=True, separator='/')
    axes = _TORCH_AXES[leaf.ndim]
    shape = tuple(leaf.shape[axis] for axis in axes)
    name = names.get(_torch_name(ours), _torch_name(ours))
    if name not in arrays:
      raise ValueError(
        f'it has no array {name!r} of shape {shape} for the leaf {ours!r}'
      )
    if arrays[name].shape != shape:
      raise ValueError(
        f'its array {name!r} has shape {arrays[name].shape}, but the leaf '
        f'{ours!r} needs {shape}'
      )
    unread.remove(name)
    return jnp.asarray(arrays[name].transpose(np.argsort(axes)), jnp.float32)

  filled = tuple(jax.tree_util.tree_map_with_path(read, tree) for tree in trees)
  if unread:
    name = min(unread)
    raise ValueError(
      f'no leaf is read from its array {name!r} of shape '
      f'{arrays[name].shape} ({len(unread)} such arrays)'
    )
  return filled


def _torch_name(ours: str) -> str:
  """Returns 'layer1.0.bn1.weight' for 'layer1_0/bn1/scale'."""
  *modules, kind = ours.split('/')
  modules = [
    re.sub(r'^(layer\d+)_', r'\1.', _OURS_TO_TORCH.get(name, name))
    for name in modules
  ]
  return '.'.join([*modules, _OURS_TO_TORCH[kind]])


def _without_aliases(name: str) -> str:
  return re.sub(r'^fc\.', 'linear.', name.replace('.downsample.', '.shortcut.'))


def _way_out(arrays: dict[str, np.ndarray]) -> str:
  """Says which of `models` the arrays fill, if they fill one exactly."""
  biases = [arrays[n] for n in ('linear.bias', 'fc.bias') if n in arrays]
  num_classes = max(1, biases[0].size) if biases else 1
  image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
  for name in models.MODELS:
    init = functools.partial(models.create(name, num_classes).init, train=False)
    variables = jax.eval_shape(init, jax.random.key(0), image)
    with contextlib.suppress(ValueError):
      _fill(arrays, variables['params'], variables['batch_stats'])
      return (
        f'The file is a {name} for {num_classes} classes: pass --model={name} '
        'and a data set of as many classes.'
      )
  return (
    f'Nor does it fit another of {", ".join(models.MODELS)}: an architecture '
    'is added in experiments/models.py.'
  )
