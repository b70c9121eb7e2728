import os

import numpy as np
from absl.testing import absltest

from experiments import costing, latency, models, operations
from ong_jax import costs

_MODEL = models.create('resnet8', num_classes=10)
_LEAST = {'layer1_0': 0, 'layer2_0': 0, 'layer3_0': 0}


def _dense(table):
  return int(costs.total(table, costs.num_blocks(table)))


class CostingTest(absltest.TestCase):
  def test_counts_are_those_of_the_network(self):
    make = costing.make_costs(_MODEL, batch_size=1, workdir=None)
    self.assertEqual(_dense(make('weights')), 74_800)
    macs = operations.macs(_MODEL)
    self.assertEqual(_dense(make('macs')), sum(macs.values()))
    for kind in ('weights', 'macs'):
      table = make(kind)
      self.assertEqual(table.least, _LEAST)
      empty = int(costs.total(table, table.least))
      self.assertEqual(empty, table.rest)

  def test_streams_of_projections_cannot_go(self):
    model = models.ResNet((1, 1), width=8, projection=True, num_classes=5)
    table = costing.make_costs(model, 1, None)('weights')
    self.assertEqual(
      costs.least_blocks(table),
      {'stage1': 1, 'layer1_0': 0, 'stage2': 1, 'layer2_0': 0},
    )

  def test_latency_is_measured_once_for_a_workdir(self):
    path = self.create_tempdir().full_path
    kept = costs.Costs(
      {'a': 8}, [costs.LayerCost(None, 'a', np.array([[0, 5]]))], 1, {'a': 0}
    )
    latency.save(os.path.join(path, 'latency.json'), kept)
    found = costing.make_costs(_MODEL, 1, path)('latency')
    self.assertEqual(
      (found.blocks, found.rest, found.least), ({'a': 8}, 1, {'a': 0})
    )


if __name__ == '__main__':
  absltest.main()
