"""Every one-shot method on attention and MLP kernels, in Flax NNX."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl.testing import absltest, parameterized
from flax import nnx

import ong_jax
from ong_jax import allocation, patterns, saliency, scores, selection


class Transformer(nnx.Module):
  """A block of attention and one of an MLP, on eight tokens out of twelve."""

  def __init__(self, rngs):
    self.embed = nnx.Embed(12, 8, rngs=rngs)
    self.norm1 = nnx.LayerNorm(8, rngs=rngs)
    self.attention = nnx.MultiHeadAttention(
      2, 8, qkv_features=16, rngs=rngs, decode=False
    )
    self.norm2 = nnx.LayerNorm(8, rngs=rngs)
    self.up = nnx.Linear(8, 24, rngs=rngs)
    self.down = nnx.Linear(24, 8, rngs=rngs)
    self.head = nnx.Linear(8, 12, rngs=rngs)

  def __call__(self, tokens):
    x = self.embed(tokens)
    x = x + self.attention(self.norm1(x))
    x = x + self.down(nnx.gelu(self.up(self.norm2(x))))
    return self.head(x)


_GRAPH, PARAMS, _REST = nnx.split(Transformer(nnx.Rngs(0)), nnx.Param, ...)
_RNG = np.random.default_rng(0)
BATCHES = [jnp.asarray(_RNG.integers(0, 12, (4, 8))) for _ in range(3)]
NUM_WEIGHTS = 4 * 8 * 16 + 2 * 8 * 24 + 8 * 12


def apply(params, tokens):
  return nnx.merge(_GRAPH, params, _REST)(tokens)


def loss(params, tokens):
  logits = apply(params, tokens[:, :-1])
  return optax.softmax_cross_entropy_with_integer_labels(
    logits, tokens[:, 1:]
  ).mean()


def flow(params):
  """Linear: attention is the mean over positions, normalization nothing."""
  kernel = {
    selection.name_of(path).removesuffix('/kernel/value'): leaf
    for path, leaf in jax.tree_util.tree_leaves_with_path(params)
  }
  x = jnp.ones((8, 8))
  value = jnp.einsum('td,dhe->the', x, kernel['attention/value'])
  # Scores of ones: what query and key carry counts where they meet.
  query = jnp.einsum('td,dhe->the', x, kernel['attention/query'])
  key = jnp.einsum('td,dhe->the', x, kernel['attention/key'])
  weights = jnp.einsum('qhe,khe->hqk', query, key) / 8
  mixed = jnp.einsum('hqk,khe->qhe', weights, value)
  x = x + jnp.einsum('qhe,hed->qd', mixed, kernel['attention/out'])
  x = x + x @ kernel['up'] @ kernel['down']
  return (x @ kernel['head']).sum()


def kind(path, leaf):
  """Attention 2:4, the MLP in blocks, the head in single weights."""
  name = selection.name_of(path)
  if name.startswith('attention'):
    return patterns.NofM(2, 4)
  return None if name.startswith('head') else patterns.Block((4, 4))


def _ong(name, sparsity):
  return ong_jax.ong(
    jax.random.key(0),
    sparsity=sparsity,
    saliency=getattr(saliency, name),
    rank=2,
  )


ONE_SHOT = {
  'magnitude': lambda s: ong_jax.magnitude(sparsity=s),
  'random': lambda s: ong_jax.random(jax.random.key(0), sparsity=s),
  'lamp': lambda s: ong_jax.lamp(sparsity=s),
  'ong': lambda s: _ong('residual', s),
  'ong_recon_mag': lambda s: _ong('recon_mag', s),
  'snip': lambda s: ong_jax.snip(loss, BATCHES, sparsity=s),
  'grasp': lambda s: ong_jax.grasp(loss, BATCHES, sparsity=s),
  'synflow': lambda s: ong_jax.synflow(flow, sparsity=s, rounds=5),
  'wanda': lambda s: ong_jax.wanda(apply, BATCHES, sparsity=s),
  'sparsegpt': lambda s: (
    lambda params: ong_jax.sparsegpt(apply, BATCHES, sparsity=s)(params)[1]
  ),
  'mixed': lambda s: ong_jax.one_shot(
    scores.magnitude, pattern=patterns.mixed(kind, s)
  ),
}


class TransformerTest(parameterized.TestCase):
  @parameterized.named_parameters(ONE_SHOT.items())
  def test_is_pruned_exactly_and_trains(self, make):
    mask = make(0.6)(PARAMS)
    pruned = [
      selection.name_of(path).split('/')[-2]
      for path, _ in jax.tree_util.tree_leaves_with_path(mask)
    ]
    self.assertEqual(set(pruned), {'kernel'})
    self.assertLen(pruned, 7)
    kept = sum(int(m.sum()) for m in jax.tree.leaves(mask))
    self.assertEqual(kept, NUM_WEIGHTS - round(0.6 * NUM_WEIGHTS))
    params = ong_jax.apply_mask(PARAMS, mask)
    tx = ong_jax.masked_transform(optax.adamw(1e-2), mask)
    state = tx.init(params)
    before = float(loss(params, BATCHES[0]))

    @jax.jit
    def step(params, state):
      updates, state = tx.update(
        jax.grad(loss)(params, BATCHES[0]), state, params
      )
      return optax.apply_updates(params, updates), state

    for _ in range(10):
      params, state = step(params, state)
    self.assertLess(float(loss(params, BATCHES[0])), before)
    weights = jax.tree.map(lambda p, m: p, *_only(params, mask))
    for w, m in zip(*map(jax.tree.leaves, (weights, mask))):
      np.testing.assert_array_equal(w[~m], 0)

  def test_each_part_has_its_pattern(self):
    mask = ONE_SHOT['mixed'](0.6)(PARAMS)
    query = np.asarray(mask['attention']['query']['kernel'].get_value())
    out = np.asarray(mask['attention']['out']['kernel'].get_value())
    for kept in (query.reshape(2, 4, 16), out.reshape(4, 4, 8)):
      np.testing.assert_array_equal(kept.sum(1), 2)
    up = np.asarray(mask['up']['kernel'].get_value()).reshape(2, 4, 6, 4)
    self.assertTrue(set(up.sum((1, 3)).ravel()) <= {0, 16})

  def test_outputs_of_wanda_are_those_of_the_heads(self):
    mask = ong_jax.wanda(apply, BATCHES, sparsity=0.5)(PARAMS)
    query = mask['attention']['query']['kernel'].get_value()
    np.testing.assert_array_equal(query.sum(0), 4)  # Of 8, for head and unit.
    out = mask['attention']['out']['kernel'].get_value()
    np.testing.assert_array_equal(out.sum((0, 1)), 8)  # Of 2 heads by 8.

  def test_sparsegpt_changes_outputs_less_than_its_mask_alone(self):
    params, mask = ong_jax.sparsegpt(apply, BATCHES, sparsity=0.5)(PARAMS)
    alone = ong_jax.apply_mask(PARAMS, mask)

    def error(params):
      return sum(
        float(jnp.square(apply(params, x) - apply(PARAMS, x)).sum())
        for x in BATCHES
      )

    self.assertLess(error(params), error(alone))
    mask = ong_jax.magnitude(sparsity=0.5)(PARAMS)
    updated = ong_jax.compensate(apply, BATCHES)(PARAMS, mask)
    alone = ong_jax.apply_mask(PARAMS, mask)
    self.assertLess(error(updated), error(alone))
    self.assertEqual(jax.tree.structure(updated), jax.tree.structure(PARAMS))

  def test_counts_by_leaf_are_those_of_other_networks(self):
    mask = ong_jax.random(
      jax.random.key(0), sparsity=0.6, allocate=allocation.erk
    )(PARAMS)
    kept = sum(int(m.sum()) for m in jax.tree.leaves(mask))
    self.assertEqual(kept, NUM_WEIGHTS - round(0.6 * NUM_WEIGHTS))


def _only(params, mask):
  """Weights without what is not prunable, and their mask."""
  return selection.select(params), mask


if __name__ == '__main__':
  absltest.main()
