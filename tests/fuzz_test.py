"""Random flags and random damage: success, or a sentence of ours.

Every case has a seed, which a failure prints; training itself is left out.
"""

import contextlib
import io
import json
import pathlib
import pickle
import random
import shutil
import tempfile
import zipfile
from unittest import mock

import chex
import jax
import numpy as np
import pytest
from absl import flags
from absl.testing import absltest, flagsaver, parameterized

from experiments import checkpoints, cifar, run, segments, train
from experiments.config import Config
from experiments.methods import METHODS

pytestmark = pytest.mark.failing_io


HOSTILE = (
  *('', ' ', '-', '0', '-1', '1', '0.5', '1e-320', '1e308', 'nan', '-inf'),
  *(
    '1e400',
    '9' * 30,
    '0x10',
    'None',
    'true',
    '[]',
    '{}',
    '\x00',
    'é',
    '../..',
  ),
  *('%s%n', "'; --", '=', '==', 'a' * 5000, '١', '1_000', '１'),
)
USUAL = {
  'method': tuple(METHODS),
  'sparsity': ('0', '0.5', '0.75', '0.9', '0.9999'),
  'model': ('resnet8',),
  'dataset': ('synthetic', 'cifar10_mini'),
  'epochs': ('0', '0.01', '1', '3', '40'),
  'dense_epochs': ('0', '1'),
  'batch_size': ('8', '64', '128', '512'),
  'learning_rate': ('0', '0.1', '1e30'),
  'schedule': ('linear', 'cosine'),
  'momentum': ('0', '0.98'),
  'weight_decay': ('0', '5e-4'),
  'label_smoothing': ('0', '0.1'),
  'bn_images': ('0', '1', '100'),
  'initializer': ('he', 'lecun', 'signed', 'torch'),
  'original_epochs': ('0', '200'),
  'dtype': ('float32', 'bfloat16'),
  'nonfinite': ('report', 'skip'),
  'seed': ('0', '4294967295'),
  'model_parallel': ('1', '2', '8'),
  'save_every_s': ('0', '60', 'inf'),
  'option': (
    *('interval=1', 'interval=4', 'retrain=0.5', 'm=4', 'm=8', 'phases=1'),
    *('allocate=erk', 'rank=3', 'start=random', 'fraction=0', 'until=0.5'),
    *('rounds=2', 'batches=1', 'recover=true', 'samples=1', 'cost=macs'),
    *('retraining=clr', 'decay=1', 'penalty=0', 'rewind=0.5', 'budget=0.9'),
    *('exploration=0', 'average=3', 'beta=2', 'draws=2', 'damping=1'),
  ),
}
OPTIONS = sorted({pair.split('=')[0] for pair in USUAL['option']})


class Passed(Exception):
  """All was checked, and now training would begin, from this state."""


def draw_flags(rng):
  """A method, and some flags of usual values, of which one may be hostile."""
  names = rng.sample(sorted(USUAL), rng.randint(0, 6))
  found = {'method': 'magnitude', 'model': 'resnet8', 'dataset': 'synthetic'}
  found |= {'epochs': '40'} | {name: rng.choice(USUAL[name]) for name in names}
  if rng.random() < 0.6:
    name, value = rng.choice(sorted(USUAL)), rng.choice(HOSTILE)
    if name == 'option' and rng.random() < 0.8:
      value = f'{rng.choice(OPTIONS)}={value}'
    found[name] = value
  return [f'--{name}={value}' for name, value in found.items()]


class FlagsTest(absltest.TestCase):
  @mock.patch.object(run, '_run', side_effect=Passed)
  def test_are_taken_or_refused_in_a_sentence(self, _):
    outcomes = {'passed': 0, 'refused': 0, 'unreadable': 0}
    for seed in range(200):
      argv = draw_flags(random.Random(seed))
      with self.subTest(seed=seed, argv=argv), flagsaver.flagsaver():
        try:
          flags.FLAGS(['cifar', *argv])
          cifar.main([])
          self.fail('It has ended.')
        except Passed:
          outcomes['passed'] += 1
        except flags.Error:
          outcomes['unreadable'] += 1
        except SystemExit as stopped:
          outcomes['refused'] += 1
          self.assertRegex(str(stopped.code), r'(?s)^Error: .*(`\w+|is not th)')
    self.assertTrue(all(n > 10 for n in outcomes.values()), outcomes)


class Trap:
  """What runs code when a pickle of it is read."""

  def __init__(self, marker):
    self.marker = marker

  def __reduce__(self):
    return pathlib.Path.touch, (self.marker,)


def advance(state, data, num_steps):
  """In place of training, which would have to be compiled."""
  weights = jax.tree.map(lambda x: x * 1.5**num_steps, state.trainable)
  return state.replace(step=state.step + num_steps, trainable=weights)


def damage(rng, root):
  """Damages one file below a directory, and says how."""
  files = [p for p in root.rglob('*') if p.is_file()]
  files.sort(key=lambda p: (p.stat().st_size, p))  # Orbax draws names.
  file, other = rng.choice(files), rng.choice(files)
  content = bytearray(file.read_bytes())
  kind = rng.choice(
    ['truncate', 'flip', 'insert', 'delete', 'swap', 'directory', 'empty']
  )
  at = rng.randrange(len(content) + 1)
  if kind == 'flip' and content:
    content[at % len(content)] ^= 1 << rng.randrange(8)
  elif kind == 'truncate':
    content = content[:at]
  elif kind == 'insert':
    content[at:at] = rng.randbytes(rng.choice([1, 100]))
  elif kind == 'swap':
    content = other.read_bytes()
  elif kind == 'empty':
    content = b''
  if kind in ('delete', 'directory'):
    file.unlink()
  if kind == 'directory':
    file.mkdir()
  elif kind != 'delete':
    file.write_bytes(content)
  return f'{kind} {file.relative_to(root)} at {at}'


class DamageTest(parameterized.TestCase):
  """A run of two epochs of two steps, whose last two states are there."""

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.root = pathlib.Path(
      cls.enterClassContext(tempfile.TemporaryDirectory())
    )
    cls.config = Config(
      method='magnitude',
      model='resnet8',
      dataset='synthetic',
      batch_size=256,
      epochs=2,
      bn_images=0,
    )
    setup, *network = run.set_up(cls.config, None)
    setup = setup._replace(evaluate=lambda *args: 0.1)
    cls.setup_of = setup, *network
    cls.whole = cls.root / 'whole'
    with (
      mock.patch.object(run, 'set_up', return_value=cls.setup_of),
      mock.patch.object(train, 'make_loop', return_value=advance),
    ):
      cls.result = run.run(cls.config, workdir=cls.whole, save_every_s=0)
    cls.network = checkpoints.load_final(cls.whole)
    stopped = cls.copy('original')
    cls.states = {}
    for _ in range(2):
      state = cls.resume(stopped)
      cls.states[int(state.step)] = jax.device_get(state)
      shutil.rmtree(stopped / 'checkpoints' / str(int(state.step)))

  @classmethod
  def copy(cls, name, finished=False):
    path = cls.root / name
    shutil.copytree(cls.whole, path)
    if not finished:
      shutil.rmtree(path / 'final')
      (path / 'result.json').unlink()
    return path

  @classmethod
  def resume(cls, path):
    """Runs to where training would go on; the state there, or the result."""

    def train(setup, session, segment, state, start):
      raise Passed(state)

    with (
      mock.patch.object(run, 'set_up', return_value=cls.setup_of),
      mock.patch.object(segments, '_train', train),
      mock.patch.object(segments, '_start', side_effect=Passed(None)),
      contextlib.redirect_stdout(io.StringIO()),
    ):
      try:
        return run.run(cls.config, workdir=path)
      except Passed as passed:
        return passed.args[0]

  def test_a_damaged_run_goes_on_from_true_bits_or_is_refused(self):
    self.assertLen(self.states, 2)
    outcomes = {'state': 0, 'result': 0, 'refused': 0}
    for seed in range(40):
      rng = random.Random(seed)
      path = self.copy(f'damaged{seed}', finished=seed % 4 == 0)
      what = [damage(rng, path) for _ in range(rng.choice([1, 2, 20]))]
      with self.subTest(seed=seed, what=what):
        try:
          found = self.resume(path)
        except (ValueError, OSError) as error:
          outcomes['refused'] += 1
          self.assertRegex(str(error), r'(?s)damage.*|workdir|used|--\w+')
          continue
        if isinstance(found, dict):
          outcomes['result'] += 1
          self.assertEqual(found.keys(), self.result.keys())
          continue
        self.assertIsNotNone(found, 'It would begin anew.')
        outcomes['state'] += 1
        chex.assert_trees_all_equal(
          jax.device_get(found), self.states[int(found.step)]
        )
      shutil.rmtree(path)
    self.assertTrue(all(n > 2 for n in outcomes.values()), outcomes)

  def test_a_damaged_network_is_refused_or_true(self):
    refused = 0
    for seed in range(50):
      path = self.root / f'network{seed}'
      shutil.copytree(self.whole / 'final', path / 'final')
      shutil.copy(self.whole / 'config.json', path)
      with self.subTest(seed=seed, what=damage(random.Random(seed), path)):
        try:
          found = checkpoints.load_final(path)
        except ValueError as error:
          refused += 1
          self.assertRegex(str(error), '^`init_from`: .* Pass another|finished')
          continue
        chex.assert_trees_all_equal(found[:2], self.network[:2])
      shutil.rmtree(path)
    self.assertGreater(refused, 10)

  @parameterized.parameters(
    'config.json', 'result.json', 'metrics.jsonl', 'checkpoints', 'final'
  )
  def test_a_pickle_anywhere_is_never_read_as_one(self, name):
    marker, path = self.root / f'marker_{name}', self.copy(name, finished=True)
    trap = pickle.dumps(Trap(marker))
    places = [
      p for p in path.rglob('*') if p.is_file() and name in p.parts[-4:]
    ]
    places += [p for p in (path / name).rglob('*') if p.is_file()]
    self.assertNotEmpty(places)
    for place in places:
      place.write_bytes(trap)
    if name != 'final':  # Else the result would be enough.
      shutil.rmtree(path / 'final')
    with contextlib.suppress(ValueError, OSError):
      self.resume(path)
    with contextlib.suppress(ValueError):
      checkpoints.load_final(path)
    self.assertFalse(marker.exists())
    pickle.loads(trap)  # It would have worked.
    self.assertTrue(marker.exists())

  @parameterized.parameters(True, False)
  def test_an_array_of_objects_is_refused_and_not_made(self, in_a_zip_file):
    marker = self.root / f'marker_{in_a_zip_file}'
    array = io.BytesIO()
    np.save(array, np.array([Trap(marker)], object), allow_pickle=True)
    file = self.root / f'trap_{in_a_zip_file}.npz'
    if in_a_zip_file:
      with zipfile.ZipFile(file, 'w') as members:
        members.writestr('conv1.weight.npy', array.getvalue())
    else:
      file.write_bytes(array.getvalue())
    config = Config(**vars(self.config) | {'init_from': str(file)})
    with self.assertRaisesRegex(ValueError, 'cannot be read as an .npz file'):
      run.run(config)
    self.assertFalse(marker.exists())
    array.seek(0)
    np.load(array, allow_pickle=True)
    self.assertTrue(marker.exists())

  def test_the_result_is_the_one_of_the_run(self):
    path = self.copy('finished', finished=True)
    expected = json.loads((self.whole / 'result.json').read_text())
    self.assertEqual(self.resume(path), expected)


if __name__ == '__main__':
  absltest.main()
