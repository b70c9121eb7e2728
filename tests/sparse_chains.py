"""Optimizers under masks, that several tests train with."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl.testing import parameterized

from ong_jax import states, transforms


def normal(seed, *shape):
  values = np.random.default_rng(seed).normal(size=shape)
  return jnp.asarray(values, jnp.float32)


PARAMS = {
  'conv': {'kernel': normal(0, 2, 2, 8)},
  'fc': {'kernel': normal(1, 4, 6), 'bias': normal(2, 6)},
}
MASK = {  # 17 of 56 weights are kept, 39 are pruned.
  'conv': {
    'kernel': jnp.argsort(normal(3, 32)).reshape(2, 2, 8) < 10,
  },
  'fc': {'kernel': jnp.argsort(normal(4, 24)).reshape(4, 6) < 7, 'bias': None},
}
NUM_STEPS = 100
GRADS = jax.tree.map(lambda p: normal(5, NUM_STEPS, *p.shape), PARAMS)
GRAD = jax.tree.map(lambda g: g[0], GRADS)

OPTIMIZERS = {
  'sgd': optax.sgd(0.1),
  'nesterov_and_decay': optax.chain(
    optax.add_decayed_weights(5e-4), optax.sgd(0.1, 0.9, nesterov=True)
  ),
  'adam': optax.adam(0.01),
  'adamw': optax.adamw(0.01, weight_decay=0.1),
  'lion': optax.lion(0.01),
  'rmsprop': optax.rmsprop(0.01, momentum=0.9),
  'clipped': optax.chain(
    optax.clip_by_global_norm(0.5), optax.sgd(0.1, momentum=0.9)
  ),
  'copies_params': optax.contrib.schedule_free_sgd(0.01),
}
MASKED = {
  name: transforms.masked_transform(inner, MASK)
  for name, inner in OPTIMIZERS.items()
}


def flip(params, state):
  """Keeps what was pruned and prunes what was kept, at updates 1, 4, 7, ..."""
  mask = jax.tree.map(lambda m: m ^ (state.count % 3 == 1), state.mask)
  return states.remask(state, mask)


FLIPPED = {
  name: transforms.masked_transform(inner, MASK, flip)
  for name, inner in OPTIMIZERS.items()
}
LATENT = {
  name: transforms.latent_transform(inner, MASK, flip)
  for name, inner in OPTIMIZERS.items()
}


def named(names):
  return parameterized.named_parameters((name, name) for name in names)


def pruned(tree, steps=()):
  """What stands where MASK prunes, in each leaf that is as a kernel.

  Args:
    tree: params or a state.
    steps: the axes that all leaves have in front.
  """
  kept = {(*steps, *m.shape): np.asarray(m) for m in jax.tree.leaves(MASK)}
  leaves = [x for x in jax.tree.leaves(tree) if jnp.shape(x) in kept]
  return [np.asarray(x)[..., ~kept[x.shape]] for x in leaves]


EVERY_STEP = (NUM_STEPS,)


@partial(jax.jit, static_argnums=0)
def train(tx, params, opt_state, grads):
  """Steps through the gradients; params and states after each of them."""

  def step(carry, grads):
    params, opt_state = carry
    updates, opt_state = tx.update(grads, opt_state, params)
    params = optax.apply_updates(params, updates)
    return (params, opt_state), (params, opt_state)

  return jax.lax.scan(step, (params, opt_state), grads)[1]


def last(tree):
  return jax.tree.map(lambda x: x[-1], tree)


def assert_zero(leaves):
  for x in leaves:
    np.testing.assert_array_equal(x, np.zeros_like(x))
