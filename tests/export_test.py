import pathlib
import subprocess
import sys

import finished_runs
import jax
import numpy as np
from absl.testing import absltest

_ROOT = pathlib.Path(__file__).parents[1]


class ExportTest(absltest.TestCase):
  """The command line; what is in a file is tested with `writers`."""

  def setUp(self):
    super().setUp()
    self.run_path = pathlib.Path(self.create_tempdir().full_path)
    self.out = self.run_path / 'net.npz'

  def export(self, *flags):
    return subprocess.run(
      [
        *(sys.executable, '-m', 'experiments.export', str(self.run_path)),
        *(f'--out={self.out}', *flags),
      ],
      cwd=_ROOT,
      capture_output=True,
      text=True,
    )

  def store(self, gone):
    net = finished_runs.network('resnet8', gone)
    finished_runs.store(self.run_path, net, 'resnet8')
    return sum(x.size for x in jax.tree.leaves(net[1:3]))

  def test_channels_are_taken_out_unless_they_shall_stay(self):
    size = self.store({'layer3_0': 60})
    process = self.export('--format=torch')
    self.assertEqual(process.returncode, 0, process.stderr)
    self.assertEqual(process.stderr, '')
    first, second, third, fourth = process.stdout.splitlines()
    stored = self.out.stat().st_size
    self.assertEqual(
      first,
      f"'{self.out}': {stored:,} bytes, {stored / size / 4:.1%} of the "
      f'{4 * size:,} of the dense network.',
    )
    self.assertIn('60 channels were taken out (60 of layer3_0)', second)
    self.assertIn('Faster by its zeros: none. It is stored dense', third)
    self.assertRegex(fourth, r'^Its input is .pixel / 255 - .0.*, 0.*/ .0')
    kernel = 'layer3.0.conv1.weight'
    self.assertEqual(np.load(self.out)[kernel].shape, (4, 32, 3, 3))
    process = self.export('--format=torch', '--noshrink')
    self.assertLen(process.stdout.splitlines(), 3)
    self.assertEqual(np.load(self.out)[kernel].shape, (64, 32, 3, 3))

  def test_errors_are_one_sentence(self):
    for name, form, sentence in (
      ('net.safetensors', 'safetensors', 'RUN must be the .*'),
      (
        'net.pt',
        'torch',
        '`out` must end in .npz or .safetensors for .*',
      ),
      ('net.npz', 'onnx', '`out` must end in .onnx for onnx, got .*'),
    ):
      self.out = self.run_path / name
      process = self.export(f'--format={form}')
      self.assertEqual(process.returncode, 1)
      self.assertRegex(process.stderr, f'^Error: {sentence}\n$')
    self.store({})
    self.out = self.run_path / 'missing' / 'net.safetensors'
    process = self.export()
    self.assertEqual(process.returncode, 1)
    sentence = r"^Error: '.*missing/net.safetensors' cannot be written .No such"
    self.assertRegex(process.stderr, sentence)


if __name__ == '__main__':
  absltest.main()
