import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl.testing import absltest, parameterized
from toy_problem import (
  DECAY,
  MOMENTUM,
  PARAMS,
  RATE,
  TARGET,
  flat,
  flat_steps,
  train,
)

import ong_jax
from ong_jax import allocation, patterns, saliency, scores, selection

_KEY = jax.random.key(0)
_HALF = patterns.unstructured(0.5)
_FRACTIONS = (0.5, 0.35)
_INTERVAL = 3
_FIRST = ong_jax.random(_KEY, sparsity=0.5, allocate=allocation.uniform)
_KERNELS = {'a': slice(6, 30), 'b': slice(30, 42)}  # Biases come first.


def _method(pattern=_HALF, **options):
  options = {'interval': _INTERVAL, 'fractions': _FRACTIONS} | options
  return ong_jax.set_(_KEY, pattern, **options)


def _flat_mask(mask):
  """bool [42]; True for biases."""
  filled = jax.tree.map(
    lambda p, m: jnp.ones(p.shape, bool) if m is None else m, PARAMS, mask
  )
  return flat(filled) > 0


def _draws(count):
  """What orders the candidates at this step."""
  draw = scores.random(jax.random.fold_in(_KEY, count))
  draws = draw(selection.select(PARAMS))
  return np.concatenate([np.zeros(6), flat(draws)])


def _reference(num_steps):
  mask = _flat_mask(_FIRST(PARAMS))
  w, target, found = flat(PARAMS) * mask, flat(TARGET), []
  velocity = np.zeros(42)
  for count in range(1, num_steps + 1):
    velocity = MOMENTUM * velocity + mask * (w - target + DECAY * w)
    w = w - RATE * velocity
    row, rest = divmod(count, _INTERVAL)
    if rest == 0 and row <= len(_FRACTIONS):
      draws, old = _draws(count), mask.copy()
      for ids in _KERNELS.values():
        active, others = np.flatnonzero(old[ids]), np.flatnonzero(~old[ids])
        num = int(_FRACTIONS[row - 1] * len(active))
        small = active[np.argsort(np.abs(w[ids][active]))[:num]]
        drawn = others[np.argsort(-draws[ids][others])[:num]]
        mask[ids][small], mask[ids][drawn] = False, True
      w[mask != old], velocity[mask != old] = 0, 0
    found.append((w.copy(), velocity.copy(), mask.copy()))
  return [np.stack(x) for x in zip(*found)]


class SetTest(parameterized.TestCase):
  def test_follows_numpy(self):
    method = _method(first=_FIRST)
    params, states = train(method, PARAMS, 10)
    w, velocity, mask = _reference(10)
    np.testing.assert_array_equal(flat_steps(states.mask), mask[:, 6:])
    np.testing.assert_allclose(flat_steps(params), w, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(flat_steps(params)[~mask], 0)
    found = flat_steps(states.inner_state[1][0].trace)
    np.testing.assert_allclose(found, velocity, rtol=1e-4, atol=1e-5)
    changed = np.flatnonzero((mask[1:] != mask[:-1]).any(1))
    np.testing.assert_array_equal(changed, [1, 4])
    self.assertEqual((mask[2] & ~mask[1]).sum(), 6 + 3)
    self.assertEqual((mask[5] & ~mask[4]).sum(), 4 + 2)

  def test_groups_keep_their_number(self):
    method = _method(patterns.n_of_m(2, 4), interval=1, fractions=[0.3] * 4)
    params, states = train(method, PARAMS, 6)
    masks = np.asarray(states.mask['a']['kernel'])
    np.testing.assert_array_equal(masks.sum(1), 2)  # [steps, 4, 6]
    zero = params['a']['kernel'] == 0
    self.assertTrue(np.all(zero[~masks]))
    replaced = (masks[1:] & ~masks[:-1]).sum((1, 2))
    # The mask of the first step has moved once.
    np.testing.assert_array_equal(replaced, [3, 3, 3, 0, 0])

  def test_where_nothing_moves_it_trains_under_one_mask(self):
    found = train(_method(fractions=[0.0] * 3, first=_FIRST), PARAMS, 9)
    expected = train(ong_jax.static(_FIRST), PARAMS, 9)
    for x, y in zip(*map(jax.tree.leaves, (found, expected))):
      np.testing.assert_array_equal(x, y)

  def test_steps_that_rewire_train_too(self):
    method = _method(interval=1, fractions=[0.3])
    tx = method.transform(optax.sgd(0.1))
    ones = jax.tree.map(jnp.ones_like, PARAMS)
    updates, _ = tx.update(ones, tx.init(PARAMS), PARAMS)
    np.testing.assert_allclose(updates['a']['bias'], -0.1, rtol=1e-6)

  def test_grows_where_a_score_is_high(self):
    seen = []

    def grow(weights):
      seen.append(weights)
      return jax.tree.map(
        lambda w: jnp.arange(1.0, 1 + w.size).reshape(w.shape), weights
      )

    first = jax.tree.map(
      lambda m: (jnp.arange(m.size) < m.size // 2).reshape(m.shape),
      _FIRST(PARAMS),
    )
    method = _method(first=first, interval=1, fractions=[0.5], grow=grow)
    params, states = train(method, PARAMS, 1)
    for leaf in jax.tree.leaves(states.mask):
      kept = np.asarray(leaf[0]).ravel()
      num = kept.size
      self.assertEqual(kept.sum(), num // 2)
      # The last quarter has come, and half of the first half is left.
      np.testing.assert_array_equal(
        kept[num // 2 :], np.arange(num // 2) >= num // 4
      )
    self.assertIsNone(seen[0]['a']['bias'])

  def test_a_factorization_grows_where_rows_and_columns_are_large(self):
    grow = scores.ong(_KEY, saliency=saliency.recon, rank=1)
    v = jnp.outer(jnp.arange(1.0, 7.0), jnp.arange(1.0, 5.0))
    # Of every row and column some are missing.
    kept = (jnp.arange(6)[:, None] + jnp.arange(4)) % 3 > 0
    params, first = {'kernel': v * kept}, {'kernel': kept}
    x = jnp.where(kept, 0, grow(params)['kernel'])
    highest = np.argwhere(x == x.max())
    self.assertLen(highest, 1)
    for seed in range(3):  # Another one would be drawn.
      method = ong_jax.set_(
        jax.random.key(seed),
        patterns.unstructured(1 / 3),
        interval=1,
        fractions=[0.07],  # Of 16: one.
        first=first,
        grow=grow,
      )
      tx = method.transform(optax.sgd(0.0))
      zeros = jax.tree.map(jnp.zeros_like, params)
      state = tx.update(zeros, tx.init(params), params)[1]
      new = np.argwhere(np.asarray(state.mask['kernel'] & ~kept))
      np.testing.assert_array_equal(new, highest)

  def test_refuses_before_training_a_score_of_something_else(self):
    method = _method(grow=lambda weights: {'other': jnp.ones(3)})
    with self.assertRaisesRegex(ValueError, '`grow` must return scores shaped'):
      method.transform(optax.sgd(0.1)).init(PARAMS)
    with self.assertRaisesRegex(TypeError, '`grow` must be a function'):
      _method(grow='recon')

  def test_grows_in_a_class_of_leaves(self):
    @jax.tree_util.register_dataclass
    @dataclasses.dataclass(eq=False)
    class Net:
      kernel: jax.Array

    params = Net(jnp.array([[4.0, 3.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]]))
    method = _method(
      patterns.unstructured(6 / 8),
      first=Net(params.kernel != 0),
      interval=1,
      fractions=[0.5],
      grow=lambda weights: Net(jnp.arange(8.0)[None]),
    )
    tx = method.transform(optax.sgd(0.0))
    zeros = jax.tree.map(jnp.zeros_like, params)
    state = tx.update(zeros, tx.init(params), params)[1]
    np.testing.assert_array_equal(np.flatnonzero(state.mask.kernel), [0, 7])

  def test_growth_does_not_see_gradients(self):
    tx = _method(interval=1).transform(optax.sgd(0.1))
    state, masks = tx.init(PARAMS), []
    for scale in (0.0, 1e-3, np.nan):
      grads = jax.tree.map(
        lambda m, scale=scale: jnp.where(
          m, 0, scale * jnp.arange(m.size).reshape(m.shape)
        ),
        state.mask,
      )
      grads['a']['bias'] = jnp.zeros(6)
      masks.append(flat(tx.update(grads, state, PARAMS)[1].mask))
    np.testing.assert_array_equal(masks[0], masks[1])
    np.testing.assert_array_equal(masks[0], masks[2])


if __name__ == '__main__':
  absltest.main()
