import dataclasses
from unittest import mock

from absl import flags
from absl.testing import absltest, flagsaver, parameterized

from experiments import cifar, commands, data, options, run
from experiments.config import Config
from experiments.methods import METHODS
from experiments.plan import Run


class CommandsTest(parameterized.TestCase):
  @parameterized.parameters(
    {},
    {'method': 'snip', 'sparsity': 0.5, 'options': {'batches': 3}},
    {'method': 'gmp', 'options': {'recover': True}, 'augment': False},
    {'init_from': 'a b/c.npz', 'original_epochs': 3.5, 'seed': 2**32 - 1},
    {'warmup_fraction': 0.0, 'learning_rate': 1e-7, 'dtype': 'bfloat16'},
  )
  def test_flags_make_the_config_that_they_are_of(self, **fields):
    config = Config(**fields)
    with flagsaver.flagsaver(), mock.patch.object(run, 'run') as found:
      flags.FLAGS(['cifar', *commands.flags(config)])
      cifar.main([])
    made = found.call_args.args[0]
    recipe = METHODS[config.method].recipe
    made = dataclasses.replace(
      made, options=options.check(config.method, recipe, made.options)
    )
    self.assertEqual(made, config)

  def test_every_field_has_a_flag_or_is_found(self):
    for field in dataclasses.fields(Config):
      name = 'option' if field.name == 'options' else field.name
      self.assertTrue(
        name in flags.FLAGS or name in ('image_mean', 'image_std'), name
      )

  def test_what_a_run_adds_is_not_essential(self):
    for name, entry in METHODS.items():
      given = Config(method=name, dataset='synthetic', dense_epochs=2.0)
      num_images, _ = data.SIZES['synthetic']
      plan = Run(given, num_images // given.batch_size)
      ran = dataclasses.replace(
        given,
        options=options.complete(entry.recipe, {}, plan),
        image_mean=(0.1, 0.2, 0.3),
        image_std=(1.0, 1.0, 1.0),
        original_epochs=2.0,
      )
      self.assertEqual(commands.essential(ran), given)


if __name__ == '__main__':
  absltest.main()
