import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl.testing import absltest, parameterized

import ong_jax
from experiments import calibration, inputs
from experiments.config import Config
from experiments.plan import Run
from experiments.recipes import exploring
from ong_jax.costs import Costs, LayerCost


class Small(nn.Module):
  num_classes: int = 3

  @nn.compact
  def __call__(self, x, train):
    x = nn.Dense(8, name='hidden')(x.reshape(len(x), -1))
    x = nn.BatchNorm(use_running_average=not train)(x)
    return nn.Dense(self.num_classes, name='linear')(nn.relu(x))


def _run(**fields):
  config = Config(
    method='iee',
    batch_size=4,
    image_mean=(0.5,) * 3,
    image_std=(0.25,) * 3,
    **({'sparsity': 0.75, 'epochs': 10} | fields),
  )
  rng = np.random.default_rng(0)
  data = inputs.Images(
    jnp.asarray(rng.integers(0, 256, (48, 2, 2, 3)), jnp.uint8),
    jnp.asarray(rng.integers(0, 3, 48), jnp.int32),
  )
  return Run(config, 10, calibration.make(config, Small(), data))


def _params():
  images = jnp.zeros((1, 2, 2, 3))
  return Small().init(jax.random.key(0), images, train=False)['params']


def _first(run, recipe=exploring.iee, **options):
  defaults = {'first': 'criterion', 'interval': 2}
  return recipe(run, **(defaults | options))[-1].prune(_params(), None)[1]


class RecipeTest(parameterized.TestCase):
  def test_short_runs_have_ten_cycles_and_long_ones_the_papers(self):
    found = [
      exploring._stage(_run(epochs=epochs)) for epochs in (0.1, 3.2, 10, 10000)
    ]
    self.assertEqual(found, [1, 1, 2, 150])
    fractions = exploring._Cycles(_run(), 2, 0.3, 0.75).fractions()
    self.assertLen(fractions, 12)
    self.assertAlmostEqual(fractions[-1], 0.003)

  def test_cycles_end_in_time(self):
    (segment,) = exploring.iee(_run(), first='random', interval=5)
    self.assertEqual(segment.steps, 100)
    method = segment.method(_first(_run()))
    tx = method.transform(optax.sgd(1.0))
    state = tx.init(_params())
    explores = [
      not method.tracks_statistics(state._replace(count=jnp.array(step)))
      for step in range(100)
    ]
    self.assertEqual(np.flatnonzero(explores).max(), 74)
    self.assertEqual(sum(explores), 25)

  @parameterized.parameters(*exploring.CRITERIA)
  def test_the_first_mask_is_the_best_by_its_criterion(self, criterion):
    mask = _first(_run(), criterion=criterion, start='uniform')
    counts = {
      layer: int(mask[layer]['kernel'].sum()) for layer in ('hidden', 'linear')
    }
    self.assertEqual(counts, {'hidden': 24, 'linear': 6})
    if criterion == 'magnitude':
      kernel = jnp.abs(_params()['hidden']['kernel'])
      kept = mask['hidden']['kernel']
      self.assertGreater(kernel[kept].min(), kernel[~kept].max())

  def test_taylor_looks_at_ten_batches(self):
    run, seen = _run(), []

    def watched(num_batches):
      seen.extend(run.calibration.batches(num_batches))
      return seen

    own = run.calibration._replace(batches=watched)
    mask = _first(run._replace(calibration=own), criterion='taylor')
    self.assertLen(seen, 10)
    loss = run.calibration.loss
    seen = [jax.grad(loss)(_params(), batch) for batch in seen]
    first, second = (g['linear']['kernel'] for g in seen[:2])
    self.assertTrue((first != second).any())
    kernel = _params()['linear']['kernel']
    score = sum(jnp.abs(kernel * g['linear']['kernel']) for g in seen)
    kept = mask['linear']['kernel']
    self.assertGreater(score[kept].min(), score[~kept].max())
    with self.assertRaisesRegex(ValueError, '13 batches .* 48 training images'):
      run.calibration.batches(13)

  def test_without_moves_it_is_static(self):
    (segment,) = exploring.iee(_run(), first='random', interval=2, fraction=0.0)
    self.assertIs(segment.method, ong_jax.static)

  def test_n_of_m_is_what_the_sparsity_says(self):
    mask = _first(_run(), exploring.iee_nm)['hidden']['kernel']
    np.testing.assert_array_equal(mask.reshape(3, 4, 8).sum(1), 1)
    with self.assertRaisesRegex(
      ValueError, '`sparsity`=0.9 keeps .* Take one of 0.25, 0.5, 0.75'
    ):
      _first(_run(sparsity=0.9), exploring.iee_nm)

  @parameterized.parameters((0.3, 10, 7), (0.2, 5, 4), (0.666667, 3, 1))
  def test_n_of_m_forgives_rounding(self, sparsity, m, n):
    (segment,) = exploring.iee_nm(
      _run(sparsity=sparsity), m=m, first='random', interval=2
    )
    _, mask = segment.prune({'kernel': jnp.zeros((m, 3))}, None)
    np.testing.assert_array_equal(mask['kernel'].sum(0), n)

  def test_channels_that_cannot_be_paid_for_are_refused_at_once(self):
    table = LayerCost(None, 'a', np.array([[0, 5, 10]]))
    run = _run(sparsity=0.3)._replace(
      costs=lambda kind: Costs({'a': 1}, [table], rest=1)
    )
    with self.assertRaisesRegex(
      ValueError, '`sparsity`=0.3 is too high .* `fraction`=0.3 .* at least 6'
    ):
      exploring.iee_channels(run, first='random', interval=2)

  @parameterized.named_parameters(
    ('criterion', {'criterion': 'tailor'}, "nearest is 'taylor'"),
    ('first', {'first': 'rand'}, "nearest is 'random'"),
    ('interval', {'interval': 26}, '`interval`=26 must be at most a third'),
    ('fraction', {'fraction': 1.0}, r'`fraction` must lie in \[0, 1\)'),
  )
  def test_refuses(self, options, message):
    with self.assertRaisesRegex(ValueError, message):
      _first(_run(), **options)


if __name__ == '__main__':
  absltest.main()
