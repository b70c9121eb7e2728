import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import chex
import pytest
from absl.testing import absltest

from experiments import checkpoints, methods

_ROOT = pathlib.Path(__file__).parents[1]
_ENVIRONMENT = {
  **os.environ,  # One device is faster.
  'XLA_FLAGS': '--xla_backend_optimization_level=0',
}


class CommandLineTest(absltest.TestCase):
  """Runs of the command line that are stopped and go on."""

  def command(self, workdir):
    return [
      sys.executable,
      *('-m', 'experiments.cifar', f'--workdir={workdir}', '--save_every_s=0'),
      *('--method=magnitude', '--sparsity=0.9', '--model=resnet8'),
      *('--dataset=synthetic', '--batch_size=64', '--dense_epochs=1'),
      '--epochs=2',
    ]

  def start(self, workdir, *flags):
    return subprocess.Popen(
      [*self.command(workdir), *flags],
      cwd=_ROOT,
      env=_ENVIRONMENT,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
    )

  def finish(self, workdir, *flags):
    process = self.start(workdir, *flags)
    output, _ = process.communicate()
    self.assertEqual(process.returncode, 0, output)
    return output

  def wait_for(self, step, directory, process, *, saving):
    """Waits until a step is there, or one from it on is being saved."""
    deadline = time.monotonic() + 300
    while True:
      names = [p.name.split('.') for p in directory.glob('*')]
      if any(int(x[0]) >= step and (len(x) > 1) == saving for x in names):
        return
      self.assertIsNone(process.poll(), 'ended before it was stopped')
      self.assertLess(time.monotonic(), deadline)
      time.sleep(0.002)

  def test_ends_in_the_same_bits_after_kills_and_after_terminate(self):
    whole = self.create_tempdir().full_path
    self.finish(whole)
    stopped = self.create_tempdir().full_path
    for number, step, saving in (
      (signal.SIGKILL, 0, True),  # The first save.
      (signal.SIGKILL, 5, True),
      (signal.SIGKILL, 12, False),
      (signal.SIGTERM, 16, False),
    ):
      process = self.start(stopped)
      self.wait_for(
        step, pathlib.Path(stopped, 'checkpoints'), process, saving=saving
      )
      process.send_signal(number)
      output, _ = process.communicate()
      if number == signal.SIGTERM:
        self.assertEqual(process.returncode, 0, output)
        self.assertIn('The same command goes on from there.', output)
      else:
        self.assertEqual(process.returncode, -signal.SIGKILL, output)
    self.assertIn('Resumed at step', self.finish(stopped))
    chex.assert_trees_all_equal(
      checkpoints.load_final(whole)[:2], checkpoints.load_final(stopped)[:2]
    )
    results = [
      json.loads(pathlib.Path(path, 'result.json').read_text())
      for path in (whole, stopped)
    ]
    self.assertEqual(*(result['test_accuracy'] for result in results))
    self.assertEqual(*(result['prunings'] for result in results))
    self.assertLen(results[0]['prunings'], 1)
    metrics = [
      [
        {k: v for k, v in json.loads(line).items() if k != 'seconds'}
        for line in pathlib.Path(path, 'metrics.jsonl').read_text().splitlines()
      ]
      for path in (whole, stopped)
    ]
    self.assertEqual(*metrics)
    self.assertLen(metrics[0], 4)  # Three epochs, and the pruning.

  @pytest.mark.slow
  def test_a_full_disk_is_said_in_sentences(self):
    workdir = self.create_tempdir().full_path
    limited = ['sh', '-c', 'ulimit -f 6 && exec "$@"', 'sh']  # 3 KiB a file.
    process = subprocess.run(
      [*limited, *self.command(workdir), '--dense_epochs=0', '--epochs=0.5'],
      cwd=_ROOT,
      # JAX would warn that what it compiled has no room either.
      env=_ENVIRONMENT | {'JAX_ENABLE_COMPILATION_CACHE': 'false'},
      capture_output=True,
      text=True,
    )
    self.assertEqual(process.returncode, 1, process.stdout)
    self.assertRegex(process.stdout, 'A save in .* failed .File too large')
    self.assertRegex(
      process.stderr, "^Error: The network could not be stored in '.*'.*$"
    )
    self.assertNotIn('Traceback', process.stdout + process.stderr)
    output = self.finish(workdir, '--dense_epochs=0', '--epochs=0.5')
    self.assertIn('test accuracy', output)

  def test_an_error_is_one_sentence(self):
    for flag, sentence in (
      ('--sparsity=1.5', '`sparsity` must lie in [0, 1), got 1.5.'),
      ('--option=half', "`option` must be name=value, got 'half'."),
    ):
      process = subprocess.run(
        [*self.command('unused'), flag],
        cwd=_ROOT,
        capture_output=True,
        text=True,
      )
      self.assertEqual(process.returncode, 1)
      self.assertEqual(process.stderr, f'Error: {sentence}\n')

  def test_list_names_every_method(self):
    process = subprocess.run(
      [sys.executable, '-m', 'experiments.cifar', '--method=list'],
      cwd=_ROOT,
      capture_output=True,
      text=True,
    )
    self.assertEqual(process.returncode, 0, process.stderr)
    names = [line.split()[0] for line in process.stdout.splitlines()]
    self.assertEqual(names, list(methods.METHODS))


if __name__ == '__main__':
  absltest.main()
