import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl.testing import parameterized
from sparse_chains import (
  GRAD,
  GRADS,
  LATENT,
  MASK,
  MASKED,
  OPTIMIZERS,
  PARAMS,
  train,
)

from ong_jax import pruners, selection, states, transforms


class RemaskTest(parameterized.TestCase):
  def test_moments_restart_where_the_mask_changed(self):
    tx = MASKED['adam']
    ones = jax.tree.map(jnp.ones_like, PARAMS)
    adam = tx.init(PARAMS).inner_state[0]._replace(mu=ones, nu=ones)
    state = tx.init(PARAMS)._replace(inner_state=(adam, optax.EmptyState()))
    mask = {
      'conv': {'kernel': MASK['conv']['kernel'].at[0].set(True)},
      'fc': MASK['fc'],
    }
    found = states.remask(state, mask)
    kernel = (mask['conv']['kernel'] == MASK['conv']['kernel']).astype(float)
    self.assertEqual(kernel.sum(), 16 + MASK['conv']['kernel'][0].sum())
    expected = {'conv': {'kernel': jnp.float32(kernel)}, 'fc': ones['fc']}
    adam = adam._replace(mu=expected, nu=expected)
    inner_state = adam, optax.EmptyState()
    expected = states.SparseState(jnp.int32(0), mask, inner_state)
    chex.assert_trees_all_equal(found, expected)

  def test_params_may_be_one_array(self):
    params, mask = jnp.ones(2), jnp.array([True, True])
    tx = transforms.masked_transform(optax.trace(0.9), mask)
    _, state = tx.update(params, tx.init(params), params)
    found = states.remask(state, jnp.array([True, False]))
    chex.assert_trees_all_equal(found.inner_state.trace, jnp.array([1.0, 0]))


class MapLikeTest(parameterized.TestCase):
  @parameterized.named_parameters(
    ('momentum', OPTIMIZERS['nesterov_and_decay'], ['1/0/trace']),
    ('adam', OPTIMIZERS['adam'], ['0/mu', '0/nu']),
    (
      'multi_steps',
      optax.MultiSteps(optax.trace(0.9), 2),
      ['inner_opt_state/trace', 'acc_grads'],
    ),
    (
      'injected',
      optax.inject_hyperparams(optax.sgd)(0.1, momentum=0.9),
      ['inner_state/0/trace'],
    ),
    (
      'masked',
      optax.masked(
        optax.trace(0.9), {'conv': True, 'fc': {'kernel': True, 'bias': False}}
      ),
      ['inner_state/trace'],
    ),
    (
      'partition',
      optax.partition(
        {'a': optax.trace(0.9), 'b': optax.identity()},
        {'conv': 'a', 'fc': {'kernel': 'a', 'bias': 'b'}},
      ),
      ['inner_states/a/inner_state/trace'],
    ),
  )
  def test_finds_the_moments_of_kernels(self, tx, expected):
    kernels = selection.select(PARAMS)
    state = tx.init(PARAMS)
    found = states.map_like(lambda w, x: w + x + 1, kernels, state)
    chex.assert_trees_all_equal_structs(found, state)
    names = []
    for (path, x), old in zip(
      jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(state)
    ):
      name, _, layer = (
        selection.name_of(path).removesuffix('/kernel').rpartition('/')
      )
      if np.any(x != old):
        names.append((name, layer))
        np.testing.assert_array_equal(x, PARAMS[layer]['kernel'] + 1)
    layers = ('conv', 'fc')
    self.assertEqual(names, [(x, layer) for x in expected for layer in layers])

  def test_factored_moments_stay(self):
    # The kernel [4, 6] is factored, to [4] and [6]; that of [2, 2, 8] is not.
    tx = optax.adafactor(0.1, min_dim_size_to_factor=3)
    state = tx.init(PARAMS)
    found = states.map_like(lambda w, x: x + 1, selection.select(PARAMS), state)
    changed = [
      selection.name_of(path)
      for (path, x), old in zip(
        jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(state)
      )
      if np.any(x != old)
    ]
    self.assertEqual(changed, ['0/v/conv/kernel'])

  def test_only_the_own_path_and_shape(self):
    tree = {'fc': {'kernel': jnp.ones(2)}, 'skip': None}
    zero = jnp.zeros(2)
    state = {
      'fc': {'kernel': zero, 'bias': zero},
      'mu': {'fc': {'kernel': zero}},
      'nu': {'fc': {'kernel': jnp.zeros((2, 1))}},
      'other': {'kernel': zero},
      'kernel': zero,
      'skip': zero,
      'count': 3,
    }
    found = states.map_like(lambda w, x: w + x, tree, state)
    expected = {**state, 'fc': {'kernel': jnp.ones(2), 'bias': zero}}
    expected['mu'] = {'fc': {'kernel': jnp.ones(2)}}
    chex.assert_trees_all_equal(found, expected)

  def test_of_paths_that_end_alike_the_longest_wins(self):
    tree = {'kernel': jnp.full(2, 1.0), 'fc': {'kernel': jnp.full(2, 2.0)}}
    state = {'mu': jax.tree.map(jnp.zeros_like, tree)}
    found = states.map_like(lambda w, x: w + x, tree, state)
    chex.assert_trees_all_equal(found, {'mu': tree})

  def test_none_is_skipped_though_another_path_ends_alike(self):
    tree = {'kernel': jnp.ones(2), 'fc': {'kernel': None}}
    zero = jnp.zeros(2)
    state = {'mu': {'kernel': zero, 'fc': {'kernel': zero}}}
    found = states.map_like(lambda w, x: w + x, tree, state)
    expected = {'mu': {'kernel': jnp.ones(2), 'fc': {'kernel': zero}}}
    chex.assert_trees_all_equal(found, expected)

  def test_more_trees_go_along(self):
    kernels, state = selection.select(PARAMS), {'mu': PARAMS}
    other = jax.tree.map(lambda x: 2 * x, state)
    found = states.map_like(lambda w, x, y: w + x + y, kernels, state, other)
    expected = jax.tree.map(lambda p: 4 * p, PARAMS)
    expected['fc']['bias'] = PARAMS['fc']['bias']
    chex.assert_trees_all_equal(found, {'mu': expected})


class StateOfTest(parameterized.TestCase):
  @parameterized.named_parameters(
    ('masked', MASKED['adam']), ('latent', LATENT['adam'])
  )
  def test_finds_it_in_wrappers(self, inner):
    tx = optax.chain(optax.identity(), optax.apply_if_finite(inner, 1))
    state = tx.init(PARAMS)
    found = states.state_of(state)
    chex.assert_trees_all_equal(found, inner.init(PARAMS))
    self.assertIs(states.mask_of(state), found.mask)

  @parameterized.named_parameters(
    ('leaves', {'conv': 'dense', 'fc': {'kernel': 'sparse', 'bias': 'dense'}}),
    ('subtrees', {'conv': 'dense', 'fc': 'sparse'}),
  )
  def test_finds_it_in_a_part_of_the_params(self, labels):
    prune = pruners.magnitude(sparsity=0.5)
    sparse = transforms.masked_transform(optax.adam(0.1), prune)
    tx = optax.partition({'sparse': sparse, 'dense': optax.sgd(0.1)}, labels)
    state = tx.init(PARAMS)
    expected = prune({'fc': PARAMS['fc']}) | {'conv': {'kernel': None}}
    chex.assert_trees_all_equal(states.mask_of(state, PARAMS), expected)
    found = states.mask_of(state)  # A hole is a hole, without the params.
    self.assertIsNone(found['conv'])
    chex.assert_trees_all_equal(found['fc'], expected['fc'])
    updates, state = jax.jit(tx.update)(GRAD, state, PARAMS)
    params = optax.apply_updates(PARAMS, updates)
    chex.assert_trees_all_equal(states.mask_of(state, params), expected)
    self.assertEqual(np.count_nonzero(params['fc']['kernel']), 12)

  def test_counts_the_updates_that_are_applied(self):
    for sparse in (MASKED['sgd'], LATENT['sgd']):
      tx = optax.MultiSteps(sparse, 2).gradient_transformation()
      _, found = train(tx, PARAMS, tx.init(PARAMS), GRADS)
      found = states.state_of(found).count
      self.assertEqual(found.dtype, jnp.int32)
      np.testing.assert_array_equal(found, np.arange(1, 101) // 2)

  @parameterized.named_parameters(
    ('none', [optax.sgd(0.1)], 0),
    ('two', [MASKED['sgd'], MASKED['adam']], 2),
  )
  def test_refuses_other_than_one(self, txs, num):
    with self.assertRaisesRegex(
      ValueError,
      '^`opt_state` must hold the state of exactly one `masked_transform` or '
      f'other sparse transformation; it holds {num}.$',
    ):
      states.mask_of(optax.chain(*txs).init(PARAMS))
