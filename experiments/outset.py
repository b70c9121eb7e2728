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
Recipe = Callable[..., list[Segment]]


def retrained(make: Callable[..., Prune]) -> Recipe:
  """Makes the recipe of a method that prunes once.

  After dense training, if there is any; and then it trains under its mask. All
  such methods have the option `retraining`: the rate if there was training.

  Args:
    make: `(run, *, options) -> prune`.

  Returns:
    A function `(run, *, options) -> segments`, with that option, too.
  """

  def planned(run: Run, *, retraining: str = 'llr', **options: Any):
    return _segments(run, make(run, **options), retraining)

  return _with_options_of(make, planned)


def compared(make: Callable[..., Prune]) -> Recipe:
  """Makes the recipe of a method that chooses single weights, once.

  As `retrained`, with the options by which such masks are compared:

  - `survivors`: the weights that are kept stay as they are (`kept`), are scaled
    to the size that those of the `layer` or `filter` had before (`-rms`, or
    `-norm` for what the new fan-in asks for), or are `redrawn` by the
    initializer, without a look at those that the mask was made of.
  - `shuffle`: whether the mask is shuffled inside each layer.

  Args:
    make: `(run, *, options) -> prune`, which gives back the params as they are.

  Returns:
    A function `(run, *, options) -> segments`, with these options, too.
  """

  def planned(
    run: Run,
    *,
    survivors: str = 'kept',
    shuffle: bool = False,
    retraining: str = 'llr',
    **options: Any,
  ):
    survive = plan.choose('survivors', survivors, SURVIVORS)
    if survivors == 'redrawn' and run.trained:
      raise ValueError(
        '`survivors`=redrawn would forget what was trained: leave out '
        '`dense_epochs` and `init_from`.'
      )
    if survivors != 'kept' and retraining == 'allr':
      raise ValueError(
        '`retraining`=allr goes by the norm that pruning takes away, which '
        f'`survivors`={survivors} brings back. Take llr.'
      )
    prune = make(run, **options)

    def prune_and_scale(params, mask):
      params, mask = prune(params, mask)
      if shuffle:
        mask = controls.shuffle(_key(run, _SHUFFLE), mask)
      return survive(run, params, mask), mask

    return _segments(run, prune_and_scale, retraining)

  return _with_options_of(make, planned)


def _segments(run: Run, prune: Prune, retraining: str) -> list[Segment]:
  plan.choose('retraining', retraining, RETRAINING)  # Refused even if unused.
  rate = training(run.config, run.steps)
  if run.trained:
    rate = plan.retraining_rate(run, retraining, run.steps, run.original_steps)
  return plan.after_dense(run) + [
    Segment(run.steps, ong_jax.static, rate, prune=prune)
  ]


def _with_options_of(make: Callable, wrapper: Callable) -> Callable:
  """Gives a wrapper the name, the words and the options of what it wraps.

  Its own options come after these. They are read from the signature.
  """
  own, more = (
    [
      x
      for x in inspect.signature(f).parameters.values()
      if x.kind is x.KEYWORD_ONLY
    ]
    for f in (make, wrapper)
  )
  run = inspect.Parameter('run', inspect.Parameter.POSITIONAL_OR_KEYWORD)
  functools.update_wrapper(wrapper, make)
  wrapper.__signature__ = inspect.Signature([run, *own, *more])
  return wrapper


def _key(run: Run, number: int) -> jax.Array:
  return jax.random.fold_in(jax.random.key(run.config.seed), number)
