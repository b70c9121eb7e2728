"""What a method optimizes, where that is more than the params."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ong_jax.types import Params


class Trainable(NamedTuple):
  """What is optimized, where a method learns more than the params."""

  params: Params
  extra: Any  # Thresholds, gates, probabilities: `None` where not prunable.


def undecayed(
  inner: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
  """Shows zeros to a transformation in place of the extra leaves.

  So that weight decay pulls at the weights and not at thresholds or gates,
  which otherwise follow the same optimizer and learning rate.

  Example:
    >>> tx = undecayed(optax.add_decayed_weights(0.5))
    >>> both = Trainable({'kernel': jnp.ones(1)}, {'kernel': jnp.ones(1)})
    >>> tx.update(both, tx.init(both), both)[0].extra
    {'kernel': Array([1.], dtype=float32)}
  """
  inner = optax.with_extra_args_support(inner)

  def update_fn(updates, state, params=None, **extra_args):
    if params is not None:
      params = params._replace(extra=jax.tree.map(jnp.zeros_like, params.extra))
    return inner.update(updates, state, params, **extra_args)

  return optax.GradientTransformationExtraArgs(inner.init, update_fn)


def check_trainable(trainable: Any) -> None:
  """Raises a `TypeError` if a method was given the params themselves.

  Example:
    >>> check_trainable(Trainable({'kernel': jnp.ones(1)}, {'kernel': None}))
  """
  if not isinstance(trainable, Trainable):
    raise TypeError(
      '`trainable` must be what `method.init(params)` returned; got '
      f'{type(trainable).__name__}.'
    )
