"""A part of the training images, and others held out to choose by.

So that what is chosen (a schedule, a weight decay, an option) is chosen on
images that are neither trained on nor in the test set.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments import data
from experiments.config import Config
from experiments.data import Dataset


def num_train(config: Config) -> int:
  """Returns how many images a run trains on.

  Example:
    >>> num_train(Config(validation_images=5000))
    45000
  """
  num_images, _ = data.SIZES[config.dataset]
  return config.train_images or num_images - config.validation_images


def check(config: Config) -> None:
  """Raises a `ValueError` for more images than there are, or uneven classes.

  Example:
    >>> check(Config(train_images=10_000, validation_images=5000))
  """
  num_images, num_classes = data.SIZES[config.dataset]
  for name in ('train_images', 'validation_images'):
    if getattr(config, name) % num_classes:
      raise ValueError(
        f'`{name}`={getattr(config, name)} must be a multiple of the '
        f'{num_classes} classes of {config.dataset}, which get as many each.'
      )
  wanted = (config.train_images or num_classes) + config.validation_images
  if wanted // num_classes > num_images // num_classes:
    raise ValueError(
      f'`train_images`={config.train_images} and `validation_images`='
      f'{config.validation_images} are more than the {num_images} training '
      f'images of {config.dataset}.'
    )


def check_unseen(config: Config, before: Mapping[str, Any]) -> None:
  """Raises a `ValueError` if held-out images were trained on before.

  Args:
    config: of a run that begins with the network of another.
    before: the config of that one.

  Example:
    >>> config = Config(validation_images=5000, init_from='runs/dense')
    >>> check_unseen(config, vars(Config(validation_images=5000)))
  """
  if before['dataset'] != config.dataset:
    return
  num_images, _ = data.SIZES[config.dataset]
  held_out = before.get('validation_images', 0)
  trained = before.get('train_images', 0) or num_images - held_out
  if trained > num_images - config.validation_images:
    raise ValueError(
      f'`validation_images`={config.validation_images}: the network of '
      f"`init_from`='{config.init_from}' was trained on some of them. It held "
      f'out {held_out}.'
    )


def take(dataset: Dataset, config: Config) -> Dataset:
  """Returns the images that a run trains on, and those it is judged by.

  Of every class the first are trained on, and the last are held out: they are
  in the place of the test images then. All keep their order, and there is
  nothing random in it.

  Args:
    dataset: as loaded.
    config: with `train_images` and `validation_images`, 0 for all and none.

  Example:
    >>> part = take(data.load('cifar10_mini'), Config(
    ...   dataset='cifar10_mini', train_images=100, validation_images=50))
    >>> len(part.train_labels), len(part.test_labels)
    (100, 50)
  """
  labels = dataset.train_labels
  if config.train_images:
    share = config.train_images // dataset.num_classes
    trained = _ranks(labels) < share
  else:
    trained = np.ones(len(labels), bool)
  if config.validation_images:
    share = config.validation_images // dataset.num_classes
    held_out = _ranks(labels[::-1])[::-1] < share
    trained &= ~held_out
    dataset = dataset._replace(
      test_images=dataset.train_images[held_out], test_labels=labels[held_out]
    )
  return dataset._replace(
    train_images=dataset.train_images[trained], train_labels=labels[trained]
  )


def _ranks(labels: np.ndarray) -> np.ndarray:
  """Returns how many images of its class come before each."""
  ranks = np.empty(len(labels), int)
  for label in np.unique(labels):
    same = labels == label
    ranks[same] = np.arange(same.sum())
  return ranks
