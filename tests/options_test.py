import functools

from absl.testing import absltest, parameterized

from experiments import options
from experiments.config import Config
from experiments.methods import METHODS
from experiments.plan import Run


def _recipe(
  run,
  *,
  interval: int = lambda run: run.steps_per_epoch,
  start: float = -5.0,
  recover: bool = False,
  allocate: str = 'pooled',
):
  del run, interval, start, recover, allocate


class OptionsTest(parameterized.TestCase):
  def test_text_is_read_by_its_type(self):
    given = options.split(
      ['interval=8', 'start=1e-3', 'recover=True', 'allocate=a=b']
    )
    self.assertEqual(
      options.check('m', _recipe, given),
      {'interval': 8, 'start': 0.001, 'recover': True, 'allocate': 'a=b'},
    )

  def test_values_are_taken_as_they_are(self):
    given = {'interval': 8, 'start': 1, 'recover': True, 'allocate': 'erk'}
    self.assertEqual(options.check('m', _recipe, given), given)

  def test_defaults_are_scaled_to_the_run(self):
    run = Run(Config(), steps_per_epoch=7)
    complete = options.complete(_recipe, {'start': 2.0}, run)
    self.assertEqual(
      complete,
      {'interval': 7, 'start': 2.0, 'recover': False, 'allocate': 'pooled'},
    )

  def test_a_variant_has_its_own_defaults(self):
    variant = functools.partial(_recipe, start=3.0)
    run = Run(Config(), steps_per_epoch=7)
    self.assertEqual(options.complete(variant, {}, run)['start'], 3.0)
    self.assertEqual(options.check('m', variant, {'start': '4'})['start'], 4.0)

  @parameterized.named_parameters(
    (
      'unknown',
      {'intervall': '8'},
      "`option` must be .* The nearest is 'interval'",
    ),
    ('no_integer', {'interval': '8.5'}, "interval must be an integer.*'8.5'"),
    ('bool_is_none', {'interval': True}, 'must be an integer, got True'),
    ('no_number', {'start': 'fast'}, "start must be a number, got 'fast'"),
    ('no_bool', {'recover': 'yes'}, "must be true or false, got 'yes'"),
    ('no_name', {'allocate': 3}, 'allocate must be a name, got 3'),
  )
  def test_what_does_not_fit_gets_a_sentence(self, given, sentence):
    with self.assertRaisesRegex(ValueError, sentence):
      options.check('m', _recipe, given)

  def test_no_options_where_there_are_none(self):
    with self.assertRaisesRegex(ValueError, r"`dense` has no options.*\['a'\]"):
      options.check('dense', METHODS['dense'].recipe, {'a': '1'})

  @parameterized.parameters('interval', '=8', '')
  def test_pairs_have_a_name_and_a_value(self, pair):
    with self.assertRaisesRegex(ValueError, '`option` must be name=value'):
      options.split([pair])

  def test_no_option_twice(self):
    with self.assertRaisesRegex(ValueError, "'a' is given twice"):
      options.split(['a=1', 'a=2'])

  @parameterized.named_parameters(zip(METHODS, METHODS))
  def test_every_option_of_every_method_has_a_type_and_a_default(self, name):
    recipe = METHODS[name].recipe
    run = Run(Config(method=name), steps_per_epoch=40)
    complete = options.complete(recipe, {}, run)
    described = [x.split('=')[0] for x in options.describe(recipe)]
    self.assertEqual(list(complete), described)
    text = {key: str(value) for key, value in complete.items()}
    self.assertEqual(options.check(name, recipe, text), complete)


if __name__ == '__main__':
  absltest.main()
