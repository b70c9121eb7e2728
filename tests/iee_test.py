from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl.testing import absltest, parameterized
from flax import serialization
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
  loss,
  normal,
  train,
)

import ong_jax
from ong_jax import allocation, channels, costs, patterns, scores, taylor

_ESTIMATE, _IMPROVE, _EXPLORE = 3, 2, 4
_LENGTH = _ESTIMATE + _IMPROVE + _EXPLORE
_FRACTIONS = (0.5, 0.3)
_WEIGHTS = np.arange(42) >= 6  # Biases come first.
_LEAVES = {'a': np.arange(42) >= 30, 'b': np.arange(42) < 30}
_FIRST = ong_jax.random(
  jax.random.key(0), sparsity=0.5, allocate=allocation.uniform
)


def _method(**options):
  return ong_jax.iee(
    **{
      'first': _FIRST,
      'pattern': patterns.unstructured(0.5),
      'fractions': _FRACTIONS,
      'estimate': _ESTIMATE,
      'improve': _IMPROVE,
      'explore': _EXPLORE,
    }
    | options
  )


def _flat_mask(mask):
  """bool [42]; True for biases."""
  filled = jax.tree.map(
    lambda p, m: jnp.ones(p.shape, bool) if m is None else m, PARAMS, mask
  )
  return flat(filled) > 0


def _lowest(values, among, num):
  """Which `num` of `among`; of equal ones the last."""
  ids = np.flatnonzero(among)
  order = np.lexsort((-ids, values[ids]))
  return ids[order[:num]]


def _explores(step):
  return _phase(step)[1] == 'explore'


def _phase(step):
  cycle, step = divmod(step, _LENGTH)
  if cycle >= len(_FRACTIONS):
    return cycle, 'final'
  if step < _ESTIMATE:
    return cycle, 'estimate'
  return cycle, 'explore' if step >= _ESTIMATE + _IMPROVE else 'improve'


def _simulate(num_steps, pools, observes=False):
  """The five stages in plain NumPy: params, masks, momenta of each step."""
  p, target = flat(PARAMS), flat(TARGET)
  mask = _flat_mask(_FIRST(PARAMS))
  momentum, total, found = np.zeros(42), np.zeros(42), []
  budgets = [mask[pool].sum() for pool in pools]
  for step in range(num_steps):
    cycle, phase = _phase(step)
    network = p if phase == 'explore' else np.where(mask, p, 0)
    gradient = network - target
    trains = np.where(_WEIGHTS, mask ^ (phase == 'explore'), phase != 'explore')
    total += np.abs(network * gradient) * (phase in ('estimate', 'explore'))
    moved = MOMENTUM * momentum + gradient + DECAY * p
    momentum = np.where(trains, moved, momentum)
    p = np.where(trains, p - RATE * moved, p)
    values = total if observes else np.abs(p)
    ends = phase != _phase(step + 1)[1]
    if ends and phase == 'estimate':
      for pool, budget in zip(pools, budgets):
        cut = int(_FRACTIONS[cycle] * budget)
        gone = _lowest(values, mask & pool, cut)
        mask[gone], momentum[gone] = False, 0
      total = np.zeros(42)
    if ends and phase == 'explore':
      momentum = np.where(mask, momentum, 0)
      for pool, budget in zip(pools, budgets):
        num = budget - (mask & pool).sum()
        best = np.flatnonzero(~mask & pool)
        mask[best[np.argsort(-values[best], kind='stable')[:num]]] = True
      total = np.zeros(42)
    found.append((p.copy(), mask.copy(), momentum.copy()))
  return [np.stack(x) for x in zip(*found)]


class IeeTest(parameterized.TestCase):
  @parameterized.named_parameters(
    ('by_leaf', allocation.uniform, False),
    ('pooled', allocation.pooled, False),
    ('taylor', allocation.uniform, True),
  )
  def test_goes_through_the_five_stages(self, allocate, observes):
    method = _method(
      pattern=patterns.unstructured(0.5, allocate),
      observe=taylor.weights() if observes else None,
    )
    params, opt_states = train(method, PARAMS, 22)
    pools = [_WEIGHTS]
    if allocate is allocation.uniform:
      pools = [_WEIGHTS & ~_LEAVES['a'], _WEIGHTS & ~_LEAVES['b']]
    expected = _simulate(22, pools, observes)
    state = ong_jax.state_of(opt_states)
    np.testing.assert_allclose(flat_steps(params), expected[0], atol=1e-5)
    masks = jax.tree.map(
      lambda p, m: jnp.ones(p.shape, bool) if m is None else m,
      params,
      state.mask,
    )
    np.testing.assert_array_equal(flat_steps(masks), expected[1])
    trace = state.inner_state.inner_state[1][0].trace
    np.testing.assert_allclose(flat_steps(trace), expected[2], atol=1e-5)
    counts = expected[1][:, 6:].sum(1)
    self.assertEqual(  # After stages 1 and 2, and after stage 5.
      [counts[_ESTIMATE - 1], counts[_LENGTH - 1], counts[-1]], [9, 18, 18]
    )

  def test_what_is_frozen_stays_to_the_bit(self):
    method = _method()
    params, opt_states = train(method, PARAMS, 20)
    trace = ong_jax.state_of(opt_states).inner_state.inner_state[1][0].trace
    params, trace = flat_steps(params), flat_steps(trace)
    masks = _simulate(20, [_WEIGHTS & ~_LEAVES[x] for x in 'ab'])[1]
    explored = 0
    for step in range(1, 20):
      phase = _phase(step)[1]
      frozen = masks[step - 1] == (phase == 'explore')
      np.testing.assert_array_equal(
        params[step][frozen], params[step - 1][frozen]
      )
      if phase == 'explore' and _phase(step + 1)[1] == 'explore':
        explored += 1
        np.testing.assert_array_equal(
          trace[step][frozen], trace[step - 1][frozen]
        )
        self.assertTrue((params[step] != params[step - 1])[~frozen].all())
    self.assertEqual(explored, 6)

  def test_runs_the_whole_network_only_while_it_explores(self):
    method = _method()
    tx = method.transform(INNER)
    state = tx.init(PARAMS)
    masked = ong_jax.apply_mask(PARAMS, state.mask)
    for step in range(2 * _LENGTH + 1):
      at = state._replace(count=jnp.array(step))
      explores = _phase(step)[1] == 'explore'
      chex.assert_trees_all_equal(
        method.effective(PARAMS, at, jax.random.key(0)),
        PARAMS if explores else masked,
      )
      chex.assert_trees_all_equal(method.effective(PARAMS, at), masked)
      self.assertEqual(bool(method.tracks_statistics(at)), not explores)

  def test_resumes_from_any_stage_to_the_same_bits(self):
    method = _method(observe=taylor.weights(), regrow=lambda new, old: old)
    tx = method.transform(INNER)

    @jax.jit
    def step(params, state):
      def run(params):
        return loss(method.effective(params, state, jax.random.key(0)))

      updates, state = tx.update(jax.grad(run)(params), state, params)
      return optax.apply_updates(params, updates), state

    carries = [(PARAMS, tx.init(PARAMS))]
    for _ in range(2 * _LENGTH + 2):
      carries.append(step(*carries[-1]))
    for start in (1, 4, 7, _LENGTH, 2 * _LENGTH + 1):  # One of each stage.
      stored = serialization.to_bytes(carries[start])
      carry = serialization.from_bytes((PARAMS, tx.init(PARAMS)), stored)
      for _ in range(start, 2 * _LENGTH + 2):
        carry = step(*carry)
      chex.assert_trees_all_equal(carry, carries[-1])

  def test_without_moves_is_training_under_one_mask(self):
    method = _method(fractions=[0.0, 0.0], explore=0)
    ours, our_states = train(method, PARAMS, 12)
    theirs, states = train(ong_jax.static(_FIRST), PARAMS, 12)
    last = partial(jax.tree.map, lambda x: x[-1])
    chex.assert_trees_all_equal(
      method.finish(last(ours), last(our_states)),
      ong_jax.static(_FIRST).finish(last(theirs), last(states)),
    )

  @parameterized.named_parameters(
    ('zero', lambda explored, before: jnp.zeros_like(before)),
    ('before', lambda explored, before: before),
  )
  def test_what_grows_starts_as_asked(self, regrow):
    method = _method(regrow=regrow)
    params, opt_states = train(method, PARAMS, _LENGTH)
    masks = _simulate(_LENGTH, [_WEIGHTS & ~_LEAVES[x] for x in 'ab'])[1]
    params = flat_steps(params)
    grown = masks[-1] & ~masks[-2]
    back = grown & masks[0]
    self.assertGreater(back.sum(), 0)
    before = np.where(  # Active until stage 2, or never.
      masks[0], params[_ESTIMATE - 1], flat(PARAMS)
    )
    expected = regrow(None, jnp.asarray(before))
    np.testing.assert_allclose(
      params[-1][grown], expected[grown], rtol=1e-6, atol=0
    )

  def test_finds_the_input_that_matters(self):
    xs = jnp.asarray(np.random.default_rng(0).normal(size=(64, 20)))
    ys = 3 * xs[:, 7]
    params = {'kernel': jnp.full((20, 1), 0.1)}
    first = {'kernel': jnp.zeros((20, 1), bool).at[:4].set(True)}

    found = []
    for fractions, explore in (((0.5,), 5), ((0.0,), 0)):
      method = _method(
        first=first,
        pattern=patterns.unstructured(0.8),
        fractions=fractions,
        explore=explore,
      )
      tx = method.transform(optax.sgd(0.05))

      def squares(params, opt_state, method=method):
        kernel = method.effective(params, opt_state, jax.random.key(0))
        return jnp.mean((xs @ kernel['kernel'][:, 0] - ys) ** 2)

      grad, update = jax.jit(jax.grad(squares)), jax.jit(tx.update)
      at, opt_state = params, tx.init(params)
      for _ in range(12):
        updates, opt_state = update(grad(at, opt_state), opt_state, at)
        at = optax.apply_updates(at, updates)
      found.append(bool(method.finish(at, opt_state)[1]['kernel'][7, 0]))
    self.assertEqual(found, [True, False])

  def test_goes_by_any_score(self):
    for score in (
      scores.at_least(scores.magnitude, 1),
      scores.ong(jax.random.key(0), saliency=ong_jax.saliency.recon_mag),
    ):
      params, states = train(_method(score=score), PARAMS, 20)
      mask = jax.tree.map(lambda x: x[-1], ong_jax.state_of(states).mask)
      self.assertEqual(ong_jax.sparsity(mask), 0.5)
      self.assertFalse(
        np.array_equal(_flat_mask(mask), _flat_mask(_FIRST(PARAMS)))
      )

  def test_n_of_m_is_whole_after_every_cycle(self):
    pattern = patterns.n_of_m(1, 2)
    method = _method(pattern=pattern)
    _, states = train(method, PARAMS, 20)
    kernels = np.asarray(ong_jax.state_of(states).mask['a']['kernel'])
    groups = kernels.reshape(20, 2, 2, 6).sum(2)
    for step in (_LENGTH - 1, 2 * _LENGTH - 1, 19):
      np.testing.assert_array_equal(groups[step], 1)
    self.assertLess(groups[_ESTIMATE - 1].sum(), 12)
    self.assertTrue((kernels[_LENGTH - 1] != kernels[19]).any())

  def test_whole_channels_come_and_go_within_their_budget(self):
    names = {
      'first': {'kernel': P(None, 'a')},
      'norm': {'bias': P('a'), 'scale': P('a')},
      'second': {'kernel': P('a', 'b')},
      'third': {'kernel': P('b', None)},
    }
    shapes = {
      'first': {'kernel': (5, 8)},
      'norm': {'bias': (8,), 'scale': (8,)},
      'second': {'kernel': (8, 6)},
      'third': {'kernel': (6, 3)},
    }
    params = jax.tree.map(lambda spec, s: normal(len(s), *s), names, shapes)
    table = costs.weights_cost(names, params, {'a': 2, 'b': 2})
    pattern = patterns.whole_channels(names, table, capacity=60)

    def run(params, xs):
      x = xs @ params['first']['kernel']
      x = jnp.tanh(x * params['norm']['scale'] + params['norm']['bias'])
      x = jnp.tanh(x @ params['second']['kernel'])
      return x @ params['third']['kernel']

    xs = normal(1, 32, 5)
    ys = xs[:, :3] * xs[:, 2:]
    everything = jax.tree.map(lambda p: jnp.ones(p.shape, bool), params)
    method = _method(
      first=everything, pattern=pattern, observe=taylor.channels(names)
    )
    tx = method.transform(optax.sgd(0.05, 0.9))

    @jax.jit
    def step(params, opt_state):
      def squares(params):
        network = method.effective(params, opt_state, jax.random.key(0))
        return jnp.mean((run(network, xs) - ys) ** 2)

      updates, opt_state = tx.update(
        jax.grad(squares)(params), opt_state, params
      )
      return optax.apply_updates(params, updates), opt_state

    opt_state, seen = tx.init(params), []
    for i in range(2 * _LENGTH + 2):
      old, old_mask = params, ong_jax.mask_of(opt_state)
      params, opt_state = step(params, opt_state)
      mask = ong_jax.mask_of(opt_state)
      kept = channels.collapse(names, mask)
      chex.assert_trees_all_equal(mask, channels.expand(names, kept, params))
      left = {group: int(k.sum()) // 2 for group, k in kept.items()}
      seen.append((int(costs.total(table, left)), left))
      frozen = jax.tree.map(lambda m, i=i: m == _explores(i), old_mask)
      chex.assert_trees_all_equal(
        ong_jax.apply_mask(params, frozen), ong_jax.apply_mask(old, frozen)
      )
    self.assertEqual(seen[0][0], 40 + 48 + 18)
    for i, (cost, _) in enumerate(seen[_ESTIMATE - 1 :], _ESTIMATE):
      share = _FRACTIONS[i // _LENGTH] if i < 2 * _LENGTH else 0
      grown = i % _LENGTH == 0 or i % _LENGTH < _ESTIMATE
      self.assertLessEqual(cost, 60 * (1 if grown else 1 - share))
    self.assertGreater(seen[_LENGTH - 1][0], seen[_ESTIMATE - 1][0])
    final, mask = method.finish(params, opt_state)
    kept = channels.collapse(names, mask)
    np.testing.assert_allclose(
      run(channels.shrink(final, names, kept), xs), run(final, xs), atol=1e-5
    )

  def test_wrappers_may_go_around_it(self):
    tx = optax.inject_hyperparams(
      lambda rate: _method().transform(optax.adam(rate))
    )(rate=0.1)
    state = tx.init(PARAMS)
    grads = jax.grad(loss)(PARAMS)
    _, state = jax.jit(tx.update)(grads, state, PARAMS)
    self.assertEqual(int(ong_jax.state_of(state).count), 1)

  def test_a_stage_that_saw_nothing_prunes_nothing(self):
    method = _method(observe=taylor.weights())
    tx = method.transform(optax.apply_if_finite(optax.sgd(0.1), 99))
    state, update = tx.init(PARAMS), jax.jit(tx.update)
    grads = jax.tree.map(lambda p: jnp.full(p.shape, jnp.nan), PARAMS)
    for _ in range(_ESTIMATE):
      _, state = update(grads, state, PARAMS)
    np.testing.assert_array_equal(
      _flat_mask(state.mask), _flat_mask(_FIRST(PARAMS))
    )

  @parameterized.parameters(True, False)
  def test_counts_become_those_of_the_pattern(self, denser):
    first = ong_jax.magnitude(
      sparsity=0.2 if denser else 0.8, allocate=allocation.uniform
    )
    method = _method(first=first)
    _, states = train(method, PARAMS, 20)
    masks = flat_steps(
      jax.tree.map(
        lambda p, m: jnp.ones((20, *p.shape), bool) if m is None else m,
        PARAMS,
        ong_jax.state_of(states).mask,
      )
    )
    self.assertEqual(masks[-1][6:].sum(), 18)
    pruned = masks[_ESTIMATE - 1] & ~masks[0]
    self.assertFalse(pruned.any())  # Stage 2 only takes away.

  def test_what_does_not_fit_is_refused_at_the_outset(self):
    for options, message in (
      (
        {
          'first': {
            'a': {'bias': None, 'kernel': jnp.ones((4, 6), bool)},
            'b': {'kernel': None},
          }
        },
        "'b/kernel'",
      ),
      ({'prunable': lambda path, leaf: leaf.shape == (4, 6)}, 'One `prunable`'),
    ):
      with self.assertRaisesRegex(
        ValueError, message.replace('One', 'Pass one')
      ):
        _method(**options).transform(INNER).init(PARAMS)

  @parameterized.parameters(True, False)
  def test_params_like_leaves_of_its_state_can_be_mapped(self, observes):
    mask = _FIRST(PARAMS)
    method = _method(first=mask, observe=taylor.weights() if observes else None)
    tx = method.transform(optax.trace(0.9))
    state = tx.init(PARAMS)
    doubled = optax.tree.map_params(tx, lambda x, p: x + p, state, PARAMS)
    chex.assert_trees_all_equal(doubled.inner_state.inner_state.trace, PARAMS)

  def test_refuses(self):
    with self.assertRaisesRegex(ValueError, '`explore`=0'):
      _method(explore=0)


if __name__ == '__main__':
  absltest.main()
