import pathlib

import flax.linen as nn
import numpy as np
from absl.testing import parameterized

from experiments import groups, latency, models
from ong_jax import costs
from ong_jax.costs import Costs, LayerCost

TINY = models.ResNet((1, 1), width=4, projection=True, num_classes=5)
TABLE = Costs(
  {'a': 4, 'b': 2},
  [
    LayerCost('a', 'b', np.array([[0, 0], [0, 3]])),
    LayerCost(None, 'b', np.array([[0, 2]])),
  ],
  rest=7,
)


class MeasureTest(parameterized.TestCase):
  def test_layers_are_found_with_their_inputs(self):
    found = [
      ('/'.join(path), module.features, shape)
      for path, module, shape in latency.find_layers(TINY, 2, (8, 8, 3))
    ]
    expected = [
      ('conv1', 4, (2, 8, 8, 3)),
      ('layer1_0/conv1', 4, (2, 8, 8, 4)),
      ('layer1_0/conv2', 4, (2, 8, 8, 4)),
      ('layer2_0/conv1', 8, (2, 8, 8, 4)),
      ('layer2_0/conv2', 8, (2, 4, 4, 8)),
      ('layer2_0/shortcut_conv', 8, (2, 8, 8, 4)),
      ('linear', 5, (2, 8)),
    ]
    self.assertCountEqual(found, expected)

  def test_measure(self):
    model = models.ResNet((1,), width=4, projection=False, num_classes=5)
    names = groups.names(model)['params']
    table = latency.measure(
      model,
      names,
      {'layer1_0': 1},
      batch_size=1,
      image_shape=(8, 8, 3),
      num_widths=2,
      repeats=1,
    )
    self.assertEqual(costs.num_blocks(table), {'layer1_0': 4})
    self.assertEqual(
      [(x.inputs, x.outputs, x.table.shape) for x in table.layers],
      [(None, 'layer1_0', (1, 5)), ('layer1_0', None, (5, 1))],
    )
    for layer in table.layers:
      entries = layer.table.ravel()
      self.assertEqual(entries[0], 0)
      self.assertGreater(entries[1], 0)
      self.assertTrue(np.all(np.diff(entries) >= 0))
    self.assertGreaterEqual(table.rest, 0)

  def test_equal_layers_are_timed_once(self):
    model = models.ResNet((2,), width=4, projection=False, num_classes=5)
    names = groups.names(model)['params']
    blocks = dict.fromkeys(groups.sizes(model), 2)
    layers = latency.find_layers(model, batch_size=2)
    plan = latency._plan(layers, names, blocks, num_widths=4)
    self.assertLen(plan, 4)
    cases = {case for timed in plan for case in timed.cases}
    widths = {(shape[-1], module.features) for module, shape in cases}
    self.assertEqual(widths, {(4, 2), (4, 4), (2, 4)})
    self.assertLen(cases, 3)

  def test_a_layer_of_two_groups_is_timed_at_all_pairs_of_widths(self):
    names = groups.names(TINY)['params']
    blocks = dict.fromkeys(groups.sizes(TINY), 2)
    layers = latency.find_layers(TINY, batch_size=2)
    plan = latency._plan(layers, names, blocks, num_widths=2)
    shortcut = next(p for p in plan if p.groups == ('stage1', 'stage2'))
    self.assertEqual(shortcut.knots, ([1, 2], [1, 4]))
    pairs = [(shape[-1], module.features) for module, shape in shortcut.cases]
    self.assertEqual(pairs, [(2, 2), (2, 8), (4, 2), (4, 8)])

  def test_bad_arguments(self):
    for kwargs in ({'num_widths': 1}, {'repeats': 0}):
      with self.assertRaisesRegex(ValueError, '^`num_widths` must be at least'):
        latency.measure(TINY, {}, {}, batch_size=1, **kwargs)

  def test_grouped_convolution(self):
    class Depthwise(nn.Module):
      @nn.compact
      def __call__(self, x, train):
        return nn.Conv(3, (3, 3), feature_group_count=3)(x)

    with self.assertRaisesRegex(
      ValueError, "'Conv_0' is a grouped convolution"
    ):
      latency.find_layers(Depthwise(), batch_size=1)

  def test_between_the_widths_that_were_timed(self):
    interpolate = latency._interpolate
    table = interpolate([2, 8, 4, 6], ('a', 'b'), ([1, 2], [1, 4]))
    expected = [[0, 0, 0, 0, 0], [0, 2, 4, 6, 8], [0, 4, 5, 6, 8]]
    np.testing.assert_array_equal(table, expected)
    table = interpolate([2, 8], (None, 'b'), ([1], [1, 4]))
    np.testing.assert_array_equal(table, [[0, 2, 4, 6, 8]])
    table = interpolate([3], ('a', None), ([1], [1]))  # A group of one block.
    np.testing.assert_array_equal(table, [[0], [3]])


class FileTest(parameterized.TestCase):
  def test_round_trip(self):
    path = pathlib.Path(self.create_tempdir()) / 'latency.json'
    latency.save(path, TABLE)
    loaded = latency.load(path)
    self.assertEqual(loaded._replace(layers=[]), TABLE._replace(layers=[]))
    for ours, theirs in zip(loaded.layers, TABLE.layers):
      self.assertEqual(ours[:2], theirs[:2])
      np.testing.assert_array_equal(ours.table, theirs.table)
    self.assertEqual([p.name for p in path.parent.iterdir()], ['latency.json'])

  @parameterized.named_parameters(
    ('json', '{"blocks": '),
    ('keys', '{"blocks": {}, "layers": []}'),
    ('layer', '{"blocks": {}, "layers": [{"inputs": null}], "rest": 1}'),
    ('blocks', '{"blocks": {"a": 1}, "layers": [], "rest": 1}'),
  )
  def test_not_costs(self, text):
    file = self.create_tempfile(content=text)
    with self.assertRaisesRegex(ValueError, 'does not hold costs'):
      latency.load(file.full_path)
