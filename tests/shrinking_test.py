import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl.testing import absltest, parameterized
from flax.core import FrozenDict
from jax.sharding import PartitionSpec as P

import ong_jax
from experiments import groups, models, timing
from ong_jax import channels, shrinking

NAMES = {
  'first': {'kernel': P(None, 'hidden'), 'bias': P('hidden')},
  'second': {'kernel': P('hidden', None)},
}
KEPT = {'hidden': jnp.array([True, False, True, False, True])}
OPTIMIZERS = (
  ('sgd', optax.sgd(0.1)),
  ('momentum', optax.sgd(0.1, 0.9, nesterov=True)),
  ('adamw', optax.adamw(0.01, weight_decay=0.1)),
  ('rmsprop', optax.rmsprop(0.01, momentum=0.9)),
  ('copies_params', optax.contrib.schedule_free_sgd(0.01)),
  ('clipped', optax.chain(optax.clip_by_global_norm(0.5), optax.sgd(0.1, 0.9))),
)


def normal(seed, *shape):
  values = np.random.default_rng(seed).normal(size=shape)
  return jnp.asarray(values, jnp.float32)


PARAMS = {
  'first': {'kernel': normal(0, 3, 5), 'bias': normal(1, 5)},
  'second': {'kernel': normal(2, 5, 2)},
}
MASK = channels.expand(NAMES, KEPT, PARAMS)


def network(params, x):
  x = jnp.tanh(x @ params['first']['kernel'] + params['first']['bias'])
  return x @ params['second']['kernel']


@functools.partial(jax.jit, static_argnums=0)
def steps(tx, params, opt_state, xs):
  """A step for each of the batches."""

  def step(carry, x):
    params, opt_state = carry
    grads = jax.grad(lambda p: (network(p, x) ** 2).mean())(params)
    updates, opt_state = tx.update(grads, opt_state, params)
    return (optax.apply_updates(params, updates), opt_state), None

  return jax.lax.scan(step, (params, opt_state), xs)[0]


class ShrinkStateTest(parameterized.TestCase):
  @parameterized.named_parameters(
    *OPTIMIZERS,
    (
      'partitioned',
      optax.partition(
        {'a': optax.adam(0.01), 'b': optax.sgd(0.1, 0.9)},
        lambda params: {'first': 'a', 'second': 'b'},
      ),
    ),
  )
  def test_training_goes_on_as_if_nothing_had_happened(self, inner):
    tx = ong_jax.masked_transform(inner, MASK)
    params = ong_jax.apply_mask(PARAMS, MASK)
    xs = normal(3, 6, 4, 3)
    params, state = steps(tx, params, tx.init(params), xs[:3])
    small = channels.shrink(params, NAMES, KEPT)
    small_state = shrinking.shrink_state(state, params, NAMES, KEPT)
    chex.assert_trees_all_equal_shapes(small_state, tx_of(inner).init(small))
    params, state = steps(tx, params, state, xs[3:])
    small, small_state = steps(tx_of(inner), small, small_state, xs[3:])
    chex.assert_trees_all_close(
      small, channels.shrink(params, NAMES, KEPT), atol=1e-6
    )
    chex.assert_trees_all_close(
      small_state,
      shrinking.shrink_state(state, params, NAMES, KEPT),
      atol=1e-6,
    )
    x = normal(4, 7, 3)
    np.testing.assert_allclose(network(small, x), network(params, x), atol=1e-5)

  @parameterized.named_parameters(
    ('accumulating', lambda tx: optax.MultiSteps(tx, 2)),
    (
      'injected',
      lambda tx: optax.inject_hyperparams(
        lambda rate: optax.chain(tx, optax.scale(rate))
      )(rate=0.5),
    ),
    ('guarded', lambda tx: optax.apply_if_finite(tx, 3)),
  )
  def test_states_that_are_wrapped(self, wrap):
    tx = wrap(ong_jax.masked_transform(optax.adam(0.1), MASK))
    small_tx = wrap(tx_of(optax.adam(0.1)))
    small = channels.shrink(PARAMS, NAMES, KEPT)
    found = shrinking.shrink_state(tx.init(PARAMS), PARAMS, NAMES, KEPT)
    chex.assert_trees_all_equal(found, small_tx.init(small))

  def test_numbers_by_hand(self):
    state = optax.ScaleByAdamState(
      count=jnp.array(7), mu=PARAMS, nu=jax.tree.map(jnp.square, PARAMS)
    )
    found = shrinking.shrink_state(state, PARAMS, NAMES, KEPT)
    self.assertEqual(found.count, 7)
    left = [0, 2, 4]
    kernel = np.asarray(PARAMS['first']['kernel'])[:, left]
    np.testing.assert_array_equal(found.mu['first']['kernel'], kernel)
    np.testing.assert_array_equal(found.nu['first']['kernel'], kernel**2)
    kernel = np.asarray(PARAMS['second']['kernel'])[left]
    np.testing.assert_array_equal(found.mu['second']['kernel'], kernel)

  def test_a_state_that_is_not_of_the_shape(self):
    tx = optax.adafactor(0.1, min_dim_size_to_factor=2)
    state = tx.init(PARAMS)
    with self.assertRaisesRegex(
      ValueError, r"v_row/first/kernel' of `opt_state` has shape .*`init` of"
    ):
      shrinking.shrink_state(state, PARAMS, NAMES, KEPT)
    all_kept = {'hidden': np.ones(5, bool)}
    chex.assert_trees_all_equal(
      shrinking.shrink_state(state, PARAMS, NAMES, all_kept), state
    )
    # Where nothing is factored it goes.
    state = optax.adafactor(0.1, min_dim_size_to_factor=9).init(PARAMS)
    shrinking.shrink_state(state, PARAMS, NAMES, KEPT)

  def test_channels_that_do_not_fit(self):
    with self.assertRaisesRegex(ValueError, '`kept` must have a bool per'):
      shrinking.shrink_state((), PARAMS, NAMES, {'hidden': np.ones(4, bool)})


def tx_of(inner):
  """The same transformation for the small params, of which all is kept."""
  small = channels.shrink(MASK, NAMES, KEPT)
  return ong_jax.masked_transform(inner, small)


class NetworkTest(parameterized.TestCase):
  """A residual network with BatchNorm, small or masked, is trained alike."""

  @parameterized.parameters(False, True)
  def test_training_with_momentum(self, projection):
    model = models.ResNet((1, 1), width=4, projection=projection, num_classes=5)
    rng = np.random.default_rng(0)
    names, kept = groups.names(model), {}
    for group, size in groups.sizes(model).items():
      kept[group] = rng.permutation(size) < size // 2
    variables = jax.jit(functools.partial(model.init, train=False))(
      jax.random.key(0), jnp.zeros((1, 8, 8, 3))
    )
    params, stats = variables['params'], variables['batch_stats']
    mask = channels.expand(names['params'], kept, params)
    tx = ong_jax.masked_transform(
      optax.sgd(0.05, momentum=0.9, nesterov=True), mask
    )
    images = normal(1, 6, 16, 8, 8, 3)
    labels = jnp.asarray(rng.integers(5, size=(6, 16)))
    large = ong_jax.apply_mask(params, mask), stats, tx.init(params)
    large = train(model, tx, large, images[:3], labels[:3])
    small_model = model.clone(widths=FrozenDict(channels.widths(kept)))
    shrunk = channels.shrink(
      {'params': large[0], 'batch_stats': large[1]}, names, kept
    )
    state = shrinking.shrink_state(large[2], large[0], names['params'], kept)
    small_mask = jax.tree.map(
      lambda p: np.ones(p.shape, bool), shrunk['params']
    )
    small_tx = ong_jax.masked_transform(
      optax.sgd(0.05, momentum=0.9, nesterov=True),
      jax.tree.map(
        lambda p, m, s: None if m is None else s,
        params,
        mask,
        small_mask,
      ),
    )
    small = shrunk['params'], shrunk['batch_stats'], state
    for trained in False, True:
      if trained:
        large = train(model, tx, large, images[3:], labels[3:])
        small = train(small_model, small_tx, small, images[3:], labels[3:])
      expected = logits(model, large, images[0])
      np.testing.assert_allclose(
        logits(small_model, small, images[0]), expected, atol=1e-5
      )
    chex.assert_trees_all_equal_shapes(
      small[0], timing.shapes(small_model)['params']
    )


@functools.partial(jax.jit, static_argnums=0)
def logits(model, state, x):
  params, stats, _ = state
  return model.apply({'params': params, 'batch_stats': stats}, x, train=False)


@functools.partial(jax.jit, static_argnums=(0, 1))
def train(model, tx, state, images, labels):
  def step(carry, batch):
    params, stats, opt_state = carry
    x, y = batch

    def loss(params):
      out, new = model.apply(
        {'params': params, 'batch_stats': stats},
        x,
        True,
        mutable=['batch_stats'],
      )
      losses = optax.softmax_cross_entropy_with_integer_labels(out, y)
      return losses.mean(), new['batch_stats']

    grads, stats = jax.grad(loss, has_aux=True)(params)
    updates, opt_state = tx.update(grads, opt_state, params)
    return (optax.apply_updates(params, updates), stats, opt_state), None

  return jax.lax.scan(step, state, (images, labels))[0]


if __name__ == '__main__':
  absltest.main()
