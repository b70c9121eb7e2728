import dataclasses

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl.testing import absltest, parameterized

import ong_jax
from experiments import data, inputs, learning_rates, models, sharding, train
from experiments.config import Config

_CONFIG = Config(
  model='resnet8',
  dataset='synthetic',
  batch_size=32,
  image_mean=(0.5,) * 3,
  image_std=(0.25,) * 3,
)
_STEPS = 3


def _network(config, model=None):
  model = model or models.create(config.model, 10, dtype=config.dtype)
  images = jnp.zeros((1, 32, 32, 3))
  variables = model.init(jax.random.key(0), images, train=False)
  return model, variables['params'], variables['batch_stats']


def _train(
  method,
  config=_CONFIG,
  *,
  devices=None,
  model_parallel=1,
  fused=False,
  model=None,
):
  """Takes a few steps, and returns the states after each."""
  devices = devices or jax.devices()[:1]
  mesh = sharding.make_mesh(model_parallel, config.batch_size, devices)
  model, params, stats = _network(config, model)
  rate = learning_rates.training(config, num_steps=20)
  tx = method.transform(train.optimizer(config, rate, config.learning_rate))
  trainable = method.init(params)
  state = train.TrainState(
    step=jnp.int32(0),
    trainable=trainable,
    opt_state=tx.init(trainable),
    stats=stats,
    loss=jnp.float32(0),
    correct=jnp.int32(0),
    nonfinite=jnp.int32(0),
  )
  splits = sharding.shardings(mesh, state)
  state = jax.device_put(state, splits)
  step = train.make_train_step(config, model, mesh, method, tx)
  loop = train.make_loop(step, splits, fused=fused)
  dataset = data.load('synthetic')
  images = inputs.Images(dataset.train_images, dataset.train_labels)
  images = sharding.replicate(mesh, images)
  states = []
  for _ in range(_STEPS):
    state = loop(state, images, 1)
    states.append(jax.device_get(state))
  return states


class Linear(nn.Module):
  """One layer on a few pixels."""

  num_classes: int = 10

  @nn.compact
  def __call__(self, x, train):
    x = x[:, ::8, ::8].reshape(len(x), -1)
    return nn.Dense(self.num_classes, name='linear')(x)


class Normalized(Linear):
  """With BatchNorm before it."""

  @nn.compact
  def __call__(self, x, train):
    x = nn.BatchNorm(use_running_average=not train)(x[:, ::8, ::8])
    return nn.Dense(self.num_classes, name='linear')(x.reshape(len(x), -1))


def _static():
  return ong_jax.static(ong_jax.magnitude(sparsity=0.9))


class NonfiniteTest(parameterized.TestCase):
  def nan_at(self, step):
    """A method whose loss is NaN at one step."""
    method = _static()

    def effective(params, opt_state, key):
      count = ong_jax.state_of(opt_state).count
      params = method.effective(params, opt_state, key)
      factor = jnp.where(count == step, jnp.nan, 1.0)
      return params | {
        'linear': jax.tree.map(lambda x: x * factor, params['linear'])
      }

    return method._replace(effective=effective)

  @parameterized.product(nonfinite=['report', 'skip'], num_devices=[1, 8])
  def test_a_step_that_is_not_finite(self, nonfinite, num_devices):
    config = dataclasses.replace(_CONFIG, batch_size=256, nonfinite=nonfinite)
    devices, split = jax.devices()[:num_devices], min(num_devices, 2)
    before, after, last = _train(
      self.nan_at(1),
      config,
      devices=devices,
      model_parallel=split,
      model=Normalized(),
    )
    # An epoch has two steps; weights that are NaN make the next one so, too.
    counts = [int(s.nonfinite) for s in (before, after, last)]
    self.assertEqual(counts, [0, 1, int(nonfinite == 'report')])
    mask = ong_jax.mask_of(after.opt_state)
    for state in (after, last):
      weights = ong_jax.selection.select(state.trainable)
      for w, m in zip(*map(jax.tree.leaves, (weights, mask))):
        np.testing.assert_array_equal(w[~m], 0)
    if nonfinite == 'report':
      self.assertTrue(np.isnan(after.loss))
      self.assertTrue(np.isnan(last.trainable['linear']['bias']).all())
      return
    chex.assert_tree_all_finite((after, last))
    self.assertEqual(after.loss, before.loss)
    self.assertEqual(after.correct, before.correct)
    chex.assert_trees_all_equal(after.stats, before.stats)
    # Momentum, decay and the count of steps go on, as without a gradient.
    rate = learning_rates.training(config, num_steps=20)
    tx = train.optimizer(config, rate, config.learning_rate)
    tx = _static().transform(tx)
    zeros = jax.tree.map(jnp.zeros_like, before.trainable)
    updates, _ = tx.update(zeros, before.opt_state, before.trainable)
    chex.assert_trees_all_close(
      after.trainable, optax.apply_updates(before.trainable, updates), rtol=1e-5
    )
    self.assertEqual(ong_jax.state_of(last.opt_state).count, 3)
    bias = [s.trainable['linear']['bias'] for s in (before, after)]
    self.assertTrue((bias[0] != bias[1]).all())

  @parameterized.parameters('report', 'skip')
  def test_policies_are_one_where_all_is_finite(self, nonfinite):
    config = dataclasses.replace(_CONFIG, nonfinite=nonfinite)
    state = _train(_static(), config, model=Normalized())[-1]
    self.assertEqual(state.nonfinite, 0)
    expected = _train(_static(), model=Normalized())[-1]
    chex.assert_trees_all_close(
      state.trainable, expected.trainable, rtol=1e-4, atol=1e-6
    )


class SamplesTest(absltest.TestCase):
  def test_gradients_are_averaged_over_the_samples_of_a_step(self):
    config = Config(**{**vars(_CONFIG), 'augment': False})
    mesh = sharding.make_mesh(1, config.batch_size, jax.devices()[:1])
    model, dataset = Linear(), data.load('synthetic')
    images = inputs.Images(dataset.train_images, dataset.train_labels)
    params = model.init(jax.random.key(0), images.images[:1] / 255.0, False)
    params = params['params']
    keys, tx = [], optax.sgd(1.0)

    def step(effective, samples):
      method = ong_jax.SparseMethod(effective=effective)
      step = train.make_train_step(config, model, mesh, method, tx, samples)
      state = train.TrainState(
        step=jnp.int32(3),
        trainable=params,
        opt_state=tx.init(params),
        stats={},
        loss=jnp.float32(0),
        correct=jnp.int32(0),
        nonfinite=jnp.int32(0),
      )
      return step(state, images)  # Not compiled, so that keys can be seen.

    def noisy(params, key):
      return jax.tree.map(
        lambda w: w * jax.random.uniform(key, w.shape), params
      )

    def seen(params, opt_state, key):
      keys.append(key)
      return noisy(params, key)

    both = step(seen, 2)
    self.assertLen(set(map(str, keys)), 2)
    first, second = (
      step(lambda params, opt_state, _, key=key: noisy(params, key), 1)
      for key in list(keys)
    )
    chex.assert_trees_all_close(
      both.trainable,
      jax.tree.map(lambda x, y: (x + y) / 2, first.trainable, second.trainable),
      rtol=1e-5,
      atol=1e-7,
    )
    self.assertAlmostEqual(
      float(both.loss), float(first.loss + second.loss) / 2, places=5
    )


class TrainStepTest(parameterized.TestCase):
  def pruner(self, sparsity=0.9):
    return ong_jax.magnitude(sparsity=sparsity)

  @parameterized.parameters('float32', 'bfloat16')
  def test_pruned_weights_and_their_momentum_are_0(self, dtype):
    config = Config(**{**vars(_CONFIG), 'dtype': dtype})
    states = _train(ong_jax.static(self.pruner()), config)
    mask = ong_jax.mask_of(states[0].opt_state)
    pruned = [~m for m in jax.tree.leaves(mask)]
    for state in states:
      weights = jax.tree.leaves(ong_jax.selection.select(state.trainable))
      trace = state.opt_state.inner_state.inner_state[1][0].trace
      trace = jax.tree.leaves(ong_jax.selection.select(trace))
      for w, t, p in zip(weights, trace, pruned):
        self.assertEqual(w.dtype, np.float32)
        self.assertTrue((w[p] == 0).all())
        self.assertTrue((t[p] == 0).all())
    moved = [
      (a != b).any()
      for a, b in zip(
        jax.tree.leaves(states[0].trainable),
        jax.tree.leaves(states[-1].trainable),
      )
    ]
    self.assertTrue(all(moved))

  def test_the_mask_never_changes(self):
    states = _train(ong_jax.static(self.pruner()))
    masks = [ong_jax.mask_of(state.opt_state) for state in states]
    chex.assert_trees_all_equal(masks[0], masks[-1])

  def test_without_sparsity_it_is_dense_training(self):
    masked = _train(ong_jax.static(self.pruner(sparsity=0)))[-1]
    plain = ong_jax.SparseMethod(
      effective=lambda trainable, opt_state, key: trainable,
      finish=lambda trainable, opt_state, key=None: (trainable, None),
    )
    dense = _train(plain)[-1]
    # Up to the last bits: another program, fused by XLA in another way.
    chex.assert_trees_all_close(
      masked.trainable, dense.trainable, rtol=1e-4, atol=1e-6
    )

  def test_fused_steps_match_single_ones(self):
    config = Config(**{**vars(_CONFIG), 'batch_size': 4})
    method = ong_jax.static(self.pruner())
    single = _train(method, config)[-1]
    fused = _train(method, config, fused=True)[-1]
    chex.assert_trees_all_close(
      single.trainable, fused.trainable, rtol=1e-3, atol=1e-4
    )
    self.assertEqual(fused.step, _STEPS)

  def test_statistics_stay_where_the_method_says_so(self):
    method = ong_jax.static(self.pruner())
    states = _train(method._replace(tracks_statistics=lambda opt_state: False))
    _, _, stats = _network(_CONFIG)
    chex.assert_trees_all_equal(states[-1].stats, jax.device_get(stats))
    self.assertTrue(
      (_train(method)[-1].stats['bn1']['mean'] != stats['bn1']['mean']).any()
    )

  def test_loss_and_hits_are_of_the_epoch(self):
    config = Config(**{**vars(_CONFIG), 'batch_size': 256})  # 2 steps.
    states = _train(ong_jax.static(self.pruner()), config)
    self.assertGreater(states[1].loss, states[0].loss)
    self.assertLess(states[2].loss, states[1].loss)  # Begun anew.
    self.assertLessEqual(states[2].correct, 256)

  def test_the_second_step_does_not_compile(self):
    method = ong_jax.static(self.pruner())
    traced = []

    def counting(inner):
      tx = method.transform(inner)

      def update(updates, state, params=None):
        traced.append(1)
        return tx.update(updates, state, params)

      return optax.GradientTransformation(tx.init, update)

    _train(method._replace(transform=counting))
    self.assertLen(traced, 1)


if __name__ == '__main__':
  absltest.main()
