"""One train step for every method.

Everything runs under `jax.jit` with shardings over a mesh, which is what `pjit`
became: batches are split over its data axis, the rest as `sharding.py` says.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from experiments import inputs, sharding, telemetry
from experiments.config import Config
from experiments.learning_rates import Rate
from experiments.telemetry import Telemetry
from ong_jax import SparseMethod


class TrainState(flax.struct.PyTreeNode):
  """All that a run changes, and so all that a checkpoint holds."""

  step: jax.Array  # [] int32, since the beginning of the run.
  trainable: Any
  opt_state: optax.OptState  # Holds the mask.
  stats: Any  # BatchNorm's running averages.
  loss: jax.Array  # [] float32, summed over this epoch's steps so far.
  correct: jax.Array  # [] int32, of the images of this epoch so far.
  # [] int32, of this epoch's steps so far: those with a loss or a gradient that
  # is not finite.
  nonfinite: jax.Array
  kept: Any = ()  # (params, stats) that a later segment rewinds to.
  # What weights were used so far; None, and nothing is counted.
  telemetry: Telemetry | None = None


def optimizer(
  config: Config, rate: Rate, peak: float
) -> optax.GradientTransformation:
  """Makes SGD with Nesterov momentum, and decay of all parameters.

  The peak is in its state, so that a run that goes on has the one that it began
  with, whatever it was made of.

  Args:
    config: of the run.
    rate: over the steps that the optimizer will make.
    peak: of the learning rate.

  Example:
    >>> tx = optimizer(Config(), Rate(lambda step: 1.0), peak=0.1)
    >>> round(float(tx.init(jnp.ones(3)).hyperparams['peak']), 3)
    0.1
  """

  def sgd(peak):
    return optax.chain(
      optax.add_decayed_weights(config.weight_decay),
      optax.sgd(
        lambda step: peak * rate.shape(step), config.momentum, nesterov=True
      ),
    )

  return optax.inject_hyperparams(sgd)(peak=peak)


def make_train_step(
  config: Config,
  model: nn.Module,
  mesh: Mesh,
  method: SparseMethod,
  tx: optax.GradientTransformation,
  samples: int = 1,
) -> Callable[[TrainState, inputs.Images], TrainState]:
  """Makes the step, which is whole for every method.

  All randomness is drawn from the seed and the number of the step, and the
  order of the images from the number of the epoch, so that a run that is
  stopped anywhere goes on to the same bits.

  Args:
    config: of the run.
    model: that is trained.
    mesh: over which batches are split.
    method: what is trained, and what the network runs on.
    tx: of `method.transform`.
    samples: of what the method draws at random; gradients, statistics and
      logits are averaged over them.

  Returns:
    A pure function `(state, train images) -> state`, to be jitted.
  """
  order_key, step_key = jax.random.split(jax.random.key(config.seed))

  def train_step(state: TrainState, data: inputs.Images) -> TrainState:
    num_images = len(data.labels)
    ids = inputs.batch_ids(order_key, state.step, num_images, config.batch_size)
    images, labels = data.images[ids], data.labels[ids]
    crop_key, method_key = jax.random.split(
      jax.random.fold_in(step_key, state.step)
    )
    if config.augment:
      images = inputs.augment(crop_key, images)
    images = sharding.split_batch(mesh, inputs.normalize(config, images))
    targets = jax.nn.one_hot(labels, model.num_classes)
    targets = optax.smooth_labels(targets, config.label_smoothing)

    def gradients(key):
      def loss_fn(trainable):
        params = method.effective(trainable, state.opt_state, key)
        logits, moved = model.apply(
          {'params': params, 'batch_stats': state.stats},
          images,
          train=True,
          mutable=['batch_stats'],
        )
        loss = optax.softmax_cross_entropy(logits, targets).mean()
        active = () if state.telemetry is None else telemetry.active(params)
        return loss, (logits, moved['batch_stats'], active)

      value, grads = jax.value_and_grad(loss_fn, has_aux=True)(state.trainable)
      loss, (*aux, active) = value
      return ((loss, aux), grads), active

    # Unrolled: in a loop, convolutions are slow on a CPU.
    found, actives = zip(
      *[gradients(key) for key in jax.random.split(method_key, samples)]
    )
    (loss, (logits, stats)), grads = jax.tree.map(
      lambda *xs: sum(xs) / samples, *found
    )
    correct = jnp.sum(logits.argmax(-1) == labels).astype(jnp.int32)
    moves = method.tracks_statistics(state.opt_state)
    finite = _all_finite((loss, grads))
    if config.nonfinite == 'skip':
      # All else goes on: decay, momentum, and the sparsity that rises by steps.
      loss, correct, grads = jax.tree.map(
        lambda x: jnp.where(finite, x, jnp.zeros_like(x)),
        (loss, correct, grads),
      )
      moves = moves & finite
    updates, opt_state = tx.update(grads, state.opt_state, state.trainable)
    first = state.step % (num_images // config.batch_size) == 0  # Of an epoch.
    return state.replace(
      step=state.step + 1,
      trainable=optax.apply_updates(state.trainable, updates),
      opt_state=opt_state,
      stats=jax.tree.map(
        lambda new, old: jnp.where(moves, new, old), stats, state.stats
      ),
      loss=jnp.where(first, 0, state.loss) + loss,
      correct=jnp.where(first, 0, state.correct) + correct,
      nonfinite=jnp.where(first, 0, state.nonfinite) + ~finite,
      telemetry=None
      if state.telemetry is None
      else telemetry.update(state.telemetry, actives),
    )

  return train_step


def _all_finite(tree: Any) -> jax.Array:
  """Says whether no leaf has an infinity or NaN: bool []."""
  return jnp.all(
    jnp.array([jnp.isfinite(x).all() for x in jax.tree.leaves(tree)])
  )


def make_loop(
  train_step: Callable[[TrainState, inputs.Images], TrainState],
  state_shardings: TrainState,
  *,
  fused: bool,
) -> Callable[[TrainState, inputs.Images, int], TrainState]:
  """Compiles the step into a function that takes many of them.

  Fused, they are one call, whose number of steps is an argument: the same
  program whatever it is. That is for accelerators. On a CPU, XLA runs
  convolutions some twenty times slower inside a loop, so there each step is a
  call of its own.

  Args:
    train_step: of `make_train_step`.
    state_shardings: of the state, before and after.
    fused: whether it is one call.

  Returns:
    A function `(state, train images, num_steps) -> state`. It donates the
    state.
  """
  jit = functools.partial(
    jax.jit, out_shardings=state_shardings, donate_argnums=0
  )
  if fused:
    return jit(
      lambda state, data, num_steps: jax.lax.fori_loop(
        0, num_steps, lambda _, s: train_step(s, data), state
      )
    )
  step = jit(train_step)

  def loop(state, data, num_steps):
    for _ in range(num_steps):
      state = step(state, data)
    return state

  return loop
