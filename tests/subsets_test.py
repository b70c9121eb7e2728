import numpy as np
from absl.testing import absltest, parameterized

from experiments import data, run, subsets
from experiments.config import Config

# Uneven on purpose: 7, 5 and 4 of three classes.
_LABELS = np.array([0, 1, 0, 2, 1, 0, 0, 2, 1, 0, 2, 1, 0, 0, 1, 2], np.int32)


def made_up():
  images = np.arange(16, dtype=np.uint8).reshape(16, 1, 1, 1)
  test = np.array([99], np.uint8).reshape(1, 1, 1, 1)
  return data.Dataset(
    images, _LABELS, test, np.array([1]), 3, (0.5,) * 3, (0.5,) * 3
  )


class SubsetsTest(parameterized.TestCase):
  def taken(self, **fields):
    part = subsets.take(made_up(), Config(**fields))
    for images, labels in (part[:2], part[2:4]):
      ids = images.ravel().tolist()
      if ids != [99]:
        np.testing.assert_array_equal(labels, _LABELS[ids])
    return [part[i].ravel().tolist() for i in (0, 2)]

  def test_all_is_what_there_is(self):
    self.assertEqual(self.taken(), [list(range(16)), [99]])

  def test_the_first_of_every_class_in_their_order(self):
    self.assertEqual(self.taken(train_images=6), [[0, 1, 2, 3, 4, 7], [99]])

  def test_the_last_of_every_class_are_held_out(self):
    trained, held_out = self.taken(validation_images=6)
    self.assertEqual(held_out, [10, 11, 12, 13, 14, 15])
    self.assertEqual(trained, list(range(10)))
    self.assertEqual(
      self.taken(train_images=3, validation_images=6), [[0, 1, 3], held_out]
    )

  def test_nobody_is_in_both(self):
    trained, held_out = self.taken(train_images=6, validation_images=6)
    self.assertEmpty({*trained} & {*held_out})

  @parameterized.parameters(
    ({'train_images': 101}, '`train_images`=101 must be a multiple of the 10'),
    ({'validation_images': 5}, '`validation_images`=5 must be a multiple'),
    ({'train_images': 5010}, 'are more than the 5000 training images'),
    ({'validation_images': 5000}, 'are more than'),
    ({'train_images': 2500, 'validation_images': 2510}, 'are more than'),
    ({'train_images': -10}, '`train_images` must lie in'),
    ({'train_images': 100}, '`batch_size`=128 must not exceed the 100'),
  )
  def test_what_there_is_not_is_refused_before_anything_is_loaded(
    self, fields, message
  ):
    with self.assertRaisesRegex(ValueError, message):
      run.checked(Config(dataset='cifar10_mini', **fields))

  @parameterized.parameters(
    ({}, False),
    ({'validation_images': 500}, True),
    ({'validation_images': 490}, False),
    ({'train_images': 4500}, True),
    ({'train_images': 4510}, False),
    ({'dataset': 'cifar100'}, True),
  )
  def test_held_out_images_must_be_new_to_a_network(self, before, fine):
    config = Config(
      dataset='cifar10_mini', validation_images=500, init_from='runs/dense'
    )
    before = vars(Config(dataset='cifar10_mini')) | before
    if fine:
      subsets.check_unseen(config, before)
    else:
      with self.assertRaisesRegex(ValueError, "'runs/dense' was trained on"):
        subsets.check_unseen(config, before)

  @parameterized.parameters(
    ({}, 5000),
    ({'train_images': 1000}, 1000),
    ({'validation_images': 500}, 4500),
    ({'train_images': 1000, 'validation_images': 500}, 1000),
  )
  def test_as_many_as_it_says(self, fields, wanted):
    config = Config(dataset='cifar10_mini', **fields)
    subsets.check(config)
    part = subsets.take(data.load('cifar10_mini'), config)
    self.assertLen(part.train_labels, wanted)
    self.assertEqual(subsets.num_train(config), wanted)
    counts = np.bincount(part.train_labels)
    self.assertEqual(counts.min(), counts.max())


if __name__ == '__main__':
  absltest.main()
