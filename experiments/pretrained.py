"""Reads and writes networks under PyTorch's names, without PyTorch."""

import contextlib
import functools
import json
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import models, tensor_files
from ong_jax.selection import name_of

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
_COUNTER = 'num_batches_tracked'  # Of BatchNorm, which has no other use for it.
_TORCH_AXES = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}  # HWIO to OIHW, IO to OI.


def load_torch(path: str, params: Any, batch_stats: Any) -> tuple[Any, Any]:
  """Reads a PyTorch state dict into the trees of one of `models`.

  PyTorch's `layer1.0.conv1.weight` [out, in, height, width] is our
  `layer1_0/conv1/kernel` [height, width, in, out]; the other names follow. A
  projection may be called `shortcut` or `downsample`, the classifier `linear`
  or `fc`; `num_batches_tracked` is not read. A module is saved by one of

    np.savez(path, **{k: v.numpy() for k, v in module.state_dict().items()})
    safetensors.torch.save_file(module.state_dict(), path)

  Args:
    path: the file, .npz or .safetensors.
    params: tree to fill. Only names and shapes are read, so what
      `jax.eval_shape` makes of the model's `init` will do.
    batch_stats: likewise.

  Returns:
    The two trees with the file's values, in float32.

  Raises:
    ValueError: if the file is not such a one, or its names and shapes are
      not exactly those of the trees, or a value is not finite.
    ImportError: safetensors is not installed, and the file is one.

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


def load_normalization(path: str) -> tuple[list[float], list[float]]:
  """Reads what the pixels of a network's images are normalized by.

  Args:
    path: of a file that `load_torch` can read.

  Returns:
    Mean and standard deviation of pixels / 255, for each color: what
    `store_torch` was given, or `MEAN` and `STD` if the file does not say.

  Raises:
    ValueError: it says something else.
  """
  text = tensor_files.read_note(path)
  if not text:
    return list(MEAN), list(STD)
  try:
    mean, std = json.loads(text)
    return [float(x) for x in mean], [float(x) for x in std]
  except (TypeError, ValueError) as error:
    raise ValueError(
      f'{str(path)!r} must have mean and std of its input, not {text!r:.99}.'
    ) from error


def store_torch(
  path: str,
  params: Any,
  batch_stats: Any,
  normalization: tuple[Any, Any] | None = None,
) -> None:
  """Writes one of `models` as the state dict of a PyTorch module.

  What `load_torch` reads, in float32, and `num_batches_tracked` as 0, without
  which `load_state_dict` is not content. PyTorch reads it by one of

    module.load_state_dict(
      {k: torch.from_numpy(v) for k, v in np.load(path).items()}
    )
    module.load_state_dict(safetensors.torch.load_file(path))

  Args:
    path: of the file, .npz or .safetensors.
    params: tree of arrays.
    batch_stats: likewise.
    normalization: mean and std of `load_normalization`. They lie beside the
      state dict: in the metadata, or in the comment of the .npz.

  Raises:
    ValueError: `path` ends otherwise, or a leaf has no name in PyTorch.
    OSError: the file cannot be written.
    ImportError: safetensors is not installed, and the file is to be one.

  Example:
    >>> import tempfile
    >>> params = {'linear': {'kernel': jnp.ones((2, 3))}}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   store_torch(f'{folder}/net.npz', params, {})
    ...   {k: x.shape for k, x in np.load(f'{folder}/net.npz').items()}
    {'linear.weight': (3, 2)}
  """
  tensor_files.check_suffix(path)
  arrays, text = _state_dict(params, batch_stats), ''
  if normalization:
    text = json.dumps([np.asarray(x).tolist() for x in normalization])
  tensor_files.write(path, arrays, text)


def _state_dict(*trees: Any) -> dict[str, np.ndarray]:
  arrays = {}
  for key_path, leaf in jax.tree_util.tree_leaves_with_path(trees):
    ours = name_of(key_path[1:])
    kind = ours.rpartition('/')[2]
    if kind not in _OURS_TO_TORCH or leaf.ndim not in _TORCH_AXES:
      raise ValueError(
        f"Leaf '{ours}' of shape {leaf.shape} has no name in PyTorch. Only the "
        'networks of experiments/models.py are known.'
      )
    array = np.asarray(jax.device_get(leaf), np.float32)
    array = array.transpose(_TORCH_AXES[leaf.ndim])
    arrays[_torch_name(ours)] = np.ascontiguousarray(array)
  for name in [name for name in arrays if name.endswith('running_mean')]:
    arrays[name.replace('running_mean', _COUNTER)] = np.array(0, np.int64)
  return arrays


def _read(path: str) -> dict[str, np.ndarray]:
  advice = 'Save a PyTorch module as the docstring of `load_torch` shows.'
  try:
    arrays = {
      name: array
      for name, array in tensor_files.read(path).items()
      if not name.endswith(_COUNTER)
    }
  except FileNotFoundError as error:
    raise ValueError(f'{str(path)!r} is not there.') from error
  except ImportError:
    raise
  except Exception as error:  # Damage shows in six types, zlib's among them.
    kind = 'a .safetensors' if str(path).endswith('.safetensors') else 'an .npz'
    raise ValueError(
      f'{str(path)!r} cannot be read as {kind} file ({error}). {advice}'
    ) from error
  for name, array in arrays.items():
    if name.endswith('.mask'):
      raise ValueError(
        f'{str(path)!r} is compressed, by `ong_jax.export`, which is not read '
        'here. Pass the directory of the run, or export it with --format=torch.'
      )
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
    ours = name_of(key_path)
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
