"""Nothing compiles a second time for other values of the same shapes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl.testing import parameterized
from jax import monitoring

import ong_jax
from ong_jax import allocation, patterns, saliency, scores

_COMPILED = []  # What XLA was asked for, from the cache or not.
SHAPES = {'conv': (3, 3, 4, 8), 'fc': (72, 8)}


def _listen(event, seconds, **kwargs):
  if event.endswith('backend_compile_duration'):
    _COMPILED.append(kwargs.get('fun_name', event))


monitoring.register_event_duration_secs_listener(_listen)


def params(seed):
  rng = np.random.default_rng(seed)
  return {
    name: {'kernel': jnp.asarray(rng.normal(size=shape), jnp.float32)}
    for name, shape in SHAPES.items()
  }


def batches(seed):
  rng = np.random.default_rng(seed)
  return [jnp.asarray(rng.normal(size=(4, 72)), jnp.float32) for _ in range(2)]


def network(params, x):
  return jnp.tanh(x @ params['fc']['kernel'])


def loss(params, batch):
  return jnp.square(network(params, batch)).mean()


PRUNERS = {  # (seed, sparsity) -> pruner
  'magnitude': lambda i, s: ong_jax.magnitude(sparsity=s),
  'lamp': lambda i, s: ong_jax.lamp(sparsity=s),
  'random': lambda i, s: ong_jax.random(jax.random.key(i), sparsity=s),
  'ong': lambda i, s: ong_jax.ong(jax.random.key(i), sparsity=s),
  'ong_recon_mag_erk': lambda i, s: ong_jax.one_shot(
    scores.ong(jax.random.key(i), saliency=saliency.recon_mag, rank=7),
    s,
    allocate=allocation.erk,
  ),
  'blocks': lambda i, s: ong_jax.one_shot(
    scores.magnitude, pattern=patterns.blocks((2, 2), s)
  ),
}


class NothingRecompilesTest(parameterized.TestCase):
  def compiled(self, call):
    before = len(_COMPILED)
    jax.block_until_ready(call())
    return _COMPILED[before:]

  def test_what_compiles_is_seen(self):
    once = jax.jit(lambda x: x * 3 + 1)
    x = jnp.ones(7)
    self.assertLen(self.compiled(lambda: once(x)), 1)
    self.assertEmpty(self.compiled(lambda: once(x)))

  @parameterized.named_parameters(zip(PRUNERS, PRUNERS.values()))
  def test_other_weights_keys_and_sparsities(self, make):
    inputs = [params(seed) for seed in range(3)]
    make(0, 0.5)(inputs[0])
    self.assertEmpty(self.compiled(lambda: make(1, 0.5)(inputs[1])))
    self.assertEmpty(self.compiled(lambda: make(2, 0.8)(inputs[2])))

  def test_other_weights_of_a_pruner_that_sees_batches(self):
    prune = ong_jax.snip(loss, batches(0), sparsity=0.5)
    inputs = [{'fc': params(seed)['fc']} for seed in range(2)]
    prune(inputs[0])
    self.assertEmpty(self.compiled(lambda: prune(inputs[1])))

  def test_other_masks_of_one_optimizer(self):
    tx = optax.adamw(1e-3)
    inputs = [params(seed) for seed in range(2)]
    masks = [
      ong_jax.magnitude(sparsity=s)(p) for s, p in zip((0.5, 0.9), inputs)
    ]
    states = [
      ong_jax.masked_transform(tx, mask).init(p)
      for mask, p in zip(masks, inputs)
    ]
    update = jax.jit(ong_jax.masked_transform(tx, masks[0]).update)
    update(inputs[0], states[0], inputs[0])
    again = self.compiled(lambda: update(inputs[1], states[1], inputs[1]))
    self.assertEmpty(again)
    ong_jax.summarize(masks[0])
    self.assertEmpty(
      self.compiled(lambda: ong_jax.summarize(masks[1]).sparsity)
    )
