"""What bad input gets: a sentence with the argument, its value, the way out."""

from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import flags
from absl.testing import absltest, flagsaver, parameterized

import ong_jax
from experiments import cifar, data
from ong_jax import allocation, nmf, patterns, scores

KEY, NAN = jax.random.key(0), float('nan')
PARAMS = {'fc': {'kernel': jnp.arange(24.0).reshape(4, 6), 'bias': jnp.ones(6)}}
MASK = {'fc': {'kernel': PARAMS['fc']['kernel'] > 8, 'bias': None}}
SGD = optax.sgd(0.1)
TX = ong_jax.masked_transform(SGD, MASK)
HALF = patterns.unstructured(0.5)
SCORES = {'a': jnp.ones(3), 'b': jnp.ones(2)}


def kernel(leaf):
  return {'fc': {'kernel': leaf}}


def prune(params=None, **options):
  params = PARAMS if params is None else params
  return ong_jax.magnitude(**{'sparsity': 0.5} | options)(params)


def one_shot(score=scores.magnitude, *args, **options):
  return ong_jax.one_shot(score, *args, **options)(PARAMS)


def ong(key=KEY, **options):
  return ong_jax.ong(key, sparsity=0.5, **options)(PARAMS)


def loss(params, batch):
  return jnp.sum(params['fc']['kernel'] * batch)


def apply(params, x):
  return x @ params['fc']['kernel']


def begin(method):
  return method.transform(SGD).init(PARAMS)


LIBRARY = {  # Name: call, and what its sentence has.
  # How much.
  'sparsity text': (
    lambda: prune(sparsity='0.9'),
    r"`sparsity` must be a number in \[0, 1\), .* got '0.9'",
  ),
  'sparsity none': (lambda: one_shot(), 'One of `sparsity` and `pattern`'),
  'sparsity list': (lambda: prune(sparsity=[0.9]), r'`sparsity`.*got \[0.9\]'),
  'sparsity array': (
    lambda: prune(sparsity=np.array([0.9])),
    r'`sparsity` .* got array\(\[0.9\]\)',
  ),
  'sparsity negative': (lambda: prune(sparsity=-0.1), '`sparsity`.*got -0.1'),
  'sparsity one': (lambda: prune(sparsity=1), '`sparsity` .* got 1'),
  'sparsity NaN': (lambda: prune(sparsity=NAN), '`sparsity` .* got nan'),
  'sparsity infinite': (lambda: prune(sparsity=np.inf), '`sparsity`.*got inf'),
  'sparsity huge': (lambda: prune(sparsity=10**400), '`sparsity` .* got 1000'),
  'sparsity complex': (lambda: prune(sparsity=0.5j), '`sparsity`.*got 0.5j'),
  'sparsity true': (lambda: prune(sparsity=True), '`sparsity` .* got True'),
  'too sparse': (
    lambda: prune(sparsity=0.99),
    '`sparsity`=0.99 keeps 0 of 24 weights, .* it can be 0.958',
  ),
  # Of what.
  'params of ints': (
    lambda: prune(kernel(jnp.ones((2, 2), int))),
    "Leaf 'fc/kernel' .* dtype is int32; .* Pass a `prunable`",
  ),
  'params complex': (
    lambda: prune(kernel(jnp.ones((2, 2), complex))),
    "Leaf 'fc/kernel' .* dtype is complex64",
  ),
  'params bool': (
    lambda: prune(kernel(jnp.ones((2, 2), bool))),
    "Leaf 'fc/kernel' .* dtype is bool",
  ),
  'params text': (
    lambda: prune(kernel(np.array([['a', 'b']]))),
    "Leaf 'fc/kernel' .* dtype is <U1",
  ),
  'params objects': (
    lambda: prune(kernel(np.ones((2, 2), object))),
    "Leaf 'fc/kernel' .* dtype is object",
  ),
  'params of 8 bits': (
    lambda: prune(kernel(jnp.ones((4, 4), jnp.float8_e4m3fn))),
    "Leaf 'fc/kernel' .* dtype is float8_e4m3fn; .* at least 16 bits",
  ),
  'params of keys': (
    lambda: prune(kernel(jax.random.split(KEY, 4).reshape(2, 2))),
    "Leaf 'fc/kernel' .* dtype is key",
  ),
  'params NaN': (
    lambda: prune(kernel(jnp.full((2, 2), NAN))),
    "Leaf 'fc/kernel' has weights that are not finite",
  ),
  'params empty': (
    lambda: prune(kernel(jnp.ones((0, 4)))),
    r"Leaf 'fc/kernel' .* no weights: its shape is \(0, 4\)",
  ),
  'params of shapes': (
    lambda: prune(kernel(jax.ShapeDtypeStruct((2, 2), jnp.float32))),
    "Leaf 'fc/kernel' has a shape but no values",
  ),
  'params without kernels': (
    lambda: prune({'bias': jnp.ones(3)}),
    r"No leaf is prunable among \['bias'\]. Pass another `prunable`",
  ),
  # By what.
  'score name': (
    lambda: one_shot('magnitude', 0.5),
    "`score` must be a function, such as `scores.magnitude`; got 'magnitude'",
  ),
  'score of another tree': (
    lambda: one_shot(lambda w: {'x': jnp.ones(3)}, 0.5),
    "`score` must return scores shaped as the weights. Leaf '(x|fc/kernel)'",
  ),
  'score of another shape': (
    lambda: one_shot(lambda w: kernel(jnp.ones(6)), 0.5),
    r"Leaf 'fc/kernel' has shape \(4, 6\), and scores of shape \(6,\)",
  ),
  'score of another shape in a pattern': (
    lambda: one_shot(
      lambda w: jax.tree.map(lambda x: x.sum(0), w),
      pattern=patterns.n_of_m(2, 4),
    ),
    r"Mask leaf 'fc/kernel' has shape \(6,\), but .* \(4, 6\)",
  ),
  'score NaN': (
    lambda: one_shot(
      lambda w: jax.tree.map(jnp.log, jax.tree.map(jnp.negative, w)), 0.5
    ),
    "Leaf 'fc/kernel' has 23 NaN scores",
  ),
  'allocation name': (
    lambda: prune(allocate='erk'),
    "`allocate` must be a function, .* got 'erk'",
  ),
  'allocation of a float': (
    lambda: prune(allocate=lambda s, p: 0.5),
    '`allocate` must return one int, .* got 0.5',
  ),
  'allocation of nothing': (
    lambda: prune(allocate=lambda s, p: None),
    '`allocate` must return one int, .* got None',
  ),
  'allocation of too much': (
    lambda: prune(allocate=lambda s, p: 1000),
    r"`counts` of 'all' must lie in \[0, 24\], .* got 1000",
  ),
  'own sparsity text': (
    lambda: prune(allocate=allocation.with_own(lambda p, x: '0.5')),
    "`sparsity` must be a number .* got '0.5'",
  ),
  'prunable tree': (
    lambda: prune(prunable={'fc': True}),
    "`prunable` must be a function, .* got {'fc': True}",
  ),
  'pattern text': (
    lambda: one_shot(pattern='2:4'),
    "`pattern` must be one of `ong_jax.patterns`, .* got '2:4'",
  ),
  'pattern and sparsity': (
    lambda: one_shot(scores.magnitude, 0.5, pattern=HALF),
    'One of `sparsity` and `pattern` must be given; got both',
  ),
  'n above m': (lambda: patterns.n_of_m(3, 2), '`n`=3 must be below `m`=2'),
  'n of nothing': (lambda: patterns.n_of_m(0, 4), '`n` must be .* got 0'),
  'n text': (lambda: patterns.n_of_m('2', 4), "`n` must be .* got '2'"),
  'm a float': (lambda: patterns.n_of_m(2, 4.0), '`m` must be .* got 4.0'),
  'block of one number': (
    lambda: patterns.blocks(4, 0.5),
    r'`shape` of a block must be a tuple, such as \(4, 4\); got 4',
  ),
  'block of nothing': (
    lambda: patterns.blocks((0, 4), 0.5),
    r'`shape\[0\]` must be an integer of at least 1; got 0',
  ),
  'kind text': (
    lambda: one_shot(pattern=patterns.mixed(lambda p, x: '2:4', 0.5)),
    "`kind` of leaf 'fc/kernel' must be .* got '2:4'",
  ),
  'floor text': (
    lambda: patterns.unstructured(0.5, floor='x'),
    "`floor` must be a number; got 'x'",
  ),
  # Keys.
  'key int': (
    lambda: ong_jax.random(0, sparsity=0.5),
    r'`key` must be one key, such as `jax.random.key\(0\)`; got 0',
  ),
  'key none': (lambda: ong(None), '`key` must be one key, .* got None'),
  'keys': (
    lambda: ong(jax.random.split(KEY)),
    r'`key` must be one key, .* got an array key<fry>\[2\]',
  ),
  'key of floats': (lambda: ong(jnp.zeros(2)), r'`key` .* float32\[2\]'),
  'key generator': (
    lambda: ong_jax.set_(
      np.random.default_rng(0), HALF, interval=1, fractions=[0.3]
    ),
    '`key` must be one key, .* got Generator',
  ),
  # The factorization.
  'rank zero': (lambda: ong(rank=0), '`rank` must be .* got 0'),
  'rank text': (lambda: ong(rank='7'), "`rank` must be .* got '7'"),
  'rank function of text': (
    lambda: ong(rank=lambda v: 'a'),
    r"`rank` must be .* got 'a' for a matrix of shape \(4, 6\)",
  ),
  'rank function of zero': (
    lambda: ong(rank=lambda v: 0),
    '`rank` must be .* got 0 for a matrix',
  ),
  'sweeps': (lambda: ong(max_sweeps=0), '`max_sweeps` must be .* got 0'),
  'sweeps huge': (lambda: ong(max_sweeps=10**30), r'`max_sweeps` .* 2\*\*31'),
  'tolerance text': (lambda: ong(tol='a'), "`tol` must be a number; got 'a'"),
  'tolerance': (lambda: ong(tol=1.0), r'`tol` must lie in \[0, 1\); got 1.0'),
  'saliency name': (
    lambda: ong(saliency='residual'),
    "`saliency` must be a function, .* got 'residual'",
  ),
  'solver name': (
    lambda: ong(solver='hals'),
    "`solver` must be one of `ong_jax.nmf`, such as `nmf.hals`; got 'hals'",
  ),
  'start name': (lambda: ong(start='nndsvd'), '`start` must be a function'),
  'option': (
    lambda: ong(sweeps=3),
    '`sweeps` is no option here; there are solver, start, max_sweeps',
  ),
  'matrix list': (
    lambda: nmf.nmf(KEY, [[1.0, 2.0]], 1),
    r'`v` must be an array; got \[\[1.0, 2.0\]\]',
  ),
  'matrix negative': (
    lambda: nmf.nmf(KEY, -jnp.ones((2, 2)), 1),
    '`v` must be finite and non-negative; its lowest entry is -1.0',
  ),
  'one score to average': (
    lambda: scores.average(scores.magnitude),
    r'`scores` must be a list of scores; got one. Pass `\[it\]`',
  ),
  'floor of filters': (
    lambda: scores.at_least(scores.magnitude, -1),
    '`num_weights` must be .* got -1',
  ),
  # Masks.
  'mask missing': (
    lambda: ong_jax.apply_mask(PARAMS, None),
    'The mask must have the tree structure of the params',
  ),
  'mask of another tree': (
    lambda: ong_jax.apply_mask(PARAMS, {'fc': {'kernel': MASK}}),
    r"only the params have \['fc/bias'",
  ),
  'mask of another shape': (
    lambda: ong_jax.apply_mask(
      PARAMS['fc'], {'kernel': np.ones(6, bool), 'bias': None}
    ),
    r"Mask leaf 'kernel' has shape \(6,\), but .* shape \(4, 6\)",
  ),
  'mask of floats': (
    lambda: (
      TX.init(PARAMS) and ong_jax.masked_transform(SGD, PARAMS).init(PARAMS)
    ),
    "Mask leaf 'fc/bias' must be bool, True = kept; got float32",
  ),
  'mask of truths': (
    lambda: ong_jax.apply_mask({'a': jnp.ones(2)}, {'a': True}),
    "Mask leaf 'a' must be a bool array; got True",
  ),
  'sparsity of floats': (
    lambda: ong_jax.sparsity({'a': jnp.ones(2)}),
    "Mask leaf 'a' must be bool, True = kept; got float32",
  ),
  'summary of a packed mask': (
    lambda: ong_jax.summarize(ong_jax.pack(MASK)),
    "Mask leaf 'fc/kernel' must be bool, .* got uint8",
  ),
  'sparsity of a pruner': (
    lambda: ong_jax.sparsity(ong_jax.magnitude(sparsity=0.5)),
    "Mask leaf '' must be bool, True = kept; got <function",
  ),
  'packed floats': (
    lambda: ong_jax.pack(PARAMS),
    "Mask leaf 'fc/bias' must be bool, .* got float32",
  ),
  'unpacked mask': (
    lambda: ong_jax.unpack(MASK, PARAMS),
    '`bits` must be what `pack` returned',
  ),
  'bits of another tree': (
    lambda: ong_jax.unpack({}, PARAMS),
    '`bits` must have the tree structure of the params',
  ),
  'new mask of another shape': (
    lambda: ong_jax.remask(
      TX.init(PARAMS), {'fc': {'kernel': np.ones(6, bool), 'bias': None}}
    ),
    r"Mask leaf 'fc/kernel' has shape \(6,\)",
  ),
  # Transformations.
  'inner none': (
    lambda: ong_jax.masked_transform(None, MASK),
    '`inner` must be a transformation, .* got None',
  ),
  'inner not called': (
    lambda: ong_jax.masked_transform(optax.adam, MASK),
    r'`inner` must be a transformation, such as `optax.sgd\(0.1\)`',
  ),
  'inner and mask swapped': (
    lambda: ong_jax.masked_transform(MASK, SGD),
    '`inner` must be a transformation',
  ),
  'no params': (
    lambda: TX.update(PARAMS, TX.init(PARAMS)),
    r'`update` needs the parameters: call `tx.update\(updates, state, params',
  ),
  'state of another': (
    lambda: TX.update(PARAMS, SGD.init(PARAMS), PARAMS),
    '`state` must be what `init` of this transformation .* got a tuple',
  ),
  'no sparse state': (
    lambda: ong_jax.mask_of(SGD.init(PARAMS)),
    '`opt_state` must hold the state of exactly one .* it holds 0',
  ),
  # Counts.
  'count negative': (lambda: ong_jax.top_k(SCORES, -1), '`counts` .* got -1'),
  'count above': (lambda: ong_jax.top_k(SCORES, 6), r'\[0, 5\], .* got 6'),
  'count a float': (
    lambda: ong_jax.top_k(SCORES, 1.5),
    "`counts` of 'all' must be an integer; got 1.5",
  ),
  'count text': (lambda: ong_jax.top_k(SCORES, '3'), "an integer; got '3'"),
  'counts of another tree': (
    lambda: ong_jax.top_k(SCORES, {'a': 1}),
    r"`counts` must be one int, or have one for each of \['a', 'b'\]",
  ),
  'scores list': (
    lambda: ong_jax.top_k({'a': [1.0, 2.0]}, 1),
    "`scores` must be arrays; leaf 'a/0' is 1.0",
  ),
  # Methods.
  'interval': (
    lambda: ong_jax.gmp(sparsity=0.5, interval=0, num_updates=2),
    '`interval` must be .* got 0',
  ),
  'updates without end': (
    lambda: ong_jax.gmp(sparsity=0.5, interval=1, num_updates=10**30),
    r'`num_updates` must be below 2\*\*31; got 1000',
  ),
  'rounds without end': (
    lambda: ong_jax.synflow(lambda p: 0.0, sparsity=0.5, rounds=10**30),
    r'`rounds` must be below 2\*\*31',
  ),
  'fractions text': (
    lambda: ong_jax.set_(KEY, HALF, interval=1, fractions='abc'),
    "`fractions` must be a list; got 'abc'",
  ),
  'fractions of text': (
    lambda: ong_jax.rigl(KEY, HALF, interval=1, fractions=['a']),
    "`fractions` must be a number; got 'a'",
  ),
  'decay text': (
    lambda: ong_jax.ste(HALF, decay='x'),
    "`decay` must be a number; got 'x'",
  ),
  'pattern a number': (
    lambda: begin(ong_jax.ste(0.5)),
    '`pattern` must be one of `ong_jax.patterns`',
  ),
  'beta text': (
    lambda: ong_jax.optg(sparsity=0.5, interval=1, num_intervals=2, beta='x'),
    "`beta` must be a number; got 'x'",
  ),
  'threshold none': (
    lambda: ong_jax.str_(sparsity=0.5, start=None),
    '`start` must be a number; got None',
  ),
  'gate list': (
    lambda: ong_jax.cs(sparsity=0.5, num_steps=10, start=[1]),
    r'`start` must be a number; got \[1\]',
  ),
  'penalty text': (
    lambda: ong_jax.dst(sparsity=0.5, penalty='x'),
    "`penalty` must be a number; got 'x'",
  ),
  'fade name': (
    lambda: ong_jax.mask_decay(
      patterns.n_of_m(2, 4), start=0, end=5, fade='linear'
    ),
    "`fade` must be a function, .* got 'linear'",
  ),
  'boundaries none': (
    lambda: ong_jax.ac_dc(sparsity=0.5, boundaries=None),
    '`boundaries` must be a list; got None',
  ),
  'patterns one': (
    lambda: ong_jax.structure_decay(3, boundaries=[1]),
    '`patterns` must be a list; got 3',
  ),
  'n of m a number': (
    lambda: ong_jax.sparsegpt(apply, [jnp.ones((2, 4))], n_of_m=2),
    r'`n_of_m` must be two integers, such as \(2, 4\); got 2',
  ),
  'damping text': (
    lambda: ong_jax.sparsegpt(
      apply, [jnp.ones((2, 4))], sparsity=0.5, damping='x'
    ),
    "`damping` must be a number; got 'x'",
  ),
  # Data.
  'one batch': (
    lambda: ong_jax.snip(loss, jnp.ones((4, 6)), sparsity=0.5),
    r'`batches` must be a list of batches; .* Pass `\[batch\]`',
  ),
  'batches once': (
    lambda: ong_jax.grasp(loss, iter([1.0]), sparsity=0.5),
    r'`batches` .* Pass `list\(batches\)`',
  ),
  'no batch': (
    lambda: ong_jax.snip(loss, [], sparsity=0.5)(PARAMS),
    '`batches` must hold at least one batch',
  ),
  'no loss': (
    lambda: ong_jax.snip(None, [1.0], sparsity=0.5),
    '`loss` must be a function, .* got None',
  ),
  'loss of many': (
    lambda: ong_jax.snip(lambda p, b: p['fc']['bias'], [1.0], sparsity=0.5)(
      PARAMS
    ),
    r'`loss` must return a scalar, .* its shape is \(6,\)',
  ),
  'loss NaN': (
    lambda: ong_jax.snip(loss, [NAN], sparsity=0.5)(PARAMS),
    "Of leaf 'fc/kernel', 24 measured values are not finite",
  ),
  'curvature NaN': (
    lambda: ong_jax.grasp(loss, [NAN], sparsity=0.5)(PARAMS),
    "Of leaf 'fc/kernel', 24 measured values are not finite: its gradient",
  ),
  'network name': (
    lambda: ong_jax.wanda('net', [jnp.ones((2, 4))], sparsity=0.5),
    "`apply` must be a function, .* got 'net'",
  ),
  'inputs NaN': (
    lambda: ong_jax.wanda(apply, [jnp.full((2, 4), NAN)], sparsity=0.5)(PARAMS),
    'finite',
  ),
}


class LibraryTest(parameterized.TestCase):
  @parameterized.named_parameters(
    (name.replace(' ', '_'), *row) for name, row in LIBRARY.items()
  )
  def test_refuses(self, call, sentence):
    with self.assertRaisesRegex((ValueError, TypeError), sentence) as caught:
      call()
    self.assertRegex(str(caught.exception), r"`\w+|eaf '|No leaf|The mask")


TINY = '--method=magnitude --model=resnet8 --dataset=synthetic --epochs=1'
COMMANDS = {  # Flags, and what the sentence has.
  '--method=mangitude': "`method` must be .* nearest is 'magnitude'",
  '--method=': '`method` must be one of',
  '--model=resnet21': "`model` must be .* The nearest is 'resnet",
  '--dataset=imagenet': '`dataset` must be one of cifar10',
  '--schedule=step': '`schedule` must be one of linear, cosine',
  '--initializer=hee': "The nearest is 'he'",
  '--dtype=float64': '`dtype` must be one of float32, bfloat16',
  '--nonfinite=ignore': '`nonfinite` must be one of report, skip',
  '--sparsity=1': r'`sparsity` must lie in \[0, 1\), got 1.0',
  '--sparsity=-1': r'`sparsity` must lie in \[0, 1\), got -1.0',
  '--sparsity=nan': r'`sparsity` must lie in \[0, 1\), got nan',
  '--sparsity=0.99999': '`sparsity`=0.99999 keeps 1 of 74800 weights',
  '--epochs=-1': r'`epochs` must lie in \[0, inf\), got -1.0',
  '--epochs=inf': r'`epochs` must lie in \[0, inf\), got inf',
  '--epochs=1e300': r'`epochs` and `dense_epochs` must .* 2\*\*31 steps',
  '--dense_epochs=nan': r'`dense_epochs` must lie in \[0, inf\), got nan',
  '--original_epochs=-2': '`original_epochs` must lie in',
  '--batch_size=0': r'`batch_size` must lie in \[1, .* got 0',
  '--batch_size=100': '`batch_size`=100 must be a multiple of 8',
  '--batch_size=1024': '`batch_size`=1024 must not exceed the 512',
  '--batch_size=99999999999999': '`batch_size` must lie in',
  '--learning_rate=inf': '`learning_rate` must lie in',
  '--momentum=1': r'`momentum` must lie in \[0, 1\), got 1.0',
  '--weight_decay=-1': '`weight_decay` must lie in .* got -1.0',
  '--label_smoothing=1': '`label_smoothing` must lie in .* got 1.0',
  '--bn_images=-5': '`bn_images` must lie in .* got -5',
  '--seed=-1': r'`seed` must lie in \[0, 4294967296\), got -1',
  '--model_parallel=3': '`model_parallel`=3 must divide the number of dev',
  '--save_every_s=nan': '`save_every_s` must be at least 0, got nan',
  '--init_from=none.npz': "'none.npz' is not there",
  '--init_from=no_such_run': '`init_from`: .*no_such_run',
  '--option=half': "`option` must be name=value, got 'half'",
  '--option=allocate': '`option` must be name=value',
  '--option=allocat=erk': "The nearest is 'allocate'",
  '--option=allocate=erkk': "`allocate` must be .* The nearest is 'erk'",
  '--method=ong --option=rank=seven': "rank must be an integer, got 'seven'",
  '--method=ong --option=rank=0': '`rank` must be .* got 0',
  '--method=ong --option=solver=kkl': "`solver` must be .* nearest is 'kl'",
  '--method=gmp --option=interval=0': '`interval` must be .* got 0',
  '--method=gmp --option=interval=3': '`interval`=3 must be at most half',
  '--method=gmp --option=recover=maybe': "must be true or false, got 'maybe'",
  '--method=rigl --option=fraction=2': r'`fraction` must lie in \[0, 1\)',
  '--method=magnitude-nm --option=m=0': '`m` must be .* got 0',
  '--method=magnitude-nm': '`sparsity`=0.95 keeps no whole number of every 4',
  '--method=snip --option=batches=9': '9 batches of `batch_size`=128 are more',
  '--method=imp': '`imp` prunes a trained network: pass `dense_epochs`',
  '--method=str --option=retrain=1': r'`retrain` must lie in \[0, 1\)',
  '--method=ac-dc': 'AC/DC has 16 phases. Train for at least 16 steps',
  '--method=top-kast --option=exploration=2': '`exploration` must lie in',
  '--method=lth --option=phases=4': r'`lth` would make \[4, 0, 0, 0, 0\]',
}


class CommandTest(parameterized.TestCase):
  @parameterized.named_parameters(
    (f'{i}_{command}', command, sentence)
    for i, (command, sentence) in enumerate(COMMANDS.items())
  )
  @flagsaver.flagsaver
  def test_refuses_before_any_data_is_loaded(self, command, sentence):
    flags.FLAGS(['cifar', *TINY.split(), *command.split()])
    with (
      mock.patch.dict(data.DATASETS, synthetic=self.load),
      self.assertRaises(SystemExit) as caught,
    ):
      cifar.main([])
    self.assertRegex(str(caught.exception.code), f'^Error: .*{sentence}')

  def load(self, data_dir):
    self.fail('Data were loaded.')

  @parameterized.parameters(
    ('--sparsity=much', '--sparsity=much'),
    ('--batch_size=1.5', '--batch_size=1.5'),
    ('--seed=', '--seed='),
    ('--sparsty=0.9', "Unknown command line flag 'sparsty'"),
  )
  @flagsaver.flagsaver
  def test_flags_that_cannot_be_read(self, flag, sentence):
    with self.assertRaisesRegex(flags.Error, sentence):
      flags.FLAGS(['cifar', flag])


if __name__ == '__main__':
  absltest.main()
