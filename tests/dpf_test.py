import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized
from toy_problem import (
  DECAY,
  MOMENTUM,
  PARAMS,
  RATE,
  TARGET,
  flat,
  flat_steps,
  largest,
  loss,
  train,
)

from ong_jax import allocation, masks
from ong_jax.methods import dpf

METHOD = dpf(sparsity=0.75, interval=5, num_updates=2, refresh=3)
# Sparsity is 0.75 - 0.75 (1 - t / 2)^3: 24 and 27 of 36 weights are gone.
KEPT = 4 * [36] + 5 * [12] + 11 * [9]
DUE = [3, 5, 6, 9, 10, 12, 15, 18]


def reference(num_steps):
  w, target, found = flat(PARAMS), flat(TARGET), []
  mask, velocity = np.ones(42, bool), np.zeros(42)
  for count in range(1, num_steps + 1):
    gradient = w * mask - target + DECAY * w  # Where pruned as well.
    velocity = MOMENTUM * velocity + gradient
    w = w - RATE * velocity
    if count in DUE:
      mask = largest(np.abs(w), KEPT[count - 1])
    found.append((w, velocity, mask[6:]))
  return [np.stack(x) for x in zip(*found)]


class DpfTest(parameterized.TestCase):
  def test_follows_numpy(self):
    params, states = train(METHOD, PARAMS, 20)
    w, velocity, mask = reference(20)
    np.testing.assert_array_equal(flat_steps(states.mask), mask)
    np.testing.assert_allclose(flat_steps(params), w, rtol=1e-4, atol=1e-5)
    found = flat_steps(states.inner_state[1][0].trace)
    np.testing.assert_allclose(found, velocity, rtol=1e-4, atol=1e-5)
    returned = np.any(mask[1:] & ~mask[:-1], axis=1)
    # The sparsity rises at 5 and 10; masks are made on and on.
    self.assertEqual(
      (2 + np.flatnonzero(returned)).tolist(), [6, 9, 12, 15, 18]
    )

  def test_counts_are_exact_at_every_step_and_under_ties(self):
    for params in (PARAMS, jax.tree.map(jnp.ones_like, PARAMS)):
      _, states = train(METHOD, params, 20, params)
      self.assertEqual(flat_steps(states.mask).sum(1).tolist(), KEPT)

  def test_gradients_are_those_at_the_pruned_weights(self):
    _, states = train(METHOD, PARAMS, 20)
    state = jax.tree.map(lambda x: x[-1], states)
    gradient = jax.grad(lambda p: loss(METHOD.effective(p, state, None)))
    masked = masks.apply_mask(PARAMS, state.mask)
    chex.assert_trees_all_equal(gradient(PARAMS), jax.grad(loss)(masked))

  def test_finishes_with_what_was_evaluated(self):
    params, state = jax.tree.map(lambda x: x[-1], train(METHOD, PARAMS, 20))
    finished, mask = METHOD.finish(params, state)
    chex.assert_trees_all_equal(mask, state.mask)
    chex.assert_trees_all_equal(finished, METHOD.effective(params, state))
    counts = [np.count_nonzero(x['kernel']) for x in finished.values()]
    self.assertEqual(sum(counts), 9)
    dense = [np.count_nonzero(x['kernel']) for x in params.values()]
    self.assertEqual(dense, [24, 12])

  def test_budgets_may_be_split_by_leaf(self):
    method = dpf(
      sparsity=0.75, interval=1, num_updates=1, allocate=allocation.uniform
    )
    _, state = jax.tree.map(lambda x: x[-1], train(method, PARAMS, 1))
    counts = jax.tree.map(lambda m: int(m.sum()), state.mask)
    expected = {'a': {'bias': None, 'kernel': 6}, 'b': {'kernel': 3}}
    self.assertEqual(counts, expected)

  @parameterized.named_parameters(
    ('sparsity', {'sparsity': -0.5}, '^`sparsity` must be a number .* -0.5.$'),
    ('interval', {'interval': 0}, '^`interval` must be an integer .* got 0.$'),
    (
      'num_updates',
      {'num_updates': 0},
      '^`num_updates` must be an integer .* got 0.$',
    ),
    ('refresh', {'refresh': 1.5}, '^`refresh` must be an integer .* 1.5.$'),
  )
  def test_refuses(self, bad, message):
    with self.assertRaisesRegex(ValueError, message):
      dpf(**{'sparsity': 0.5, 'interval': 5, 'num_updates': 2} | bad)
