"""Zeros that stay, in chains that are drawn from the parts of optax."""

import random

import drawn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl.testing import absltest, parameterized
from hypothesis import given, settings
from hypothesis import strategies as st

import ong_jax

SHAPES = {'a': (4, 3), 'b': (2, 2, 4), 'bias': (3,)}
MASKED = {name: SHAPES[name] for name in 'ab'}
NUM_STEPS = 4


def schedule(rng):
  return rng.choice(
    [
      0.1,
      optax.cosine_decay_schedule(0.3, NUM_STEPS),
      optax.linear_schedule(0.0, 1.0, 2),
      optax.piecewise_constant_schedule(0.1, {2: 10.0}),
      optax.warmup_exponential_decay_schedule(0.0, 0.1, 2, 2, 0.5),
    ]
  )


PARTS = {  # Around an optimizer, in any order and number.
  'clip': lambda rng: optax.clip(rng.choice([0.1, 10.0])),
  'global_norm': lambda rng: optax.clip_by_global_norm(0.5),
  'block_rms': lambda rng: optax.clip_by_block_rms(0.5),
  'adaptive': lambda rng: optax.adaptive_grad_clip(0.5),
  'decay': lambda rng: optax.add_decayed_weights(rng.choice([1e-3, 0.5])),
  'ema': lambda rng: optax.ema(0.9),
  'noise': lambda rng: optax.add_noise(0.5, 0.55, jax.random.key(0)),
  'centralize': lambda rng: optax.centralize(),
  'normalize': lambda rng: optax.normalize_by_update_norm(),
  'trust': lambda rng: optax.scale_by_trust_ratio(),
  'zero_nans': lambda rng: optax.zero_nans(),
  'keep_positive': lambda rng: optax.keep_params_nonnegative(),
  'add_one': lambda rng: optax.stateless(
    lambda u, p: jax.tree.map(lambda x: x + jnp.ones_like(x), u)
  ),
}
OPTIMIZERS = {
  'sgd': lambda rng: optax.sgd(schedule(rng)),
  'momentum': lambda rng: optax.sgd(schedule(rng), momentum=0.9),
  'nesterov': lambda rng: optax.sgd(schedule(rng), 0.9, nesterov=True),
  'adam': lambda rng: optax.adam(schedule(rng)),
  'adamw': lambda rng: optax.adamw(schedule(rng), weight_decay=0.1),
  'nadam': lambda rng: optax.nadam(schedule(rng)),
  'lion': lambda rng: optax.lion(schedule(rng), weight_decay=0.1),
  'rmsprop': lambda rng: optax.rmsprop(schedule(rng), momentum=0.9),
  'adagrad': lambda rng: optax.adagrad(schedule(rng)),
  'yogi': lambda rng: optax.yogi(schedule(rng)),
  'lamb': lambda rng: optax.lamb(schedule(rng)),
  'adabelief': lambda rng: optax.adabelief(schedule(rng)),
  'amsgrad': lambda rng: optax.amsgrad(schedule(rng)),
  'sign': lambda rng: optax.sign_sgd(schedule(rng)),
  'schedule_free': lambda rng: optax.contrib.schedule_free_sgd(0.1),
}


def plain(tx, rng):
  return tx


def finite(tx, rng):
  return optax.apply_if_finite(tx, rng.choice([1, 10]))


def several(tx, rng):
  return optax.MultiSteps(tx, 2).gradient_transformation()


AROUND = [plain, plain, plain, finite, several]
MASK = {
  name: np.random.default_rng(i).random(shape) < 0.4
  for i, (name, shape) in enumerate(MASKED.items())
} | {'bias': None}


def flip(params, state):
  """Keeps what was pruned, and prunes what was kept, every other update."""
  mask = jax.tree.map(lambda m: m ^ (state.count % 2 == 1), state.mask)
  return ong_jax.remask(state, mask)


def draw_chain(seed):
  """A chain in a mask, in what may be around one; and what it is called."""
  rng = random.Random(seed)
  optimizer = list(OPTIMIZERS)[seed % len(OPTIMIZERS)]
  before = rng.sample(list(PARTS), rng.randint(0, 3))
  after = rng.sample(list(PARTS), rng.randint(0, 2))
  around, moves = rng.choice(AROUND), rng.random() < 0.3

  parts = [
    *(PARTS[name](rng) for name in before),
    OPTIMIZERS[optimizer](rng),
    *(PARTS[name](rng) for name in after),
  ]

  def chain(peak):
    inner = optax.chain(*parts, optax.scale(peak))
    return ong_jax.masked_transform(inner, MASK, flip if moves else None)

  if inject := rng.random() < 0.3:
    tx = optax.inject_hyperparams(chain)(peak=1.0)
  else:
    tx = chain(1.0)
  moves = '_moving' if moves else ''
  inject = '_injected' if inject else ''
  name = '_'.join([*before, optimizer, *after, around.__name__])
  return f'{seed}_{name}{moves}{inject}', around(tx, rng), bool(moves)


@st.composite
def gradients(draw, dtype):
  """For every step: any bits, or normal and at times not finite or huge."""
  steps = [
    draw(drawn.trees(SHAPES, (dtype,), wild=True)) for _ in range(NUM_STEPS)
  ]
  return jax.tree.map(lambda *xs: np.stack(xs), *steps)


class ZerosTest(parameterized.TestCase):
  """18 chains x 27 lists of gradients, of four steps each."""

  @parameterized.named_parameters(
    (*draw_chain(seed), list(drawn.FLOATS)[seed % 5 % 3]) for seed in range(18)
  )
  def test_nothing_revives_a_pruned_weight(self, tx, moves, dtype):
    @jax.jit
    def train(params, grads):
      params = ong_jax.apply_mask(params, MASK)

      def step(carry, grads):
        params, state = carry
        before = ong_jax.mask_of(state)
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), (
          params,
          updates,
          before,
          ong_jax.mask_of(state),
        )

      return jax.lax.scan(step, (params, tx.init(params)), grads)[1]

    @settings(max_examples=27)
    @given(drawn.trees(SHAPES, (dtype,)), gradients(dtype))
    def check(params, grads):
      previous = ong_jax.apply_mask(params, MASK)
      found = jax.device_get(train(params, grads))
      for i in range(NUM_STEPS):
        now, updates, before, mask = jax.tree.map(lambda x, i=i: x[i], found)
        for name in MASKED:
          old, new = np.asarray(previous[name]), now[name]
          self.assertEqual(new.dtype, drawn.FLOATS[dtype])
          # What was NaN when a mask that moves pruned it, no sum makes 0.
          pruned = ~mask[name] & np.isfinite(old)
          self.assertTrue(moves or (pruned == ~mask[name]).all())
          np.testing.assert_array_equal(new[pruned], 0)
          np.testing.assert_array_equal(updates[name][pruned], -old[pruned])
          back = mask[name] & ~before[name] & np.isfinite(old)
          np.testing.assert_array_equal(new[back], 0)  # They start at 0.
        previous = now

    check()


if __name__ == '__main__':
  absltest.main()
