import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized
from flax.core import FrozenDict
from jax.sharding import PartitionSpec as P

from experiments import groups, models
from ong_jax import channels

PADDED = models.ResNet((2, 1), width=4, projection=False, num_classes=5)
PROJECTED = models.ResNet((2, 2), width=4, projection=True, num_classes=5)


def shapes(model):
  images = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)
  return jax.eval_shape(
    functools.partial(model.init, train=False), jax.random.key(0), images
  )


@functools.partial(jax.jit, static_argnums=0)
def outputs(model, variables, x):
  """Returns the logits in evaluation and in training."""
  training, _ = model.apply(variables, x, True, mutable=['batch_stats'])
  return model.apply(variables, x, False), training


def random_variables(model, rng):
  def draw(leaf):
    values = rng.uniform(0.1, 1, leaf.shape)  # No variance, scale or bias is 0.
    signs = rng.choice([-1, 1], leaf.shape) if leaf.ndim > 1 else 1
    return np.float32(values * signs)

  return jax.tree.map(draw, shapes(model))


def random_kept(model, rng):
  kept = {}
  for group, size in groups.sizes(model).items():
    kept[group] = rng.random(size) < 0.5
    kept[group][rng.integers(size)] = True
  return kept


class NamesTest(parameterized.TestCase):
  @parameterized.parameters('resnet8', 'resnet20', 'resnet18', 'resnet34')
  def test_fit_every_leaf(self, name):
    model = models.create(name, 10)
    variables, names = shapes(model), groups.names(model)
    self.assertEqual(jax.tree.structure(names), jax.tree.structure(variables))
    expected = groups.sizes(model)
    self.assertEqual(channels.sizes(names, variables), expected)
    self.assertEqual(
      channels.sizes(names['batch_stats'], variables['batch_stats']), expected
    )

  def test_sizes(self):
    hidden = {'layer1_0': 4, 'layer1_1': 4, 'layer2_0': 8}
    self.assertEqual(groups.sizes(PADDED), hidden)
    streams = {'stage1': 4, 'stage2': 8}
    self.assertEqual(
      groups.sizes(PROJECTED), hidden | streams | {'layer2_1': 8}
    )

  def test_only_hidden_channels_where_shortcuts_are_padded(self):
    names = groups.names(PADDED)
    stem = names['params']['conv1']['kernel']
    self.assertEqual(stem, P(None, None, None, None))
    block = names['params']['layer1_1']
    self.assertEqual(block['conv1']['kernel'], P(None, None, None, 'layer1_1'))
    self.assertEqual(
      block['bn1'], {'scale': P('layer1_1')} | {'bias': P('layer1_1')}
    )
    self.assertEqual(block['conv2']['kernel'], P(None, None, 'layer1_1', None))
    self.assertEqual(block['bn2'], {'scale': P(None), 'bias': P(None)})

  def test_streams_are_groups_where_shortcuts_are_projections(self):
    names = groups.names(PROJECTED)
    params, stats = names['params'], names['batch_stats']
    expected = {
      'conv1': P(None, None, None, 'stage1'),
      'layer1_1/conv1': P(None, None, 'stage1', 'layer1_1'),
      'layer2_0/conv1': P(None, None, 'stage1', 'layer2_0'),
      'layer2_0/conv2': P(None, None, 'layer2_0', 'stage2'),
      'layer2_0/shortcut_conv': P(None, None, 'stage1', 'stage2'),
      'layer2_1/conv1': P(None, None, 'stage2', 'layer2_1'),
      'linear': P('stage2', None),
    }
    for path, spec in expected.items():
      node = functools.reduce(lambda d, k: d[k], path.split('/'), params)
      self.assertEqual(node['kernel'], spec, path)
    self.assertEqual(params['linear']['bias'], P(None))
    self.assertEqual(stats['layer2_0']['shortcut_bn']['var'], P('stage2'))


class WidthsTest(parameterized.TestCase):
  @parameterized.named_parameters(
    ('padded', PADDED),
    ('projected', PROJECTED),
    ('resnet8', models.create('resnet8', 10)),
    ('padded_without_a_branch', PADDED, 'layer2_0'),
    ('projected_without_a_branch', PROJECTED, 'layer2_0'),
  )
  def test_a_masked_network_equals_the_small_one(self, model, empty=None):
    rng = np.random.default_rng(0)
    variables = random_variables(model, rng)
    kept, names = random_kept(model, rng), groups.names(model)
    if empty:
      kept[empty] = np.zeros_like(kept[empty])
    mask = channels.expand(names['params'], kept, variables['params'])
    masked = variables | {
      'params': jax.tree.map(
        lambda p, m: p if m is None else np.where(m, p, 0),
        variables['params'],
        mask,
      )
    }
    small = model.clone(widths=FrozenDict(channels.widths(kept)))
    shrunk = channels.shrink(variables, names, kept)
    if not empty:  # Else there are arrays of size 0, for no layer.
      chex.assert_trees_all_equal_shapes_and_dtypes(shapes(small), shrunk)
    x = rng.normal(size=(4, 8, 8, 3)).astype('f4')
    expected = outputs(model, masked, x)
    largest = max(abs(logits).max() for logits in expected)
    for ours, theirs in zip(outputs(small, shrunk, x), expected):
      np.testing.assert_allclose(ours / largest, theirs / largest, atol=1e-5)

  @parameterized.named_parameters(
    ('name', {'layer1_2': 4}, "`widths` has 4 channels for 'layer1_2'"),
    ('stream', {'stage1': 4}, "`widths` has 4 channels for 'stage1'"),
    ('negative', {'layer1_0': -1}, "`widths` has -1 channels for 'layer1_0'"),
    ('wider', {'layer1_0': 5}, "`widths` has 5 channels for 'layer1_0'"),
  )
  def test_bad_widths(self, widths, message):
    with self.assertRaisesRegex(ValueError, message):
      shapes(PADDED.clone(widths=FrozenDict(widths)))

  def test_a_stream_cannot_go(self):
    with self.assertRaisesRegex(ValueError, "0 channels for 'stage2'"):
      shapes(PROJECTED.clone(widths=FrozenDict({'stage2': 0})))
