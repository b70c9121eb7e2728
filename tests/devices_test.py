import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from absl.testing import absltest, parameterized
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import ong_jax
from experiments import (
  data,
  handover,
  inputs,
  learning_rates,
  run,
  sharding,
  train,
)
from experiments.config import Config
from experiments.methods import METHODS
from experiments.plan import Run
from ong_jax import allocation, devices, masks, patterns, scores
from tests.collectives import holding_whole

_MESHES = (  # Devices along 'data' and 'model'.
  ('1', 1, 1),
  ('2x1', 2, 1),
  ('4x2', 4, 2),
  ('8x1', 8, 1),
  ('2x4', 2, 4),
)
_CONFIG = Config(
  dataset='synthetic',
  batch_size=32,
  image_mean=(0.5,) * 3,
  image_std=(0.25,) * 3,
)
_STEPS = 4
_KEY = jax.random.key(0)


class PlacingTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    self.mesh = jax.make_mesh((8,), ('model',), axis_types=(AxisType.Auto,))
    self.split = NamedSharding(self.mesh, P('model'))
    self.divided = jax.device_put(jnp.arange(16.0), self.split)

  def test_a_divided_array_is_put_on_every_device(self):
    found = devices.whole(self.divided)
    self.assertTrue(found.sharding.is_fully_replicated)
    self.assertEqual(found.sharding.mesh, self.mesh)
    chex.assert_trees_all_equal(found, jnp.arange(16.0))
    chex.assert_trees_all_equal(jax.jit(devices.whole)(self.divided), found)

  def test_and_divided_again(self):
    params = {'kernel': self.divided, 'bias': self.divided}
    mask = {'kernel': devices.whole(self.divided) > 3, 'bias': None}
    found = devices.split_like(params, mask)
    self.assertEqual(found['kernel'].sharding, self.split)
    chex.assert_trees_all_equal(found, mask)
    chex.assert_trees_all_equal(
      jax.jit(devices.split_like)(params, mask), found
    )

  def test_other_leaves_stay_as_they_are(self):
    for leaf in (jnp.ones(3), np.ones(3)):
      self.assertIs(devices.whole(leaf), leaf)
      self.assertIs(devices.split_like(jnp.ones(3), leaf), leaf)


def _weights():
  """Kernels with many ties; two are of one shape."""
  rng = np.random.default_rng(0)
  shapes = {'a': (3, 3, 4, 24), 'b': (20, 28), 'c': (20, 28), 'd': (28, 10)}
  return {
    name: {'kernel': rng.integers(-9, 10, shape).astype(np.float32) / 4}
    for name, shape in shapes.items()
  }


def _special(weights):
  """Scores of weights, with what is hardest to compare."""
  return jax.tree.map(
    lambda w: jnp.where(w > 2, jnp.nan, jnp.where(w < -2, -0.0, w)), weights
  )


def _counts(weights):
  return allocation.erk(weights, 0.7)


# Functions of the weights to a mask, that rank them where they lie.
_EXACT = {
  'top_k_of_all': lambda w: ong_jax.top_k(_special(w), 700),
  'top_k_of_each': lambda w: ong_jax.top_k(_special(w), _counts(w)),
  'magnitude': ong_jax.magnitude(sparsity=0.8),
  'uniform': ong_jax.magnitude(sparsity=0.8, allocate=allocation.uniform),
  'random': ong_jax.random(_KEY, sparsity=0.8),
  'floors': ong_jax.one_shot(scores.at_least(scores.magnitude, 2), 0.8),
  '2_of_4': ong_jax.one_shot(scores.magnitude, pattern=patterns.n_of_m(2, 4)),
}
# It looks at a whole kernel, and says so.
_WHOLE = {'lamp': ong_jax.lamp(sparsity=0.8)}


@functools.cache
def _masks_of_one_device():
  weights = jax.tree.map(jnp.asarray, _weights())
  return {
    name: jax.device_get(choose(weights))
    for name, choose in (_EXACT | _WHOLE).items()
  }


class SelectionTest(parameterized.TestCase):
  def assert_like(self, trees, splits):
    for leaf, split in zip(*map(jax.tree.leaves, (trees, splits))):
      self.assertTrue(leaf.sharding.is_equivalent_to(split, leaf.ndim))

  @parameterized.named_parameters(*_MESHES)
  def test_is_that_of_one_device(self, num_data, num_model):
    splits = sharding.shardings(_mesh(num_data, num_model), _weights())
    weights = jax.device_put(_weights(), splits)
    program = jax.jit(
      lambda w: {name: choose(w) for name, choose in _EXACT.items()},
      out_shardings=dict.fromkeys(_EXACT, splits),
    )
    compiled = program.lower(weights).compile()
    self.assertEmpty(holding_whole(compiled, weights))
    expected = _masks_of_one_device()
    for name, mask in compiled(weights).items():
      with self.subTest(name):
        chex.assert_trees_all_equal(mask, expected[name])

  def test_masks_lie_where_their_weights_do(self):
    splits = sharding.shardings(_mesh(2, 4), _weights())
    weights = jax.device_put(_weights(), splits)
    for name, choose in (_EXACT | _WHOLE).items():
      with self.subTest(name):
        mask = choose(weights)
        self.assert_like(mask, splits)
        chex.assert_trees_all_equal(mask, _masks_of_one_device()[name])


class Net(nn.Module):
  """Kernels of such sizes that no part of one is as large as another.

  Two are of one shape, which are stacked to be ranked.
  """

  num_classes: int = 10

  @nn.compact
  def __call__(self, x, train):
    x = x[:, ::4, ::4]
    x = nn.Conv(20, (3, 3), use_bias=False, name='conv')(x)
    x = nn.relu(nn.BatchNorm(not train, name='norm')(x))
    x = x.mean((1, 2))
    for i in range(3):
      x = nn.relu(nn.Dense(52, name=f'hidden{i}')(x))
    return nn.Dense(self.num_classes, name='linear')(x)


@functools.cache
def _variables():
  init = functools.partial(Net().init, train=False)
  drawn = jax.jit(init)(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
  return jax.device_get(drawn)  # A loop is given what is on devices.


def _mesh(num_data, num_model):
  chosen = jax.devices()[: num_data * num_model]
  return sharding.make_mesh(num_model, _CONFIG.batch_size, chosen)


def _train(method, inner=None, *, mesh):
  """Takes a few steps: the compiled program, and the state after them."""
  rate = learning_rates.training(_CONFIG, num_steps=20)
  inner = inner or train.optimizer(_CONFIG, rate, _CONFIG.learning_rate)
  variables = jax.tree.map(jnp.array, _variables())
  tx, trainable = method.transform(inner), method.init(variables['params'])
  state = train.TrainState(
    step=jnp.int32(0),
    trainable=trainable,
    opt_state=tx.init(trainable),
    stats=variables['batch_stats'],
    loss=jnp.float32(0),
    correct=jnp.int32(0),
    nonfinite=jnp.int32(0),
  )
  splits = sharding.shardings(mesh, state)
  dataset = data.load('synthetic')
  images = inputs.Images(dataset.train_images, dataset.train_labels)
  step = train.make_train_step(_CONFIG, Net(), mesh, method, tx)
  loop = train.make_loop(step, splits, fused=True)
  arguments = (
    jax.device_put(state, splits),
    sharding.replicate(mesh, images),
    _STEPS,
  )
  compiled = loop.lower(*arguments).compile()
  return compiled, compiled(*arguments)


_METHODS = {  # And the optimizer, if it is not the experiments' own.
  'static': lambda: (ong_jax.static(ong_jax.magnitude(sparsity=0.8)),),
  'gmp': lambda: (ong_jax.gmp(sparsity=0.8, interval=1, num_updates=2),),
  'rigl': lambda: (
    ong_jax.rigl(_KEY, patterns.unstructured(0.8), interval=2, fractions=[0.3]),
    optax.adam(1e-3),
  ),
  'cs': lambda: (ong_jax.cs(sparsity=0.8, num_steps=4), optax.adamw(0.1)),
}


@functools.cache
def _trained(name, num_data, num_model):
  return _train(*_METHODS[name](), mesh=_mesh(num_data, num_model))


class TrainingTest(parameterized.TestCase):
  @parameterized.named_parameters(
    (f'{method}_{name}', method, *shape)
    for method, meshes in (
      ('static', _MESHES[1:]),
      ('gmp', _MESHES[-1:]),
      ('rigl', _MESHES[-1:]),
    )
    for name, *shape in meshes
  )
  def test_is_that_of_one_device(self, name, num_data, num_model):
    self.check_is_that_of_one(name, num_data, num_model)

  @parameterized.named_parameters(*_MESHES[1:-1])
  @pytest.mark.slow
  def test_others_are_those_of_one_device(self, num_data, num_model):
    self.check_is_that_of_one('gmp', num_data, num_model)

  def check_is_that_of_one(self, name, num_data, num_model):
    _, one = _trained(name, 1, 1)
    compiled, state = _trained(name, num_data, num_model)
    self.assertEmpty(holding_whole(compiled, state.trainable))
    # Sums over the batch and over features round differently when split; from
    # step to step that grows. No score is so close to the threshold that a mask
    # which is chosen on the way would differ.
    one, state = jax.device_get((one, state))
    chex.assert_trees_all_close(
      one.trainable, state.trainable, rtol=1e-3, atol=1e-4
    )
    mask = ong_jax.mask_of(state.opt_state)
    chex.assert_trees_all_equal(ong_jax.mask_of(one.opt_state), mask)
    weights = ong_jax.selection.select(state.trainable)
    for w, m in zip(*map(jax.tree.leaves, (weights, mask))):
      np.testing.assert_array_equal(w[~m], 0)
    kept = sum(m.sum() for m in jax.tree.leaves(mask))
    self.assertEqual(kept, masks.num_kept(weights, 0.8))


class SplitStateTest(parameterized.TestCase):
  # Of each kernel: itself, its gates if it learns any, its mask if it has one
  # all along, and their moments.
  @parameterized.parameters(('static', 3), ('rigl', 4), ('cs', 6))
  def test_all_that_mirrors_a_kernel_is_split_like_it(self, name, number):
    compiled, state = _trained(name, 2, 4)
    self.assertEmpty(holding_whole(compiled, state.trainable))
    kernels = ong_jax.selection.select(_variables()['params'])
    shapes = [kernel.shape for kernel in jax.tree.leaves(kernels)]
    splits = jax.tree.leaves(sharding.shardings(_mesh(2, 4), kernels))
    for shape, split in zip(shapes, splits):
      like = [x for x in jax.tree.leaves(state) if x.shape == shape]
      for leaf in like:
        self.assertTrue(leaf.sharding.is_equivalent_to(split, leaf.ndim))
      self.assertLen(like, number * shapes.count(shape))


class ResNetTest(absltest.TestCase):
  def test_a_step_of_resnet8_gathers_no_kernel(self):
    config = Config(
      method='gmp',
      sparsity=0.9,
      model='resnet8',
      dataset='synthetic',
      epochs=4,
      model_parallel=4,
    )
    setup, params, stats = run.set_up(config, None)
    plan = Run(setup.config, setup.steps_per_epoch)
    (segment,) = METHODS['gmp'].recipe(plan, **setup.config.options)
    network = handover.Network(params, params, None, stats)
    state, _ = handover.start(setup, segment, 0, network, None)
    method = segment.method(None)
    step = train.make_train_step(
      setup.config,
      setup.model,
      setup.mesh,
      method,
      handover.transform(setup, segment, method),
    )
    splits = sharding.shardings(setup.mesh, state)
    loop = train.make_loop(step, splits, fused=True)
    compiled = loop.lower(state, setup.train_data, 1).compile()
    self.assertEmpty(holding_whole(compiled, state.trainable))


if __name__ == '__main__':
  absltest.main()
