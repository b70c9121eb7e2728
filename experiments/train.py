"""One train step for every method, and what evaluates its network.

Everything runs under `jax.jit` with shardings over a mesh, which is what `pjit`
became: batches are split over its data axis, the rest as `sharding.py` says.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from experiments import sharding
from experiments.config import Config
from ong_jax import SparseMethod

_EVAL_BATCH = 500


class TrainState(flax.struct.PyTreeNode):
  """All that a run changes, and so all that a checkpoint holds."""

  step: jax.Array  # [] int32, since the beginning of the run.
  trainable: Any
  opt_state: optax.OptState  # Holds the mask.
  stats: Any  # BatchNorm's running averages.
  loss: jax.Array  # [] float32, mean over this epoch's steps so far.
  correct: jax.Array  # [] int32, of the images of this epoch so far.


class Images(NamedTuple):
  """One split of a data set, on the device."""

  images: jax.Array  # uint8 [num_images, height, width, channels]
  labels: jax.Array  # int32 [num_images]


def optimizer(config: Config, num_steps: int) -> optax.GradientTransformation:
  """Makes SGD with Nesterov momentum, weight decay and a schedule.

  The rate rises linearly from 0 over the first `warmup_fraction` of the steps
  and then decays to 0, linearly or along a half cosine.

  Args:
    config: of the run.
    num_steps: that the schedule spans.

  Example:
    >>> tx = optimizer(Config(), num_steps=10)
    >>> len(tx.init({'kernel': jnp.ones(3)}))
    2
  """
  peak, warmup = (
    config.learning_rate,
    round(config.warmup_fraction * num_steps),
  )
  rest = max(1, num_steps - warmup)
  decay = {
    'linear': optax.linear_schedule(peak, 0, rest),
    'cosine': optax.cosine_decay_schedule(peak, rest),
  }[config.schedule]
  rise = optax.linear_schedule(0, peak, max(1, warmup))
  rate = optax.join_schedules([rise, decay], [warmup])
  return optax.chain(
    optax.add_decayed_weights(config.weight_decay),
    optax.sgd(rate, config.momentum, nesterov=True),
  )


def augment(key: jax.Array, images: jax.Array) -> jax.Array:
  """Crops at random out of a border of 4 black pixels, and flips half.

  Args:
    key: one for the batch.
    images: [batch, height, width, channels].

  Returns:
    Images of the same shape.

  Example:
    >>> augment(jax.random.key(0), jnp.ones((2, 32, 32, 3), 'uint8')).shape
    (2, 32, 32, 3)
  """
  crop_key, flip_key = jax.random.split(key)
  batch, *shape = images.shape
  padded = jnp.pad(images, ((0, 0), (4, 4), (4, 4), (0, 0)))
  corners = jax.random.randint(crop_key, (batch, 2), 0, 9)
  flips = jax.random.bernoulli(flip_key, shape=(batch,))

  def one(image, corner, flip):
    crop = jax.lax.dynamic_slice(image, (*corner, 0), shape)
    return jnp.where(flip, crop[:, ::-1], crop)

  return jax.vmap(one)(padded, corners, flips)


def normalize(config: Config, images: jax.Array) -> jax.Array:
  """Maps uint8 pixels to (pixel / 255 - mean) / std, in float32.

  Example:
    >>> config = Config(image_mean=(0.0,) * 3, image_std=(1.0,) * 3)
    >>> normalize(config, jnp.full((1, 3), 255, 'uint8'))
    Array([[1., 1., 1.]], dtype=float32)
  """
  mean = jnp.array(config.image_mean, jnp.float32)
  std = jnp.array(config.image_std, jnp.float32)
  return (images.astype(jnp.float32) / 255 - mean) / std


def make_train_step(
  config: Config,
  model: nn.Module,
  mesh: Mesh,
  method: SparseMethod,
  tx: optax.GradientTransformation,
) -> Callable[[TrainState, Images], TrainState]:
  """Makes the step, which is whole for every method.

  All randomness is drawn from the seed and the number of the step, and the
  order of the images from the number of the epoch, so that a run that is
  stopped anywhere goes on to the same bits.

  Returns:
    A pure function `(state, train images) -> state`, to be jitted.
  """
  order_key, step_key = jax.random.split(jax.random.key(config.seed))

  def batch_at(step, data):
    num_images = len(data.labels)
    epoch, i = jnp.divmod(step, num_images // config.batch_size)
    order = jax.random.permutation(
      jax.random.fold_in(order_key, epoch), num_images
    )
    ids = jax.lax.dynamic_slice(
      order, (i * config.batch_size,), (config.batch_size,)
    )
    return data.images[ids], data.labels[ids], i == 0

  def train_step(state: TrainState, data: Images) -> TrainState:
    images, labels, first = batch_at(state.step, data)
    crop_key, method_key = jax.random.split(
      jax.random.fold_in(step_key, state.step)
    )
    if config.augment:
      images = augment(crop_key, images)
    images = sharding.split_batch(mesh, normalize(config, images))
    targets = jax.nn.one_hot(labels, model.num_classes)
    targets = optax.smooth_labels(targets, config.label_smoothing)

    def loss_fn(trainable):
      params = method.effective(trainable, state.opt_state, method_key)
      logits, moved = model.apply(
        {'params': params, 'batch_stats': state.stats},
        images,
        train=True,
        mutable=['batch_stats'],
      )
      loss = optax.softmax_cross_entropy(logits, targets).mean()
      return loss, (logits, moved['batch_stats'])

    (loss, (logits, stats)), grads = jax.value_and_grad(loss_fn, has_aux=True)(
      state.trainable
    )
    updates, opt_state = tx.update(grads, state.opt_state, state.trainable)
    moves = method.tracks_statistics(state.opt_state)
    correct = jnp.sum(logits.argmax(-1) == labels).astype(jnp.int32)
    return TrainState(
      step=state.step + 1,
      trainable=optax.apply_updates(state.trainable, updates),
      opt_state=opt_state,
      stats=jax.tree.map(
        lambda new, old: jnp.where(moves, new, old), stats, state.stats
      ),
      loss=jnp.where(first, 0, state.loss) + loss,
      correct=jnp.where(first, 0, state.correct) + correct,
    )

  return train_step


def make_loop(
  train_step: Callable[[TrainState, Images], TrainState],
  state_shardings: TrainState,
) -> Callable[[TrainState, Images, int], TrainState]:
  """Compiles the step into a function that takes many of them.

  On an accelerator they are one call, whose number of steps is an argument: the
  same program whatever it is. On a CPU they are calls of their own, because
  XLA runs convolutions some twenty times slower inside a loop there.

  Args:
    train_step: of `make_train_step`.
    state_shardings: of the state, before and after.

  Returns:
    A function `(state, train images, num_steps) -> state`. It donates the
    state.
  """
  jit = functools.partial(
    jax.jit, out_shardings=state_shardings, donate_argnums=0
  )
  if jax.default_backend() == 'cpu':
    step = jit(train_step)

    def loop(state, data, num_steps):
      for _ in range(num_steps):
        state = step(state, data)
      return state

    return loop
  return jit(
    lambda state, data, num_steps: jax.lax.fori_loop(
      0, num_steps, lambda _, s: train_step(s, data), state
    )
  )


def make_evaluate(
  config: Config, model: nn.Module, mesh: Mesh
) -> Callable[[Any, Any, Images], float]:
  """Makes `(params, stats, images) -> accuracy` over a whole split."""

  @jax.jit
  def num_correct(params, stats, data):
    images = sharding.split_batch(mesh, normalize(config, data.images))
    logits = model.apply(
      {'params': params, 'batch_stats': stats}, images, train=False
    )
    return jnp.sum(logits.argmax(-1) == data.labels)

  def evaluate(params, stats, data):
    correct = [
      num_correct(params, stats, batch) for batch in _batches(mesh, data)
    ]
    return sum(int(n) for n in correct) / len(data.labels)

  return evaluate


def make_reestimate(
  config: Config, model: nn.Module, mesh: Mesh
) -> Callable[[Any, Any, Images], Any]:
  """Makes `(params, stats, images) -> stats`: BatchNorm estimated anew.

  Pruning a trained network moves what its layers put out, and the averages
  that they are normalized by in evaluation are no longer true. The new ones
  are the plain mean of the statistics of up to 10,000 images, in batches.
  """
  own = model.clone(bn_momentum=0.0)  # Training mode then returns a batch's.

  @jax.jit
  def batch_stats(params, stats, data):
    images = sharding.split_batch(mesh, normalize(config, data.images))
    _, moved = own.apply(
      {'params': params, 'batch_stats': stats},
      images,
      train=True,
      mutable=['batch_stats'],
    )
    return moved['batch_stats']

  def reestimate(params, stats, data):
    data = jax.tree.map(lambda x: x[:10_000], data)
    whole = len(data.labels) // _EVAL_BATCH * _EVAL_BATCH or len(data.labels)
    data = jax.tree.map(lambda x: x[:whole], data)
    found = [batch_stats(params, stats, b) for b in _batches(mesh, data)]
    return jax.tree.map(lambda *xs: sum(xs) / len(xs), *found)

  return reestimate


def _batches(mesh: Mesh, data: Images) -> list[Images]:
  """Cuts a split into equal batches that the mesh divides.

  The last one is filled up with black images of label -1, which is never
  right.
  """
  size = min(_EVAL_BATCH, len(data.labels))
  size = -(-size // mesh.shape['data']) * mesh.shape['data']
  num_batches = -(-len(data.labels) // size)
  missing = num_batches * size - len(data.labels)
  images = np.pad(data.images, ((0, missing), (0, 0), (0, 0), (0, 0)))
  labels = np.pad(data.labels, (0, missing), constant_values=-1)
  return [
    Images(images[i : i + size], labels[i : i + size])
    for i in range(0, len(labels), size)
  ]
