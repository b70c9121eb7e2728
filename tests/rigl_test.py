import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl.testing import absltest, parameterized
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from toy_problem import (
  DECAY,
  INNER,
  MOMENTUM,
  PARAMS,
  RATE,
  TARGET,
  flat,
  flat_steps,
  normal,
  train,
)

import ong_jax
from ong_jax import allocation, patterns

_KEY = jax.random.key(0)
_FRACTIONS = (0.5, 0.35)
_INTERVAL = 3
_FIRST = ong_jax.random(_KEY, sparsity=0.5, allocate=allocation.uniform)
_KERNELS = {'a': slice(6, 30), 'b': slice(30, 42)}  # Biases come first.
_HALF = patterns.unstructured(0.5)


def _method(pattern=_HALF, **options):
  options = {'interval': _INTERVAL, 'fractions': _FRACTIONS} | options
  return ong_jax.rigl(_KEY, pattern, **options)


def _flat_mask(mask):
  """bool [42]; True for biases."""
  filled = jax.tree.map(
    lambda p, m: jnp.ones(p.shape, bool) if m is None else m, PARAMS, mask
  )
  return flat(filled) > 0


def _reference(num_steps, average):
  mask = _flat_mask(_FIRST(PARAMS))
  w, target, found = flat(PARAMS), flat(TARGET), []
  velocity, grads = np.zeros(42), []
  for count in range(1, num_steps + 1):
    grads.append(w * mask - target)  # At the masked weights, of all.
    row, rest = divmod(count, _INTERVAL)
    if rest == 0 and row <= len(_FRACTIONS):  # No step.
      gains, old = np.abs(np.mean(grads[-average:], 0)), mask.copy()
      for ids in _KERNELS.values():
        active, others = np.flatnonzero(old[ids]), np.flatnonzero(~old[ids])
        num = int(_FRACTIONS[row - 1] * len(active))
        small = active[np.argsort(np.abs(w[ids][active]))[:num]]
        large = others[np.argsort(-gains[ids][others])[:num]]
        mask[ids][small], mask[ids][large] = False, True
      w[mask != old], velocity[mask != old] = 0, 0
    else:
      velocity = MOMENTUM * velocity + mask * (grads[-1] + DECAY * w)
      w = w * mask - RATE * velocity
    found.append((w.copy(), velocity.copy(), mask.copy()))
  return [np.stack(x) for x in zip(*found)]


def _inner_state(state):
  return getattr(state.inner_state, 'inner_state', state.inner_state)


def _grads(seed=0):
  """As PARAMS, and nothing is 0."""
  return jax.tree.map(lambda p: normal(seed, *p.shape), PARAMS)


def _after(method, grads, inner=INNER):
  """Params, states and masks around one update."""
  tx = method.transform(inner)
  before = tx.init(PARAMS)
  updates, state = jax.jit(tx.update)(grads, before, PARAMS)
  return optax.apply_updates(PARAMS, updates), before, state


class RiglTest(parameterized.TestCase):
  @parameterized.named_parameters(('one', 1), ('two', 2), ('all', 3))
  def test_follows_numpy(self, average):
    method = _method(first=_FIRST, average=average)
    params, states = train(method, PARAMS, 10)
    w, velocity, mask = _reference(10, average)
    np.testing.assert_array_equal(flat_steps(states.mask), mask[:, 6:])
    np.testing.assert_allclose(flat_steps(params), w, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(flat_steps(params)[~mask], 0)
    found = flat_steps(_inner_state(states)[1][0].trace)
    np.testing.assert_allclose(found, velocity, rtol=1e-4, atol=1e-5)
    changed = np.flatnonzero((mask[1:] != mask[:-1]).any(1))
    np.testing.assert_array_equal(changed, [1, 4])
    self.assertEqual((mask[2] & ~mask[1]).sum(), 6 + 3)
    self.assertEqual((mask[5] & ~mask[4]).sum(), 4 + 2)

  @parameterized.named_parameters(('one', 1), ('two', 2), ('all', 3))
  def test_averages_the_last_gradients_before_each_update(self, average):
    method = _method(average=average, fractions=[0.3, 0.3])
    tx, params = method.transform(optax.sgd(0.0)), PARAMS
    update, state = jax.jit(tx.update), tx.init(PARAMS)
    for last in (2, 5):
      before = _flat_mask(state.mask)
      for i in range(last - 2, last + 1):
        updates, state = update(_grads(i), state, params)
        params = optax.apply_updates(params, updates)
      grown = _flat_mask(state.mask) & ~before
      by = {
        n: np.abs(sum(flat(_grads(last - i)) for i in range(n)))
        for n in (1, 2, 3)
      }
      for ids, num in zip(_KERNELS.values(), (3, 1)):
        gains = {n: np.where(before, -1, x)[ids] for n, x in by.items()}
        best = {n: set(np.argsort(-x)[:num]) for n, x in gains.items()}
        self.assertEqual(set(np.flatnonzero(grown[ids])), best[average])
        if num == 3:
          others = [best[n] for n in best if n != average]
          self.assertNotIn(best[average], others)

  @parameterized.named_parameters(
    ('unstructured', _HALF),
    ('pooled', patterns.unstructured(0.5, allocation.pooled)),
  )
  def test_no_larger_gradient_is_left_out(self, pattern):
    method = _method(pattern, interval=1)
    _, before, state = _after(method, _grads())
    old, new = _flat_mask(before.mask), _flat_mask(state.mask)
    gains, w = np.abs(flat(_grads())), np.abs(flat(PARAMS))
    pools = [slice(6, 42)] if pattern != _HALF else _KERNELS.values()
    for ids in pools:
      was, now = old[ids], new[ids]
      grown, dropped, out = now & ~was, was & ~now, ~now & ~was
      num = was.sum() // 2
      self.assertEqual((grown.sum(), dropped.sum()), (num, num))
      self.assertGreaterEqual(gains[ids][grown].min(), gains[ids][out].max())
      self.assertLessEqual(w[ids][dropped].max(), w[ids][was & now].min())

  def test_gradients_are_those_before_anything_clips_them(self):
    inner = optax.chain(optax.clip(1e-3), optax.sgd(0.1))
    clipped, _, state = _after(_method(interval=1), _grads(), inner)
    params, _, expected = _after(_method(interval=1), _grads(), optax.sgd(0.1))
    chex.assert_trees_all_equal(state.mask, expected.mask)
    chex.assert_trees_all_equal(clipped, params)

  @parameterized.named_parameters(('one', 1), ('two', 2))
  def test_a_step_that_rewires_is_none_of_the_optimizer(self, average):
    method = _method(interval=2, average=average)
    tx = method.transform(optax.adamw(0.1, weight_decay=0.1))
    update, params, state = jax.jit(tx.update), PARAMS, tx.init(PARAMS)
    for i in range(2):
      before = params, state
      updates, state = update(_grads(i), state, params)
      params = optax.apply_updates(params, updates)
    (old_params, old), same = before, {}
    np.testing.assert_array_equal(params['a']['bias'], old_params['a']['bias'])
    for layer in ('a', 'b'):
      was, now = old.mask[layer]['kernel'], state.mask[layer]['kernel']
      self.assertTrue(np.any(was != now))
      same[layer] = np.asarray(was == now)
      both = params[layer]['kernel'], old_params[layer]['kernel']
      np.testing.assert_array_equal(*[x[was & now] for x in both])
      np.testing.assert_array_equal(both[0][~(was & now)], 0)
    found, kept = _inner_state(state)[0], _inner_state(old)[0]
    self.assertEqual((int(state.count), int(found.count)), (2, 1))
    for moment in ('mu', 'nu'):
      x, y = getattr(found, moment), getattr(kept, moment)
      np.testing.assert_array_equal(x['a']['bias'], y['a']['bias'])
      for layer in ('a', 'b'):
        expected = np.where(same[layer], y[layer]['kernel'], 0)
        np.testing.assert_array_equal(x[layer]['kernel'], expected)
        self.assertTrue(np.any(expected != 0))

  def test_averaging_takes_memory_and_one_batch_none(self):
    tx = _method(average=2).transform(optax.sgd(0.1))
    self.assertLen(jax.tree.leaves(tx.init(PARAMS).inner_state), 2)
    tx = _method(average=1).transform(optax.sgd(0.1))
    self.assertEmpty(jax.tree.leaves(tx.init(PARAMS).inner_state))

  @parameterized.named_parameters(('one', 1), ('two', 2))
  def test_what_is_not_finite_does_not_decide(self, average):
    method = _method(interval=2, fractions=[0.3], average=average)
    tx = method.transform(optax.sgd(0.0))
    state = tx.init(PARAMS)
    poisoned = jax.tree.map(
      lambda g, m: (
        g
        if m is None
        else jnp.where(m | (g > 0.5), g, jnp.full_like(g, jnp.nan))
      ),
      _grads(),
      state.mask,
    )
    clean = jax.tree.map(lambda g: jnp.where(jnp.isnan(g), 0, g), poisoned)
    self.assertTrue(np.isnan(flat(poisoned)).any())
    masks, update = [], jax.jit(tx.update)
    for grads in (poisoned, clean):  # In one batch of two, or in one of one.
      after, params = state, PARAMS
      for batch in (grads, grads if average == 1 else _grads(1)):
        updates, after = update(batch, after, params)
        params = optax.apply_updates(params, updates)
      chex.assert_tree_all_finite((params, after.inner_state))
      masks.append(_flat_mask(after.mask))
    np.testing.assert_array_equal(*masks)
    self.assertFalse(np.array_equal(masks[0], _flat_mask(state.mask)))

  def test_groups_keep_their_number(self):
    method = _method(patterns.n_of_m(2, 4), interval=2, fractions=[0.3] * 4)
    params, states = train(method, PARAMS, 10)
    masks = np.asarray(states.mask['a']['kernel'])
    np.testing.assert_array_equal(masks.sum(1), 2)  # [steps, 4, 6]
    self.assertTrue(np.all(params['a']['kernel'][~masks] == 0))
    replaced = (masks[1:] & ~masks[:-1]).sum((1, 2))
    np.testing.assert_array_equal(replaced, [3, 0, 3, 0, 3, 0, 3, 0, 0])

  def test_dead_units_are_grown_at_random(self):
    grads = jax.tree.map(jnp.zeros_like, PARAMS)
    masks = []
    for seed in (0, 0, 1):
      method = ong_jax.rigl(
        jax.random.key(seed), _HALF, interval=1, fractions=[0.5], first=_FIRST
      )
      masks.append(_flat_mask(_after(method, grads)[2].mask))
    np.testing.assert_array_equal(masks[0], masks[1])
    self.assertTrue(np.any(masks[0] != masks[2]))

  def test_two_devices_choose_what_one_does(self):
    mesh = jax.make_mesh((2,), ('model',), axis_types=(AxisType.Auto,))
    specs = jax.tree.map(
      lambda p: NamedSharding(mesh, P(*[None] * (p.ndim - 1), 'model')), PARAMS
    )
    method = _method(average=2)
    tx = method.transform(INNER)
    split = jax.device_put(PARAMS, specs)
    first = tx.init(split).mask
    kernel = first['a']['kernel']
    self.assertTrue(kernel.sharding.is_equivalent_to(specs['a']['kernel'], 2))
    chex.assert_trees_all_equal(first, tx.init(PARAMS).mask)
    found, expected = (train(method, params, 9) for params in (split, PARAMS))
    chex.assert_trees_all_equal(found[1].mask, expected[1].mask)
    chex.assert_trees_all_close(found[0], expected[0], rtol=1e-5, atol=1e-6)

  def test_bfloat16(self):
    method = _method(interval=2, average=2)
    params = jax.tree.map(lambda p: p.astype(jnp.bfloat16), PARAMS)
    params, states = train(method, params, 9)
    self.assertEqual(params['a']['kernel'].dtype, jnp.bfloat16)
    masks = states.mask['a']['kernel']
    np.testing.assert_array_equal(masks.sum((1, 2)), 12)
    np.testing.assert_array_equal(params['a']['kernel'][~masks], 0)

  @parameterized.named_parameters(
    ('none', 0), ('more_than_there_are', 4), ('half', 0.5)
  )
  def test_refuses_an_average(self, average):
    with self.assertRaisesRegex(
      ValueError, f'`average` must be .* `interval`=3; got {average}.$'
    ):
      _method(average=average)


if __name__ == '__main__':
  absltest.main()
