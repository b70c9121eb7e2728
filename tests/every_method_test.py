"""What every method must do, whatever it is: a table of all of them."""

import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized
from jax.sharding import PartitionSpec as P

import ong_jax
from experiments import (
  calibration,
  data,
  handover,
  inputs,
  options,
  sharding,
  train,
)
from experiments.config import Config
from experiments.directory import RunDirectory
from experiments.methods import METHODS
from experiments.plan import Run
from ong_jax.costs import weights_cost

_STEPS_PER_EPOCH = 8
_N_OF_M = ('iee-nm', 'magnitude-nm', 'sr-ste', 'mask-decay', 'structure-decay')
_SPARSITY = {'dense': 0} | dict.fromkeys(_N_OF_M, 0.75)  # Of all others:
_USUAL = 0.8
# Weights that may be missing where only whole channels or blocks are kept: one
# of 58; in each of two leaves one of 16.
_MISSING = {'iee-channels': 57, 'magnitude-blocks': 30}


# Of a kind each: a mask that is static, moves, is learned, is drawn; channels.
_KINDS = ('ong', 'rigl', 'cs', 'probmask', 'iee-channels')
_ALIKE = tuple(name for name in _KINDS if name != 'cs')  # Which takes long.
# Of segments, of weights that live on behind a mask, of what is summed up.
_STEPS = (*_KINDS, 'imp', 'lth', 'dpf', 'iee', 'optg', 'gsm', 'structure-decay')

_VARIANTS = tuple(name for name in METHODS if name.startswith('ong-'))


def _not_in(names):
  return [(name, name) for name in METHODS if name not in names]


class Tiny(nn.Module):
  """Two layers and a BatchNorm on a few pixels: 928 weights."""

  num_classes: int = 10
  dtype: jnp.dtype = jnp.dtype('float32')

  @nn.compact
  def __call__(self, x, train):
    x = x[:, ::8, ::8].reshape(len(x), -1)
    x = nn.Dense(16, dtype=self.dtype, name='hidden')(x)
    norm = nn.BatchNorm(not train, dtype=self.dtype, name='norm')
    x = nn.relu(norm(x))
    return nn.Dense(self.num_classes, dtype=self.dtype, name='linear')(x)


_NAMES = {
  'hidden': {'bias': P('hidden'), 'kernel': P(None, 'hidden')},
  'linear': {'bias': P(None), 'kernel': P('hidden', None)},
  'norm': {'bias': P('hidden'), 'scale': P('hidden')},
}


@functools.cache
def _data():
  dataset = data.load('synthetic')
  return inputs.Images(dataset.train_images, dataset.train_labels)


@functools.cache
def _initial():
  model = Tiny()
  variables = model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), False)
  return handover.Network(
    variables['params'], variables['params'], None, variables['batch_stats']
  )


def _setup(config, num_devices):
  mesh = sharding.make_mesh(1, config.batch_size, jax.devices()[:num_devices])
  return handover.Setup(
    config=config,
    model=Tiny(),
    mesh=mesh,
    train_data=sharding.replicate(mesh, _data()),
    test_data=None,
    steps_per_epoch=_STEPS_PER_EPOCH,
    macs={},
    evaluate=None,
    reestimate=None,
  )


def _plan(name, **fields):
  config = Config(
    method=name,
    sparsity=_SPARSITY.get(name, _USUAL),
    **({'epochs': 1, 'dense_epochs': 1} if name == 'imp' else {'epochs': 2}),
    batch_size=64,
    learning_rate=0.05,
    augment=False,
    image_mean=(0.5,) * 3,
    image_std=(0.25,) * 3,
    **fields,
  )
  recipe = METHODS[name].recipe
  run = Run(
    config,
    _STEPS_PER_EPOCH,
    calibration.make(config, Tiny(), _data()),
    names=_NAMES,
    costs=lambda kind: weights_cost(_NAMES, _initial().params, {'hidden': 1}),
  )
  return config, recipe(run, **options.complete(recipe, {}, run))


def _begin(setup, segment, step, network):
  """As `handover.start`, but silent, and without measuring anything."""
  network = jax.device_put(network, jax.devices()[0])
  if segment.prune:
    params, mask = segment.prune(network.params, network.mask)
    network = network._replace(params=params, mask=mask)
  state = handover.begin(setup, segment, step, network, peak=0.05)
  return jax.device_put(state, sharding.shardings(setup.mesh, state))


def _step(setup, segment):
  method = segment.method(None)
  tx = handover.transform(setup, segment, method)
  return train.make_train_step(
    setup.config, setup.model, setup.mesh, method, tx, segment.samples
  )


def _train(setup, segment, state, num_steps):
  step = jax.jit(_step(setup, segment))
  for _ in range(num_steps):
    state = step(state, setup.train_data)
  return state


def _close(first, second):
  """Masks and other integers are equal; floats differ by rounding only."""
  for a, b in zip(*map(jax.tree.leaves, jax.device_get((first, second)))):
    if np.issubdtype(a.dtype, np.floating):
      np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
    else:
      np.testing.assert_array_equal(a, b)


def _walk(name):
  """Trains one segment after the other: (setup, segments, i, network, state).

  Of the segments of one plan that train under a fixed mask by the same program,
  only the first is yielded.
  """
  config, segments = _plan(name)
  setup, network, start, seen = _setup(config, 1), _initial(), 0, set()
  for i, segment in enumerate(segments):
    state = _begin(setup, segment, start, network)
    if segment.method not in seen:
      yield setup, segments, i, network, state
    seen.add(segment.method)
    network = handover.end(
      segment, _train(setup, segment, state, segment.steps)
    )
    start += segment.steps


class EveryMethodTest(parameterized.TestCase):
  @parameterized.named_parameters(zip(_ALIKE, _ALIKE))
  def test_trains_alike_however_it_is_run(self, name):
    self.check_trains_alike(name)

  @parameterized.named_parameters(_not_in(_ALIKE))
  @pytest.mark.slow
  def test_others_train_alike(self, name):
    self.check_trains_alike(name)

  def check_trains_alike(self, name):
    for one, segments, i, network, state in _walk(name):
      segment, traces = segments[i], []
      step = _step(one, segment)

      def counted(state, images, step=step, traces=traces):
        traces.append(1)
        return step(state, images)

      compiled, states = jax.jit(counted), [state]
      for _ in range(segment.steps):
        states.append(compiled(states[-1], one.train_data))
      self.assertLen(traces, 1)  # No step compiles again.
      moved = jax.tree.map(
        lambda x, y: (x != y).any(), state.trainable, states[-1].trainable
      )
      self.assertTrue(any(jax.tree.leaves(moved)))
      not_compiled = step(state, one.train_data)
      _close(not_compiled, states[1])
      in_scan = jax.jit(
        lambda state, images, step=step, n=segment.steps: jax.lax.scan(
          lambda s, _: (step(s, images), None), state, length=n
        )[0]
      )(state, one.train_data)
      _close(in_scan, states[-1])
      eight = _setup(one.config, 8)
      split = _begin(eight, segment, int(state.step), network)
      _close(split, state)
      _close(_train(eight, segment, split, segment.steps), states[-1])

  @parameterized.named_parameters(_not_in(_VARIANTS))
  def test_ends_with_exact_counts_and_zeros(self, name):
    self.check_ends_exactly(name)

  @parameterized.named_parameters(zip(_VARIANTS, _VARIANTS))
  @pytest.mark.slow
  def test_variants_end_with_exact_counts_and_zeros(self, name):
    self.check_ends_exactly(name)

  def check_ends_exactly(self, name):
    config, segments = _plan(name)
    self.assertEqual(sum(segment.steps for segment in segments), 16)
    setup, network, start = _setup(config, 1), _initial(), 0
    for segment in segments:
      state = _begin(setup, segment, start, network)
      network = handover.end(
        segment, _train(setup, segment, state, segment.steps)
      )
      start += segment.steps
    weights = (
      jax.tree.leaves(network.params),
      jax.tree.leaves(network.mask, is_leaf=lambda x: x is None),
    )
    pairs = [(w, m) for w, m in zip(*weights) if m is not None and m.ndim > 1]
    total = sum(m.size for _, m in pairs)
    kept = sum(int(m.sum()) for _, m in pairs)
    budget = total - round(config.sparsity * total)
    self.assertBetween(kept, budget - _MISSING.get(name, 0), budget)
    for w, m in pairs:
      np.testing.assert_array_equal(w != 0, m)

  @parameterized.named_parameters(zip(_STEPS, _STEPS))
  def test_resumes_to_the_same_bits(self, name):
    self.check_resumes(name)

  @parameterized.named_parameters(_not_in(_STEPS))
  @pytest.mark.slow
  def test_others_resume_to_the_same_bits(self, name):
    self.check_resumes(name)

  def check_resumes(self, name):
    for setup, segments, i, _, state in _walk(name):
      first = segments[i].steps // 2
      rest = segments[i].steps - first
      middle = _train(setup, segments[i], state, first)
      path = self.create_tempdir().full_path
      directory = RunDirectory(path)
      directory.take(setup.config)
      directory.save(int(middle.step), middle)
      directory.close()
      # All is made anew, as in another process.
      _, again = _plan(name)
      directory = RunDirectory(path)
      directory.take(setup.config)
      restored = directory.restore(
        lambda step, i=i, setup=setup, again=again: handover.shapes_at(
          setup, again[: i + 1], step, _initial()
        )
      )
      directory.close()
      chex.assert_trees_all_equal(
        _train(setup, again[i], restored, rest),
        _train(setup, segments[i], middle, rest),
      )

  def test_exploring_leaves_what_is_active_to_the_bit(self):
    setup, segments, i, _, state = next(_walk('iee'))
    step = jax.jit(_step(setup, segments[i]))
    method, explored = segments[i].method(None), 0
    for _ in range(segments[i].steps):
      before, state = state, step(state, setup.train_data)
      moved = jax.tree.map(
        lambda x, y: (x != y).any(),
        (before.stats, before.trainable['norm']),
        (state.stats, state.trainable['norm']),
      )
      explores = not method.tracks_statistics(before.opt_state)
      self.assertEqual(any(jax.tree.leaves(moved)), not explores)
      if explores:
        explored += 1
        active = ong_jax.mask_of(before.opt_state)['hidden']['kernel']
        stays = (
          before.trainable['hidden']['kernel']
          == (state.trainable['hidden']['kernel'])
        )
        np.testing.assert_array_equal(stays[active], True)
        self.assertFalse(stays[~active].all())
    self.assertEqual(explored, 4)


if __name__ == '__main__':
  absltest.main()
