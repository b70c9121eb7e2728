"""Pruning once: what becomes of the weights that are kept, and the controls."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax

import ong_jax
from experiments import plan
from experiments.learning_rates import RETRAINING, training
from experiments.plan import Prune, Run, Segment
from ong_jax import controls
from ong_jax.rescaling import rescale
from ong_jax.types import Mask, Params

# Keys of their own, which are none of the run's other draws.
_SHUFFLE, _REDRAW = 2**31, 2**31 + 1

# (run, params, mask) -> params. Names of two parts are those of `rescale`.
SURVIVORS: dict[str, Callable[[Run, Params, Mask], Params]] = {
  'kept': lambda run, params, mask: params,
  **{
    f'{per}-{keep}': lambda run, params, mask, keep=keep, per=per: rescale(
      params, mask, keep=keep, per=per
    )
    for per in ('layer', 'filter')
    for keep in ('rms', 'norm')
  },
  'redrawn': lambda run, params, mask: run.draw(_key(run, _REDRAW))[0],
}


def recipe(
  make: Callable[..., Prune],
) -> Callable[..., list[Segment]]:
  """Makes the recipe of a method that prunes once.

  After dense training, if there is any; and then it trains under its mask, at
  the rate of retraining if the network was trained. All such methods have some
  options in common:

  - `survivors`: the weights that are kept stay as they are (`kept`), are scaled
    to the size that those of the `layer` or `filter` had before (`-rms`, or
    `-norm` for what the new fan-in asks for), or are `redrawn` by the
    initializer, without a look at those that the mask was made of.
  - `shuffle`: whether the mask is shuffled inside each layer.
  - `retraining`: the rate after a network was trained.

  Args:
    make: `(run, *, options) -> prune`.

  Returns:
    A function `(run, *, options) -> segments`, with the options of both.
  """

  def planned(
    run: Run,
    *,
    survivors: str = 'kept',
    shuffle: bool = False,
    retraining: str = 'llr',
    **options: Any,
  ) -> list[Segment]:
    # Refused even where they are not needed.
    survive = plan.choose('survivors', survivors, SURVIVORS)
    plan.choose('retraining', retraining, RETRAINING)
    if survivors == 'redrawn' and run.trained:
      raise ValueError(
        '`survivors`=redrawn would forget what was trained: leave out '
        '`dense_epochs` and `init_from`.'
      )
    prune = make(run, **options)

    def prune_and_scale(params, mask):
      params, mask = prune(params, mask)
      if shuffle:
        mask = controls.shuffle(_key(run, _SHUFFLE), mask)
      return survive(run, params, mask), mask

    rate = training(run.config, run.steps)
    if run.trained:
      rate = plan.retraining_rate(
        run, retraining, run.steps, run.original_steps
      )
    return plan.after_dense(run) + [
      Segment(run.steps, ong_jax.static, rate, prune=prune_and_scale)
    ]

  signature = _merged(inspect.signature(make), inspect.signature(planned))
  planned = functools.wraps(make)(planned)
  planned.__signature__ = signature  # Which options are read from.
  return planned


def _merged(
  own: inspect.Signature, common: inspect.Signature
) -> inspect.Signature:
  """Adds the keywords that all have in common to those of a method's own."""
  keywords = [x for x in common.parameters.values() if x.kind is x.KEYWORD_ONLY]
  return common.replace(parameters=[*own.parameters.values(), *keywords])


def _key(run: Run, number: int) -> jax.Array:
  return jax.random.fold_in(jax.random.key(run.config.seed), number)
