import pickle
from functools import partial
from typing import Any, NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl.testing import parameterized
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from sparse_chains import (
  EVERY_STEP,
  FLIPPED,
  GRAD,
  GRADS,
  LATENT,
  MASK,
  MASKED,
  OPTIMIZERS,
  PARAMS,
  assert_zero,
  flip,
  last,
  named,
  normal,
  pruned,
  train,
)

from ong_jax import masks, pruners, states, transforms


class Callable(NamedTuple):
  """A model that is a tree and a function, as those of Equinox are."""

  weight: Any

  def __call__(self, x):
    return x @ self.weight


class MaskedTransformTest(parameterized.TestCase):
  @named(OPTIMIZERS)
  def test_pruned_weights_and_states_are_zero_after_every_step(self, name):
    tx = MASKED[name]
    params, states = train(tx, PARAMS, tx.init(PARAMS), GRADS)
    zeros = pruned(params, EVERY_STEP)
    self.assertEqual([x.shape for x in zeros], [(100, 22), (100, 17)])
    moments = pruned(states.inner_state, EVERY_STEP)
    self.assertEqual(len(moments) > 0, name != 'sgd')
    assert_zero(zeros + moments)
    kernels = [last(params)[k]['kernel'] for k in ('conv', 'fc')]
    self.assertEqual([np.count_nonzero(x) for x in kernels], [10, 7])
    self.assertFalse(np.any(last(params)['fc']['bias'] == PARAMS['fc']['bias']))
    chex.assert_trees_all_equal(last(states).mask, MASK)

  @parameterized.named_parameters(
    ('starts_at_a_constant', optax.adagrad(0.1)),
    (
      'adds_one',
      optax.chain(
        optax.sgd(0.1),
        optax.stateless(lambda u, p: jax.tree.map(lambda x: x + 1, u)),
      ),
    ),
  )
  def test_whatever_the_optimizer_adds_pruned_weights_are_zero(self, inner):
    tx = transforms.masked_transform(inner, MASK)
    params, _ = train(tx, PARAMS, tx.init(PARAMS), GRADS)
    assert_zero(pruned(params, EVERY_STEP))

  @named(['nesterov_and_decay', 'adam'])
  def test_without_it_all_pruned_weights_move(self, name):
    tx, params = OPTIMIZERS[name], masks.apply_mask(PARAMS, MASK)
    params, _ = train(tx, params, tx.init(params), GRADS)
    moved = [np.count_nonzero(x) for x in pruned(last(params))]
    self.assertEqual(moved, [22, 17])

  @named(['sgd', 'nesterov_and_decay', 'adam', 'clipped'])
  def test_a_mask_that_keeps_all_changes_no_bit(self, name):
    # Not jitted: a compiler that rounds a product and a sum once instead of
    # twice may do so in one program and not in the other.
    inner, whole = OPTIMIZERS[name], jax.tree.map(jnp.ones_like, MASK)
    results = []
    for tx in (inner, transforms.masked_transform(inner, whole)):
      params, state = PARAMS, tx.init(PARAMS)
      for i in range(5):
        grads = jax.tree.map(lambda g, i=i: g[i], GRADS)
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
      results.append((params, getattr(state, 'inner_state', state)))
    chex.assert_trees_all_equal(*results)

  @named(OPTIMIZERS)
  def test_nan_where_pruned_reaches_nothing(self, name):
    def poison(g, m):
      bad = jnp.resize(jnp.array([jnp.nan, jnp.inf, -jnp.inf]), g.shape)
      return g if m is None else jnp.where(m, g, bad)

    tx = MASKED[name]
    grads = jax.tree.map(poison, GRADS, MASK)
    self.assertTrue(np.isnan(pruned(grads, EVERY_STEP)[0]).any())
    found = train(tx, PARAMS, tx.init(PARAMS), grads)
    chex.assert_tree_all_finite(found)
    expected = train(tx, PARAMS, tx.init(PARAMS), GRADS)
    chex.assert_trees_all_equal(found, expected)

  def test_clipping_sees_the_norm_of_the_survivors(self):
    inner = optax.chain(optax.clip_by_global_norm(0.5), optax.sgd(1.0))
    tx = transforms.masked_transform(inner, MASK)
    updates, _ = tx.update(GRAD, tx.init(PARAMS), PARAMS)
    grads = masks.apply_mask(GRAD, MASK)
    leaves = [np.ravel(x) for x in jax.tree.leaves(grads)]
    norm = np.linalg.norm(np.concatenate(leaves))
    expected = jax.tree.map(lambda g: -0.5 * g / norm, grads)
    chex.assert_trees_all_close(
      masks.apply_mask(updates, MASK), expected, rtol=1e-5
    )

  def test_inner_sees_survivors_alone_and_every_extra_argument(self):
    def seen(params, updates, value):
      return {'params': params, 'updates': updates, 'value': value}

    probe = optax.GradientTransformationExtraArgs(
      lambda params: seen(params, None, None),
      lambda updates, state, params=None, *, value, **rest: (
        updates,
        seen(params, updates, (value, rest)),
      ),
    )
    tx = transforms.masked_transform(probe, MASK)
    params, grads = (masks.apply_mask(x, MASK) for x in (PARAMS, GRAD))
    state = tx.init(PARAMS)
    chex.assert_trees_all_equal(state.inner_state, seen(params, None, None))
    updates, state = tx.update(GRAD, state, PARAMS, value=3.0, other=4.0)
    expected = seen(params, grads, (3.0, {'other': 4.0}))
    chex.assert_trees_all_equal(state.inner_state, expected)
    chex.assert_trees_all_equal(updates['fc']['bias'], GRAD['fc']['bias'])
    for update, param in zip(pruned(updates), pruned(PARAMS)):
      np.testing.assert_array_equal(update, -param)

  def test_reduce_on_plateau_gets_its_value(self):
    inner = optax.chain(
      optax.sgd(0.1), optax.contrib.reduce_on_plateau(0.5, patience=1)
    )
    tx = transforms.masked_transform(inner, MASK)
    state, biases = tx.init(PARAMS), []
    for _ in range(3):
      updates, state = tx.update(GRAD, state, PARAMS, value=1.0)
      biases.append(updates['fc']['bias'] / GRAD['fc']['bias'])
    np.testing.assert_allclose([b[0] for b in biases], [-0.1, -0.05, -0.025])

  def test_map_params(self):
    tx = MASKED['adam']
    state = optax.tree.map_params(
      tx, lambda p: p + 1, tx.init(PARAMS), transform_non_params=lambda x: x
    )
    adam, ones = state.inner_state[0], jax.tree.map(jnp.ones_like, PARAMS)
    chex.assert_trees_all_equal((adam.count, adam.mu, adam.nu), (0, ones, ones))

  def test_a_pruner_makes_the_mask_in_init(self):
    prune = pruners.magnitude(sparsity=0.5)
    tx = transforms.masked_transform(optax.adam(0.1), prune)
    state = tx.init(PARAMS)
    chex.assert_trees_all_equal(state.mask, prune(PARAMS))
    chex.assert_trees_all_equal(jax.jit(tx.init)(PARAMS), state)
    optax.tree.map_params(tx, lambda p: p, state)

  def test_a_mask_may_be_a_tree_that_can_be_called(self):
    params, mask = (
      Callable(PARAMS['fc']['kernel']),
      Callable(MASK['fc']['kernel']),
    )
    state = transforms.masked_transform(optax.sgd(0.1), mask).init(params)
    chex.assert_trees_all_equal(state.mask, mask)

  @named(['nesterov_and_decay', 'adam'])
  def test_donation_spares_the_mask_and_nothing_compiles_twice(self, name):
    mask = jax.tree.map(jnp.copy, MASK)
    tx = transforms.masked_transform(OPTIMIZERS[name], mask)
    traces = []

    @partial(jax.jit, donate_argnums=(0, 1))
    def step(params, state, grads):
      traces.append(None)
      updates, state = tx.update(grads, state, params)
      return optax.apply_updates(params, updates), state

    params = jax.tree.map(jnp.copy, PARAMS)
    state = first = tx.init(params)
    for _ in range(3):
      params, state = step(params, state, GRAD)
    self.assertLen(traces, 1)
    self.assertTrue(first.mask['fc']['kernel'].is_deleted())
    chex.assert_trees_all_equal(mask, MASK)
    chex.assert_trees_all_equal(state.mask, MASK)
    tx.init(PARAMS)  # And again.

  def test_masks_are_not_trained(self):
    tx = MASKED['adam']
    state = tx.init(PARAMS)
    updates, after = tx.update(GRAD, state, PARAMS)
    chex.assert_trees_all_equal_structs(updates, PARAMS)
    self.assertEqual(
      {x.dtype.name for x in jax.tree.leaves(updates)}, {'float32'}
    )
    before, after = (
      [np.asarray(m).tobytes() for m in jax.tree.leaves(s.mask)]
      for s in (state, after)
    )
    self.assertEqual(before, after)

  @named(['nesterov_and_decay', 'adam'])
  def test_a_warm_optimizer(self, name):
    inner, tx = OPTIMIZERS[name], MASKED[name]
    dense, warm = map(last, train(inner, PARAMS, inner.init(PARAMS), GRADS))
    params, grads = (masks.apply_mask(x, MASK) for x in (dense, GRAD))

    # Masked gradients alone are not enough: its moments move pruned weights.
    updates, _ = inner.update(grads, warm, params)
    moved = pruned(optax.apply_updates(params, updates))
    self.assertEqual([np.count_nonzero(x) for x in moved], [22, 17])

    stale = tx.init(dense)._replace(inner_state=warm)
    clean = stale._replace(
      inner_state=optax.tree.map_params(
        inner,
        lambda x, m: x if m is None else jnp.where(m, x, 0),
        warm,
        MASK,
        is_leaf=lambda x: x is None,
      )
    )
    for state, num_moments_zero in ((stale, False), (clean, True)):
      found, states = train(tx, dense, state, GRADS)
      assert_zero(pruned(found, EVERY_STEP))
      zero = [np.all(x == 0) for x in pruned(states.inner_state, EVERY_STEP)]
      self.assertEqual(all(zero), num_moments_zero)

  def test_update_needs_the_params(self):
    tx = transforms.masked_transform(optax.sgd(0.1), MASK)
    with self.assertRaisesRegex(
      ValueError,
      '^`update` needs the parameters: call '
      r'`tx.update\(updates, state, params\)`.$',
    ):
      tx.update(GRAD, tx.init(PARAMS))

  @parameterized.named_parameters(
    ('shape', jnp.ones(6, bool), ValueError, r'fc/kernel.* shape \(6,\), but'),
    ('dtype', jnp.ones((4, 6), int), TypeError, 'fc/kernel.* must be bool'),
    ('structure', None, ValueError, r"^The mask must .* \['fc/kernel'\]. "),
  )
  def test_init_refuses_a_mask_that_does_not_fit(self, leaf, error, message):
    def init(params):
      raise AssertionError('The optimizer was started.')

    fc = {'bias': None} | ({} if leaf is None else {'kernel': leaf})
    inner = optax.GradientTransformation(init, None)
    tx = transforms.masked_transform(inner, {'conv': MASK['conv'], 'fc': fc})
    with self.assertRaisesRegex(error, message):
      tx.init(PARAMS)


class RenewTest(parameterized.TestCase):
  @named(['sgd', 'nesterov_and_decay', 'adam', 'lion', 'copies_params'])
  def test_what_changes_is_zero_at_once_and_so_are_its_moments(self, name):
    tx = FLIPPED[name]
    # The params were never masked, and the first update flips.
    found = train(tx, PARAMS, tx.init(PARAMS), GRADS)
    params, states = jax.device_get(found)
    np.testing.assert_array_equal(states.count, np.arange(1, 101))
    mirrors = [  # The params, and what is like them in the state.
      x
      for x in jax.tree.leaves(
        (params, states.inner_state), is_leaf=lambda x: isinstance(x, dict)
      )
      if isinstance(x, dict)
    ]
    self.assertEqual(len(mirrors) > 1, name != 'sgd')
    steps = np.arange(100).reshape(100, 1, 1)
    for layer in ('conv', 'fc'):
      mask = np.reshape(MASK[layer]['kernel'], (1, 1, -1))
      mask = mask ^ (steps // 3 % 2 == 0)
      found = states.mask[layer]['kernel'].reshape(100, 1, -1)
      np.testing.assert_array_equal(found, mask)
      expected = mask & (steps % 3 != 0)  # What is left and what is back are 0.
      for tree in mirrors:
        found = tree[layer]['kernel'].reshape(100, 1, -1) != 0
        np.testing.assert_array_equal(found, expected)
        self.assertTrue(np.all(tree['fc']['bias'] != 0))

  def test_sees_where_the_update_leads(self):
    def renew(params, state):
      return state._replace(inner_state=(params, state.count, state.mask))

    add_one = optax.stateless(lambda u, p: jax.tree.map(lambda x: x + 1, u))
    tx = transforms.masked_transform(add_one, MASK, renew)
    updates, state = tx.update(GRAD, tx.init(PARAMS), PARAMS)
    params = optax.apply_updates(PARAMS, updates)
    chex.assert_trees_all_equal(state.inner_state, (params, 1, MASK))
    assert_zero(pruned(params))

  def test_nan_behind_a_new_mask_reaches_nothing(self):
    def renew(params, state):
      kept = jax.tree.map(jnp.isfinite, {'kernel': params['kernel']})
      return states.remask(state, kept)

    params = {'kernel': jnp.array([1.0, 2.0, 3.0])}
    mask = {'kernel': jnp.array([True, True, False])}
    tx = transforms.masked_transform(optax.sgd(0.5, 0.5), mask, renew)
    grads = {'kernel': jnp.array([jnp.nan, 2.0, jnp.nan])}
    updates, state = tx.update(grads, tx.init(params), params)
    expected = {'kernel': jnp.array([0.0, 1.0, 0.0])}
    chex.assert_trees_all_equal(optax.apply_updates(params, updates), expected)
    mask = {'kernel': jnp.array([False, True, True])}
    trace = {'kernel': jnp.array([0.0, 2.0, 0.0])}
    found = state.mask, state.inner_state[0].trace
    chex.assert_trees_all_equal(found, (mask, trace))


class LatentTransformTest(parameterized.TestCase):
  @named(['sgd', 'nesterov_and_decay', 'adam', 'clipped'])
  def test_all_weights_train_as_if_there_were_no_mask(self, name):
    def renew(params, state):
      mask = jax.tree.map(lambda m: m ^ (state.count % 3 == 1), state.mask)
      return state._replace(mask=mask)

    inner = OPTIMIZERS[name]
    tx = transforms.latent_transform(inner, MASK, renew)
    results = []
    for x in (inner, tx):  # Not jitted, see above.
      params, state = PARAMS, x.init(PARAMS)
      for i in range(3):
        grads = jax.tree.map(lambda g, i=i: g[i], GRADS)
        updates, state = x.update(grads, state, params)
        params = optax.apply_updates(params, updates)
      results.append((params, getattr(state, 'inner_state', state)))
    chex.assert_trees_all_equal(*results)
    flipped = jax.tree.map(jnp.logical_not, MASK)
    chex.assert_trees_all_equal(state.mask, flipped)
    self.assertEqual(state.count, 3)

  def test_renew_sees_where_the_update_leads(self):
    def renew(params, state):
      mask = jax.tree.map(
        lambda p: jnp.abs(p) > 2, {'kernel': params['kernel']}
      )
      return states.remask(state, mask)

    params = {'kernel': jnp.array([1.0, 2.0, 3.0, 4.0])}
    grads = {'kernel': jnp.array([0.0, -1.0, 0.5, 3.0])}
    prune = pruners.magnitude(sparsity=0, prunable=lambda path, leaf: True)
    tx = transforms.latent_transform(optax.sgd(1.0, 0.5), prune, renew)
    state = tx.init(params)
    chex.assert_trees_all_equal(state.mask, {'kernel': jnp.ones(4, bool)})
    updates, state = tx.update(grads, state, params)
    chex.assert_trees_all_equal(updates, {'kernel': -grads['kernel']})
    mask = {'kernel': jnp.array([False, True, True, False])}
    trace = {'kernel': jnp.array([0.0, -1.0, 0.5, 0.0])}
    found = state.mask, state.inner_state[0].trace
    chex.assert_trees_all_equal(found, (mask, trace))

  def test_hands_on_extra_arguments(self):
    probe = optax.GradientTransformationExtraArgs(
      lambda params: (params, None),
      lambda updates, state, params=None, *, value, **rest: (
        updates,
        (params, (value, rest)),
      ),
    )
    tx = transforms.latent_transform(probe, MASK, lambda params, state: state)
    state = tx.init(PARAMS)
    chex.assert_trees_all_equal(state.inner_state, (PARAMS, None))
    updates, state = tx.update(GRAD, state, PARAMS, value=3.0, other=4.0)
    expected = PARAMS, (3.0, {'other': 4.0})
    chex.assert_trees_all_equal((updates, state.inner_state), (GRAD, expected))

  def test_map_params(self):
    tx = LATENT['adam']
    state = optax.tree.map_params(tx, lambda p: p + 1, tx.init(PARAMS))
    adam, ones = state.inner_state[0], jax.tree.map(jnp.ones_like, PARAMS)
    chex.assert_trees_all_equal((adam.count, adam.mu, adam.nu), (0, ones, ones))

  def test_donation_spares_the_mask(self):
    mask = jax.tree.map(jnp.copy, MASK)
    tx = transforms.latent_transform(optax.sgd(0.1), mask, flip)
    state = tx.init(PARAMS)
    jax.jit(lambda x: x, donate_argnums=0)(state)
    self.assertTrue(state.mask['fc']['kernel'].is_deleted())
    chex.assert_trees_all_equal(mask, MASK)

  def test_update_needs_the_params(self):
    tx = LATENT['sgd']
    with self.assertRaisesRegex(ValueError, '^`update` needs the parameters: '):
      tx.update(GRAD, tx.init(PARAMS))


class WrappersTest(parameterized.TestCase):
  def test_inject_hyperparams(self):
    @optax.inject_hyperparams
    def make(learning_rate):
      inner = optax.sgd(learning_rate)
      return transforms.masked_transform(inner, MASK)

    tx = make(learning_rate=0.1)
    state = tx.init(PARAMS)
    state.hyperparams['learning_rate'] = jnp.float32(0.5)
    updates, state = tx.update(GRAD, state, PARAMS)
    expected = jax.tree.map(lambda g: -0.5 * g, masks.apply_mask(GRAD, MASK))
    chex.assert_trees_all_equal(masks.apply_mask(updates, MASK), expected)
    chex.assert_trees_all_equal(states.mask_of(state), MASK)

  def test_accumulated_gradients(self):
    tx = optax.MultiSteps(MASKED['adam'], 4).gradient_transformation()
    start = masks.apply_mask(PARAMS, MASK)
    params, states = train(tx, start, tx.init(PARAMS), GRADS)
    assert_zero(pruned(params, EVERY_STEP))
    assert_zero(pruned(states.inner_opt_state.inner_state, EVERY_STEP))
    mean = jax.tree.map(lambda g: g.reshape(-1, 4, *g.shape[1:]).mean(1), GRADS)
    expected, _ = train(
      MASKED['adam'], start, tx.init(PARAMS).inner_opt_state, mean
    )
    chex.assert_trees_all_close(last(params), last(expected), rtol=1e-4)

  def test_apply_if_finite_skips_what_is_not(self):
    tx = optax.apply_if_finite(MASKED['adam'], max_consecutive_errors=2)
    start, state = masks.apply_mask(PARAMS, MASK), tx.init(PARAMS)
    bad = jax.tree.map(lambda g: g * jnp.nan, GRAD)
    updates, state = tx.update(bad, state, start)
    chex.assert_trees_all_equal(optax.apply_updates(start, updates), start)
    updates, state = tx.update(GRAD, state, start)
    params = optax.apply_updates(start, updates)
    assert_zero(pruned(params))
    self.assertFalse(np.any(params['fc']['bias'] == start['fc']['bias']))

  def test_averages_of_params_keep_the_zeros(self):
    tx, average = MASKED['adam'], masks.apply_mask(PARAMS, MASK)
    params, _ = train(tx, average, tx.init(average), GRADS)
    for i in range(3):
      params_i = jax.tree.map(lambda x, i=i: x[i], params)
      average = optax.incremental_update(params_i, average, 0.1)
      assert_zero(pruned(average))

  def test_goes_on_from_a_file(self):
    tx = MASKED['adamw']
    expected = train(tx, PARAMS, tx.init(PARAMS), GRADS)
    half = jax.tree.map(lambda x: x[49], expected)
    params, state = pickle.loads(pickle.dumps(jax.device_get(half)))
    for i in (50, 51):
      grads = jax.tree.map(lambda g, i=i: g[i], GRADS)
      updates, state = jax.jit(tx.update)(grads, state, params)
      params = optax.apply_updates(params, updates)
    chex.assert_trees_all_close(
      (params, state), jax.tree.map(lambda x: x[51], expected), rtol=1e-5
    )
    assert_zero(pruned(params))

  def test_eight_devices_do_what_one_does(self):
    mesh = jax.make_mesh((8,), ('model',), axis_types=(AxisType.Auto,))
    specs = {
      'conv': {'kernel': P(None, None, 'model')},
      'fc': {'kernel': P(), 'bias': P()},
    }
    shardings = jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)
    params = jax.device_put(PARAMS, shardings)
    tx = transforms.masked_transform(
      OPTIMIZERS['adam'], pruners.magnitude(sparsity=0.7)
    )

    @jax.jit
    def steps(params):
      state = tx.init(params)
      for _ in range(2):
        updates, state = tx.update(GRAD, state, params)
        params = optax.apply_updates(params, updates)
      return params, state

    found, expected = steps(params), steps(PARAMS)
    chex.assert_trees_all_equal(found[1].mask, expected[1].mask)
    chex.assert_trees_all_close(found, expected, rtol=1e-6)
    kernel, mask = (x['conv']['kernel'] for x in (found[0], found[1].mask))
    self.assertEqual(np.count_nonzero(kernel), np.count_nonzero(mask))
    for x in (kernel, mask, found[1].inner_state[0].mu['conv']['kernel']):
      sharding = shardings['conv']['kernel']
      self.assertTrue(x.sharding.is_equivalent_to(sharding, x.ndim))


class Net(nn.Module):
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x, train=True):
    x = nn.Conv(4, (3, 3), use_bias=False, dtype=self.dtype)(x)
    x = nn.BatchNorm(not train, dtype=self.dtype)(x)
    x = nn.relu(x).mean((1, 2))
    return nn.Dense(3, dtype=self.dtype)(x)


IMAGES, LABELS = normal(6, 8, 5, 5, 2), jnp.arange(8) % 3
VARIABLES = jax.tree.map(
  lambda x: normal(7, *x.shape),
  jax.eval_shape(Net().init, jax.random.key(0), IMAGES),
)


def loss_fn(params, net):
  variables = {'params': params, 'batch_stats': VARIABLES['batch_stats']}
  logits, _ = net.apply(variables, IMAGES, mutable=['batch_stats'])
  losses = optax.softmax_cross_entropy_with_integer_labels(
    logits.astype(jnp.float32), LABELS
  )
  return losses.mean()


@partial(jax.jit, static_argnums=(0, 1))
def fit(net, tx, params, opt_state):
  def step(carry, _):
    params, opt_state = carry
    loss, grads = jax.value_and_grad(loss_fn)(params, net)
    updates, opt_state = tx.update(grads, opt_state, params)
    return (optax.apply_updates(params, updates), opt_state), (loss, grads)

  return jax.lax.scan(step, (params, opt_state), length=100)


class NetTest(parameterized.TestCase):
  tx = transforms.masked_transform(
    OPTIMIZERS['nesterov_and_decay'], pruners.magnitude(sparsity=0.7)
  )

  def test_bfloat16_training_keeps_exact_zeros(self):
    state = self.tx.init(VARIABLES['params'])
    (params, state), (losses, _) = fit(
      Net(jnp.bfloat16), self.tx, VARIABLES['params'], state
    )
    self.assertLess(losses[-1], losses[0])
    kernels = [params[k]['kernel'] for k in ('Conv_0', 'Dense_0')]
    found = [np.count_nonzero(x) for x in kernels]
    kept = [np.count_nonzero(x) for x in jax.tree.leaves(state.mask)]
    self.assertEqual(found, kept)
    self.assertEqual(sum(kept), 25)  # Of 72 + 12.

  def test_an_empty_filter_is_finite_and_so_are_gradients(self):
    state = self.tx.init(VARIABLES['params'])
    kernel = state.mask['Conv_0']['kernel'].at[..., 1].set(False)
    state.mask['Conv_0']['kernel'] = kernel
    (params, _), (losses, grads) = fit(
      Net(jnp.bfloat16), self.tx, VARIABLES['params'], state
    )
    chex.assert_tree_all_finite((params, losses, grads))
    self.assertEqual(np.abs(params['Conv_0']['kernel'][..., 1]).max(), 0)
    self.assertGreater(np.abs(grads['Conv_0']['kernel'][..., 0]).max(), 0)

  def test_masked_gradients_are_those_of_the_masked_loss(self):
    mask = self.tx.init(VARIABLES['params']).mask
    params = masks.apply_mask(VARIABLES['params'], mask)
    grad = jax.jit(jax.grad(loss_fn), static_argnums=1)
    through = jax.jit(
      jax.grad(lambda p: loss_fn(masks.apply_mask(p, mask), Net()))
    )
    chex.assert_trees_all_close(
      through(params),
      masks.apply_mask(grad(params, Net()), mask),
      rtol=1e-5,
      atol=1e-7,
    )
