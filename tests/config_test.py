import dataclasses

from absl.testing import absltest, parameterized

from experiments import config


class CheckTest(parameterized.TestCase):
  def check(self, **fields):
    choices = {'method': ['ong', 'magnitude'], 'model': ['resnet56']}
    config.check(config.Config(**fields), choices)

  def test_accepts_the_defaults(self):
    self.check()

  @parameterized.named_parameters(
    ('method', 'method', 'magnitud', "The nearest is 'magnitude'"),
    ('model', 'model', 'resnet57', "The nearest is 'resnet56'"),
    ('schedule', 'schedule', 'step', 'one of linear, cosine'),
    ('nonfinite', 'nonfinite', 'ski', "The nearest is 'skip'"),
    ('dtype', 'dtype', 'float16', 'one of float32, bfloat16'),
    ('sparsity', 'sparsity', 1.0, r'\[0, 1\), got 1.0'),
    ('negative_sparsity', 'sparsity', -0.1, r'\[0, 1\), got -0.1'),
    ('nan_sparsity', 'sparsity', float('nan'), r'\[0, 1\), got nan'),
    ('epochs', 'epochs', -1, r'\[0, inf\), got -1'),
    ('batch_size', 'batch_size', 0, r'\[1, 2147483648\), got 0'),
    ('rate', 'learning_rate', float('inf'), r'\[0, inf\), got inf'),
    ('seed', 'seed', -1, 'got -1'),
    ('model_parallel', 'model_parallel', 0, 'got 0'),
  )
  def test_names_the_field(self, field, value, words):
    with self.assertRaisesRegex(ValueError, f'`{field}` must .*{words}'):
      self.check(**{field: value})

  @parameterized.named_parameters(
    ('text', 'epochs', '3', 'a number, got .3.'),
    ('nothing', 'learning_rate', None, 'a number, got None'),
    ('list', 'sparsity', [0.9], r'a number, got \[0.9\]'),
    ('truth', 'sparsity', True, 'a number, got True'),
    ('fraction', 'seed', 1.5, 'an integer, got 1.5'),
    ('batches', 'batch_size', 128.0, 'an integer, got 128.0'),
  )
  def test_names_the_field_of_another_type(self, field, value, words):
    with self.assertRaisesRegex(TypeError, f'`{field}` must be {words}'):
      self.check(**{field: value})

  @parameterized.named_parameters(
    ('two', 'image_mean', (0.5, 0.5)),
    ('zero', 'image_std', (1.0, 0.0, 1.0)),
    ('nan', 'image_mean', (float('nan'),) * 3),
    ('text', 'image_std', 'abc'),
  )
  def test_names_a_normalization_that_is_none(self, field, value):
    with self.assertRaisesRegex(ValueError, f'`{field}` must have three'):
      self.check(**{field: value})

  def test_cannot_be_changed(self):
    with self.assertRaises(dataclasses.FrozenInstanceError):
      config.Config().seed = 1


if __name__ == '__main__':
  absltest.main()
