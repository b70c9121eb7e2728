import flax.linen as nn
from absl.testing import absltest

from experiments import models, operations

TINY = models.ResNet(num_blocks=(1, 1), width=4, projection=True, num_classes=5)


class MacsTest(absltest.TestCase):
  def test_of_each_layer(self):
    expected = {  # Weights times positions; stride 2 makes 7 x 9 of 13 x 17.
      'conv1/kernel': 9 * 3 * 4 * 13 * 17,
      'layer1_0/conv1/kernel': 9 * 4 * 4 * 13 * 17,
      'layer1_0/conv2/kernel': 9 * 4 * 4 * 13 * 17,
      'layer2_0/conv1/kernel': 9 * 4 * 8 * 7 * 9,
      'layer2_0/conv2/kernel': 9 * 8 * 8 * 7 * 9,
      'layer2_0/shortcut_conv/kernel': 4 * 8 * 7 * 9,
      'linear/kernel': 8 * 5,
    }
    self.assertEqual(operations.macs(TINY, (13, 17, 3)), expected)
    positions = operations.positions(TINY, (13, 17, 3))
    self.assertEqual(positions['layer2_0/conv1/kernel'], 7 * 9)

  def test_of_a_layer_used_twice(self):
    class Twice(nn.Module):
      @nn.compact
      def __call__(self, x, train):
        dense = nn.Dense(3)
        return dense(dense(x))

    self.assertEqual(
      operations.macs(Twice(), (4, 5, 3)), {'Dense_0/kernel': 360}
    )


if __name__ == '__main__':
  absltest.main()
