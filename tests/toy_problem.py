"""A toy problem that the tests of methods train on: 36 weights, 6 biases."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree


def normal(seed, *shape):
  values = np.random.default_rng(seed).normal(size=shape)
  return jnp.asarray(values, jnp.float32)


PARAMS = {  # 6 biases, and 24 + 12 = 36 weights after them.
  'a': {'bias': normal(0, 6), 'kernel': normal(1, 4, 6)},
  'b': {'kernel': normal(2, 3, 4)},
}
TARGET = jax.tree.map(lambda p: -p[::-1], PARAMS)
RATE, MOMENTUM, DECAY = 0.1, 0.9, 0.05
INNER = optax.chain(optax.add_decayed_weights(DECAY), optax.sgd(RATE, MOMENTUM))


def loss(params, target=TARGET):
  distances = jax.tree.map(lambda p, t: (p - t) ** 2, params, target)
  return sum(0.5 * x.sum() for x in jax.tree.leaves(distances))


@partial(jax.jit, static_argnums=(0, 2, 4))
def train(method, params, num_steps, target=TARGET, inner=INNER):
  """Steps towards the target; params and states after each of them."""
  tx = method.transform(inner)

  def step(carry, _):
    params, opt_state = carry

    def run(params):
      key = jax.random.key(0)
      return loss(method.effective(params, opt_state, key), target)

    updates, opt_state = tx.update(jax.grad(run)(params), opt_state, params)
    carry = optax.apply_updates(params, updates), opt_state
    return carry, carry

  return jax.lax.scan(step, (params, tx.init(params)), length=num_steps)[1]


def flat(tree):
  return np.asarray(ravel_pytree(tree)[0], np.float64)


def flat_steps(tree):
  return np.asarray(jax.vmap(lambda x: ravel_pytree(x)[0])(tree))


def largest(scores, k):
  """Which k of the 36 weights; and all biases."""
  mask = np.arange(42) < 6
  mask[6 + np.argsort(-scores[6:], kind='stable')[:k]] = True
  return mask


def best_of_4(scores, n):
  """Which of the weights are n of the best of 4 inputs; and all biases."""
  mask = np.ones(42, bool)
  for weights, outputs in ((slice(6, 30), 6), (slice(30, 42), 4)):
    rows = scores[weights].reshape(-1, outputs)  # 4 inputs, and 3.
    rank = (-rows).argsort(0, kind='stable').argsort(0)
    mask[weights] = (rank < n).ravel()
  return mask
