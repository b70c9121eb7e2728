"""The network that a run begins with."""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from experiments import checkpoints, data, pretrained, subsets, tensor_files
from experiments.config import Config
from ong_jax.selection import name_of

_USUAL_EPOCHS = 200  # That a network from elsewhere is taken to have had.


def initial(
  config: Config, model: nn.Module, dataset: data.Dataset
) -> tuple[Any, Any, Config]:
  """Draws or loads a network, and completes the config by its normalization.

  Returns:
    params, batch statistics, config.
  """
  key = jax.random.key(config.seed)
  mean, std, epochs = dataset.mean, dataset.std, config.dense_epochs
  if config.init_from is None:
    params, stats = make_draw(model)(key)
  else:
    templates = jax.eval_shape(make_draw(model), key)
    if config.init_from.endswith(tensor_files.SUFFIXES):
      params, stats = pretrained.load_torch(config.init_from, *templates)
      mean, std = pretrained.load_normalization(config.init_from)
      epochs = _USUAL_EPOCHS
    else:
      params, stats, before = checkpoints.load_final(config.init_from)
      subsets.check_unseen(config, before)
      mean, std = before['image_mean'], before['image_std']
      epochs = before['dense_epochs'] + before['epochs']
      _check_same_shapes(config, templates, (params, stats))
  config = dataclasses.replace(
    config,
    image_mean=tuple(config.image_mean or mean),
    image_std=tuple(config.image_std or std),
    original_epochs=epochs
    if config.original_epochs is None
    else config.original_epochs,
  )
  return params, stats, config


def make_draw(
  model: nn.Module,
) -> Callable[[jax.Array], tuple[Any, Any]]:
  """Makes `key -> (params, batch statistics)`, by the initializer.

  Example:
    >>> from experiments import models
    >>> draw = make_draw(models.create('resnet8', num_classes=10))
    >>> params, stats = draw(jax.random.key(0))
    >>> params['linear']['kernel'].shape
    (64, 10)
  """

  @jax.jit
  def draw(key):
    variables = model.init(key, jnp.zeros((1, 32, 32, 3)), train=False)
    return variables['params'], variables['batch_stats']

  return draw


def _check_same_shapes(config: Config, templates: Any, trees: Any) -> None:
  shapes = [
    {
      name_of(path): leaf.shape
      for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
    for tree in (_named(*templates), _named(*trees))
  ]
  for name in sorted(shapes[0].keys() | shapes[1].keys()):
    wanted, found = shapes[0].get(name), shapes[1].get(name)
    if wanted != found:
      raise ValueError(
        f"`init_from`: '{config.init_from}' holds another network than "
        f"{config.model}: leaf '{name}' has shape {found} there, {wanted} "
        'here. Pass the `model` and the `dataset` that it was trained with.'
      )


def _named(params: Any, stats: Any) -> dict[str, Any]:
  return {'params': params, 'batch_stats': stats}
