from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized

from ong_jax import factoring, nmf, packing, starts

KEY = jax.random.key(0)
SOLVERS = (
  ('hals', nmf.hals),
  ('multiplicative', nmf.multiplicative),
  ('kl', nmf.kl),
)
P, Q = np.array([3, 0, 5, 1, 4, 2]), np.array([4, 2, 0, 3, 1])


def positive(seed, *shape):
  return np.random.default_rng(seed).uniform(0.1, 1, shape)


V, W0, H0 = positive(0, 6, 5), positive(1, 6, 2), positive(2, 2, 5)


def start_at(w, h):
  """A start that is the same whatever the key."""
  return lambda key, v, rank: (jnp.asarray(w, v.dtype), jnp.asarray(h, v.dtype))


def product(v, rank=2, key=KEY, **options):
  factors = nmf.nmf(key, jnp.asarray(v), rank, **options)
  return factors.w @ factors.h


def packed(v, w, h):
  """A single matrix and its factors as solvers take them."""
  v, w, h = (jnp.asarray(x) for x in (v, w, h))
  v = packing.pack([v])
  root = jnp.sqrt(v.mean[0])
  w, h = packing.pack_factors(v, [w], [h])
  return v, w / root, h / root


def unpacked(v, w, h):
  """Undoes `packed`."""
  factors = packing.side_by_side(v, w, h)
  (w,), (h,) = packing.apart(*factors, v.shapes, [w.shape[1]])
  root = jnp.sqrt(v.mean[0])
  return w * root, h * root


def swept(solver, v, w, h, num=1):
  """The factors after sweeps over a single matrix."""
  v, *factors = packed(v, w, h)
  for _ in range(num):
    *factors, _ = solver.sweep(v, *factors)
  return unpacked(v, *factors)


def loss_of(solver, v, w, h):
  """The loss by its definition."""
  v, x = np.asarray(v, np.float64), np.asarray(w, np.float64) @ h
  if solver is nmf.kl:
    log = np.log(np.where(v > 0, v, 1) / np.where(v > 0, x, 1))
    return np.sum(v * log - v + x)
  return 0.5 * np.sum((v - x) ** 2)


@partial(jax.jit, static_argnames=('solver', 'sweeps'))
def losses(solver, v, w, h, sweeps):
  """The loss after every sweep, and where the last one led."""
  v, *factors = packed(v, w, h)

  def body(factors, _):
    *factors, loss = solver.sweep(v, *factors)
    return tuple(factors), loss[0]

  last, after = jax.lax.scan(body, tuple(factors), length=sweeps)
  return after, *unpacked(v, *last)


def numpy_hals(v, w, h, sweeps, passes=(3, 8)):
  w, h = w.copy(), h.copy()
  for _ in range(sweeps):
    for k in list(range(len(h))) * passes[0]:
      step = v @ h[k] - w @ (h @ h[k])
      w[:, k] = np.maximum(w[:, k] + step / (h[k] @ h[k]), 0)
    for k in list(range(len(h))) * passes[1]:
      step = w[:, k] @ v - (w[:, k] @ w) @ h
      h[k] = np.maximum(h[k] + step / (w[:, k] @ w[:, k]), 0)
  return w, h


class NmfTest(parameterized.TestCase):
  @parameterized.named_parameters(*SOLVERS)
  def test_factors_are_finite_and_non_negative_and_shaped(self, solver):
    v = jnp.asarray(np.where(V > 0.7, V, 0), jnp.float32)
    w, h, loss, sweeps = nmf.nmf(KEY, v, 2, solver=solver)
    chex.assert_shape([w, h, loss, sweeps], [(6, 2), (2, 5), (), ()])
    chex.assert_tree_all_finite((w, h, loss))
    self.assertGreaterEqual(min(w.min(), h.min()), 0)
    np.testing.assert_allclose(loss, loss_of(solver, v, w, h), 1e-4)
    start = starts.random_start(KEY, v, 2)
    self.assertLess(loss, loss_of(solver, v, *start))

  @parameterized.named_parameters(
    ('rank', {'rank': 0}, '^`rank` must be an integer of at .* 1; got 0.$'),
    ('float', {'rank': 2.0}, '^`rank` must be an integer of .* 1; got 2.0.$'),
    ('sweeps', {'max_sweeps': 0}, '^`max_sweeps` must be .* 1; got 0.$'),
    ('restarts', {'restarts': -1}, '^`restarts` must be .* 1; got -1.$'),
    ('tol', {'tol': 1.0}, r'^`tol` must lie in \[0, 1\); got 1.0.$'),
    ('nan_tol', {'tol': np.nan}, r'^`tol` must lie in \[0, 1\); got nan.$'),
    ('vector', {'v': np.ones(3)}, r'^`v` must be a matrix .* is \(3,\).$'),
    ('negative', {'v': -np.eye(2)}, '^`v` must be .* lowest entry is -1.0,'),
    ('nan', {'v': np.array([[1.0, np.nan]])}, '^`v` must be finite and non-'),
    ('inf', {'v': np.array([[1.0, np.inf]])}, '^`v` must .* its highest inf.$'),
  )
  def test_refuses_before_it_starts(self, changes, message):
    def start(key, v, rank):
      raise AssertionError('The factorization was started.')

    arguments = {'v': np.eye(2), 'rank': 1, 'start': start} | changes
    with self.assertRaisesRegex(ValueError, message):
      nmf.nmf(KEY, **arguments)

  @parameterized.named_parameters(
    ('hals', nmf.hals, starts.nndsvd, 1e-5),
    ('multiplicative', nmf.multiplicative, starts.nndsvda, 0.05),
    ('kl', nmf.kl, starts.nndsvda, 0.05),
  )
  def test_degenerate_matrices(self, solver, other_start, rtol):
    def fit(v, start=starts.random_start):
      v = jnp.asarray(v, jnp.float32)
      factors = nmf.nmf(KEY, v, 2, solver=solver, start=start, tol=0)
      chex.assert_tree_all_finite(factors)
      return factors.w @ factors.h

    ones, hole = np.ones((6, 5)), np.where(np.arange(6) == 2, 0, 1)[:, None]
    for start in starts.random_start, other_start:
      np.testing.assert_array_equal(fit(0 * ones, start), 0 * ones)
      np.testing.assert_allclose(fit(3 * ones, start), 3 * ones, rtol)
    np.testing.assert_array_equal(fit(V * hole)[2], np.zeros(5))
    np.testing.assert_allclose(fit(V[:1]), V[:1], 1e-5)
    np.testing.assert_allclose(fit(V[:, :1]), V[:, :1], 1e-5)

  def test_a_rank_above_the_smaller_side(self):
    v = jnp.asarray(V, jnp.float32)
    for rank in (5, 7):
      factors = nmf.nmf(KEY, v, rank, start=starts.nndsvd)
      chex.assert_shape([factors.w, factors.h], [(6, rank), (rank, 5)])
      chex.assert_tree_all_finite(factors)
      np.testing.assert_array_equal(factors.w[:, 5:], np.zeros((6, rank - 5)))
    self.assertLess(np.linalg.norm(product(v, 7) - V), 0.1)

  def test_jit_and_vmap_and_precision_agree(self):
    stack = np.stack([V, positive(3, 6, 5), 9 * positive(4, 6, 5)])
    solve = partial(product, start=start_at(W0, H0), max_sweeps=20)
    with jax.enable_x64(True):
      exact = np.asarray(jax.vmap(solve)(stack))
    stack = stack.astype(np.float32)
    mapped = jax.vmap(solve)(stack)
    jitted = jax.jit(solve)
    for i in range(3):
      x = solve(stack[i])
      np.testing.assert_allclose(jitted(stack[i]), x, 1e-5)
      np.testing.assert_allclose(mapped[i], x, 1e-5)
      np.testing.assert_allclose(exact[i], x, 1e-4)

  def test_bfloat16_is_factorized_in_float32(self):
    v = jnp.asarray(V, jnp.bfloat16)
    factors = nmf.nmf(KEY, v, 2)
    self.assertEqual(factors.w.dtype, jnp.float32)
    chex.assert_trees_all_equal(factors, nmf.nmf(KEY, v.astype('float32'), 2))

  def test_what_is_tiny_does_not_underflow(self):
    v = jnp.asarray(V, jnp.float32)
    np.testing.assert_allclose(product(1e-30 * v), 1e-30 * product(v), 1e-4)

  def test_products_ask_for_full_precision(self):
    # Which a CPU gives unasked; accelerators do not.
    jaxpr = str(jax.make_jaxpr(lambda v: nmf.nmf(KEY, v, 2))(V))
    self.assertIn('dot_general', jaxpr)
    self.assertEqual(jaxpr.count('dot_general'), jaxpr.count('HIGHEST') / 2)

  def test_stops_when_the_loss_stalls_or_at_max_sweeps(self):
    v = jnp.asarray(V, jnp.float32)
    sweeps = [nmf.nmf(KEY, v, 3, tol=t).sweeps for t in (0.3, 1e-4, 1e-5)]
    self.assertEqual([n % 3 for n in sweeps], [0, 0, 0])
    self.assertLess(sweeps[0], sweeps[1])
    self.assertLess(sweeps[1], sweeps[2])
    self.assertLess(sweeps[2], 200)
    self.assertEqual(nmf.nmf(KEY, v, 3, tol=0, max_sweeps=13).sweeps, 13)

  def test_restarts_return_the_best(self):
    v = jnp.asarray(V, jnp.float32)
    keys = jax.random.split(KEY, 4)
    single = [nmf.nmf(key, v, 3, max_sweeps=10).loss for key in keys]
    self.assertGreater(np.sort(single)[1], 1.01 * min(single))
    best = nmf.nmf(KEY, v, 3, max_sweeps=10, restarts=4)
    np.testing.assert_allclose(best.loss, min(single), 1e-4)
    np.testing.assert_allclose(loss_of(nmf.hals, v, *best[:2]), best.loss, 1e-4)


class TogetherTest(parameterized.TestCase):
  SHAPES, RANKS = ((70, 5), (6, 9), (70, 5), (3, 130)), (2, 3, 1, 2)

  def network(self):
    shapes = enumerate(self.SHAPES)
    return [jnp.asarray(positive(i, *s), jnp.float32) for i, s in shapes]

  @parameterized.named_parameters(
    ('hals', {}),
    ('multiplicative', {'solver': nmf.multiplicative}),
    ('kl', {'solver': nmf.kl, 'start': starts.nndsvda}),
    ('restarts', {'restarts': 2, 'max_sweeps': 20}),
  )
  def test_a_network_at_once_is_each_matrix_alone(self, options):
    vs, keys = self.network(), jax.random.split(KEY, 4)
    # Of very different scales, and of one that has nothing to fit.
    vs[1], vs[3] = 1e-6 * vs[1], 0 * vs[3]
    found = nmf.together(keys, vs, self.RANKS, **options)
    for i, (key, v, rank) in enumerate(zip(keys, vs, self.RANKS)):
      alone = nmf.nmf(key, v, rank, **options)
      chex.assert_shape(found.w[i], (v.shape[0], rank))
      chex.assert_shape(found.h[i], (rank, v.shape[1]))
      np.testing.assert_allclose(found.loss[i], alone.loss, 1e-3)
      self.assertEqual(found.sweeps[i], alone.sweeps)
      np.testing.assert_allclose(
        found.w[i] @ found.h[i], alone.w @ alone.h, 1e-3, 1e-3 * v.mean()
      )

  def test_what_has_converged_is_held(self):
    vs, keys = self.network()[:2], jax.random.split(KEY)
    found = nmf.together(keys, vs, (2, 3), tol=1e-3)
    self.assertNotEqual(found.sweeps[0], found.sweeps[1])
    for i, rank in enumerate((2, 3)):
      sweeps = int(found.sweeps[i])
      short = nmf.nmf(keys[i], vs[i], rank, tol=0, max_sweeps=sweeps)
      np.testing.assert_allclose(found.w[i], short.w, 1e-3, 1e-4)
      np.testing.assert_allclose(found.h[i], short.h, 1e-3, 1e-4)
      np.testing.assert_allclose(found.loss[i], short.loss, 1e-4)

  def test_one_program_serves_and_is_not_compiled_again(self):
    vs, keys = self.network(), jax.random.split(KEY, 4)
    before = factoring._solve._cache_size()
    ranks = (1, 2, 3, 1)  # Of no other test.
    first = nmf.together(keys, vs, ranks, max_sweeps=7)
    twice = [2 * v for v in vs]
    second = nmf.together(keys, twice, ranks, max_sweeps=7, tol=1e-3)
    third = nmf.together(keys, vs, ranks, max_sweeps=9, tol=0)
    self.assertEqual(factoring._solve._cache_size(), before + 1)
    np.testing.assert_allclose(second.loss, 4 * first.loss, 1e-4)
    np.testing.assert_array_equal(third.sweeps, [9] * 4)

  def test_refuses_any_of_the_ranks(self):
    with self.assertRaisesRegex(ValueError, '^`rank` must be .* 1; got 0.$'):
      nmf.together(jax.random.split(KEY), [jnp.ones((2, 2))] * 2, [1, 0])

  def test_refuses_lists_that_do_not_match(self):
    for vs in ([], [jnp.ones((2, 2))]):
      with self.assertRaisesRegex(ValueError, '^`keys`, `vs` and `ranks` must'):
        nmf.together(jax.random.split(KEY), vs, [1, 1])

  def test_refuses_a_start_of_other_shapes(self):
    def start(key, v, rank):
      return jnp.ones((v.shape[0], rank + 1)), jnp.ones((rank + 1, v.shape[1]))

    with self.assertRaisesRegex(ValueError, r'^`start` must .*\(4, 2\) and'):
      nmf.nmf(KEY, jnp.ones((4, 3)), 2, start=start)

  def test_a_matrix_that_is_not_finite_harms_no_other(self):
    vs, keys = self.network()[:2], jax.random.split(KEY)
    clean = nmf.together(keys, vs, (2, 3))
    both = jax.jit(lambda v: nmf.together(keys, [vs[0], v], (2, 3)))
    found = both(vs[1].at[0, 0].set(jnp.nan))
    self.assertEqual(found.sweeps[0], clean.sweeps[0])
    np.testing.assert_allclose(found.w[0], clean.w[0], 1e-3, 1e-4)
    self.assertTrue(np.isnan(found.loss[1]))

  def test_keys_of_both_kinds(self):
    v = jnp.asarray(positive(1, 9, 5), jnp.float32)
    chex.assert_trees_all_equal(
      nmf.nmf(jax.random.PRNGKey(0), v, 2), nmf.nmf(jax.random.key(0), v, 2)
    )

  def test_the_loss_is_exact_where_the_fit_is_close(self):
    v = 1 + 1e-3 * jnp.asarray(positive(2, 40, 30), jnp.float32)
    w, h, loss, _ = nmf.nmf(KEY, v, 2)
    w, h, v = (np.asarray(x, np.float64) for x in (w, h, v))
    np.testing.assert_allclose(loss, 0.5 * np.square(v - w @ h).sum(), 1e-2)

  def test_no_worse_than_plain_hals_of_as_many_sweeps(self):
    v, key = jnp.asarray(positive(9, 80, 40), jnp.float32), jax.random.key(3)
    w, h = (np.asarray(x, np.float64) for x in starts.random_start(key, v, 4))
    plain = numpy_hals(np.asarray(v, np.float64), w, h, 30, passes=(1, 1))
    found = nmf.nmf(key, v, 4, max_sweeps=30, tol=0)
    self.assertLessEqual(found.loss, loss_of(nmf.hals, v, *plain))


class Float64Test(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.enter_context(jax.enable_x64(True))

  @parameterized.named_parameters(
    (f'{name}_{dtype}', solver, dtype, slack)
    for name, solver in SOLVERS
    for dtype, slack in (('float64', 1e-9), ('float32', 1e-5))
  )
  def test_loss_never_rises(self, solver, dtype, slack):
    start = [jnp.asarray(x, dtype) for x in (V, W0, H0)]
    f, *_ = losses(solver, *start, sweeps=60)
    self.assertEqual(f.dtype, dtype)
    self.assertTrue(np.all(f[1:] <= f[:-1] + slack * f[0]), f)
    self.assertLess(f[-1], 0.9 * f[0])

  @parameterized.named_parameters(*SOLVERS)
  def test_a_sweep_returns_the_loss_of_where_it_led(self, solver):
    for v in V, np.where(V > 0.5, V, 0):
      f, w, h = losses(solver, *map(jnp.asarray, (v, W0, H0)), sweeps=3)
      # Of V and W H divided by the mean of V.
      expected = loss_of(solver, v, w, h) / v.mean() ** solver.degree
      np.testing.assert_allclose(f[-1], expected, 1e-10)

  @parameterized.named_parameters(*SOLVERS)
  def test_a_dead_component_is_skipped(self, solver):
    alive = np.array([1.0, 0.0])
    w, h = (jnp.asarray(x) for x in (W0 * alive, H0 * alive[:, None]))
    found_w, found_h = swept(solver, V, w, h)
    expected_w, expected_h = swept(solver, V, w[:, :1], h[:1])
    np.testing.assert_allclose(found_w[:, :1], expected_w, 1e-10)
    np.testing.assert_allclose(found_h[:1], expected_h, 1e-10)
    self.assertEqual(max(found_w[:, 1].max(), found_h[1].max()), 0)

  @parameterized.named_parameters(*SOLVERS[:2])
  def test_rank_one_is_the_leading_singular_pair(self, solver):
    x = product(V, 1, solver=solver, max_sweeps=500, tol=0)
    u, s, vt = np.linalg.svd(V)
    np.testing.assert_allclose(x, s[0] * np.outer(u[:, 0], vt[0]), 1e-10)

  def test_rank_one_of_kl_is_the_product_of_the_marginals(self):
    x = product(V, 1, solver=nmf.kl, max_sweeps=1)
    np.testing.assert_allclose(x, np.outer(V.sum(1), V.sum(0)) / V.sum(), 1e-13)

  def test_kl_reproduces_the_marginals(self):
    w, h = swept(nmf.kl, V, W0, H0)
    # `h` is updated first, against the `w` of before.
    np.testing.assert_allclose((W0 @ h).sum(0), V.sum(0), 1e-13)
    np.testing.assert_allclose((w @ h).sum(1), V.sum(1), 1e-13)

  def test_multiplicative_is_the_rule_of_lee_and_seung(self):
    w, h = swept(nmf.multiplicative, V, W0, H0)
    expected_h = H0 * (W0.T @ V) / (W0.T @ W0 @ H0)
    expected_w = W0 * (V @ expected_h.T) / (W0 @ expected_h @ expected_h.T)
    np.testing.assert_allclose(h, expected_h, 1e-10)
    np.testing.assert_allclose(w, expected_w, 1e-10)

  def test_hals_agrees_with_numpy(self):
    w, h, *_ = nmf.nmf(
      KEY, jnp.asarray(V), 2, start=start_at(W0, H0), max_sweeps=25, tol=0
    )
    expected_w, expected_h = numpy_hals(V, W0, H0, 25)
    np.testing.assert_allclose(w @ h, expected_w @ expected_h, 1e-10)
    np.testing.assert_allclose(w, expected_w, 1e-9, 1e-12)
    np.testing.assert_allclose(h, expected_h, 1e-9, 1e-12)

  def test_hals_ends_at_a_stationary_point(self):
    _, w, h = losses(nmf.hals, *map(jnp.asarray, (V, W0, H0)), sweeps=3000)
    r, norm = V - w @ h, np.sum(V**2)
    self.assertLess(abs(np.sum(r * (w @ h))) / norm, 1e-10)
    np.testing.assert_allclose(np.sum((w @ h) ** 2) + np.sum(r**2), norm, 1e-10)
    self.assertGreaterEqual(min((-r @ h.T).min(), (-w.T @ r).min()), -1e-8)

  @parameterized.named_parameters(*SOLVERS)
  def test_stays_at_an_exact_factorization(self, solver):
    v, start = jnp.asarray(W0 @ H0), start_at(W0, H0)
    w, h, *_ = nmf.nmf(KEY, v, 2, solver=solver, start=start)
    np.testing.assert_allclose(w @ h, v, 1e-10)
    np.testing.assert_allclose(w, W0, 1e-7)

  def test_a_higher_rank_fits_no_worse_and_none_better_than_the_svd(self):
    s = np.linalg.svd(V, compute_uv=False)
    w, h, before = np.zeros((6, 0)), np.zeros((0, 5)), 0.5 * np.sum(V**2)
    for rank in range(1, 5):  # From the last solution and a component of zero.
      w = np.hstack([w, np.zeros((6, 1))])
      h = np.vstack([h, positive(rank, 1, 5)])
      start = start_at(w, h)
      w, h, loss, _ = nmf.nmf(KEY, jnp.asarray(V), rank, start=start, tol=0)
      self.assertLess(loss, before)
      self.assertGreaterEqual(loss, 0.5 * np.sum(s[rank:] ** 2) - 1e-12)
      before = loss

  @parameterized.named_parameters(*SOLVERS)
  def test_gauge_and_scale_and_permutation_of_the_start(self, solver):
    d, c = np.array([0.2, 7.0]), 7.3

    def fit(v, w, h):
      return product(v, solver=solver, start=start_at(w, h))

    x = fit(V, W0, H0)
    np.testing.assert_allclose(fit(V, W0 * d, H0 / d[:, None]), x, 1e-9)
    scaled = fit(c * V, np.sqrt(c) * W0, np.sqrt(c) * H0)
    np.testing.assert_allclose(scaled, c * x, 1e-9)
    permuted = fit(V[P][:, Q], W0[P], H0[:, Q])
    np.testing.assert_allclose(permuted, x[P][:, Q], 1e-9)

  @parameterized.named_parameters(
    ('rank_one', 1, starts.random_start), ('nndsvd', 3, starts.nndsvd)
  )
  def test_permutation_needs_no_permuted_start(self, rank, start):
    x = product(V, rank, start=start, tol=0)
    permuted = product(V[P][:, Q], rank, start=start, tol=0)
    np.testing.assert_allclose(permuted, x[P][:, Q], 1e-8)
