import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import chex
import pytest
from absl.testing import absltest

from experiments import checkpoints

_ROOT = pathlib.Path(__file__).parents[1]


def _free_port():
  with socket.socket() as listener:
    listener.bind(('127.0.0.1', 0))
    return listener.getsockname()[1]


def _metrics(workdir):
  text = pathlib.Path(workdir, 'metrics.jsonl').read_text()
  lines = [json.loads(line) for line in text.splitlines()]
  return [{k: v for k, v in x.items() if k != 'seconds'} for x in lines]


class ManyHostsTest(absltest.TestCase):
  """Real processes that train one network, as on as many hosts."""

  def start(self, num_processes, **flags):
    """Starts them; a flag may be a list, with a value for each."""
    address = f'127.0.0.1:{_free_port()}'
    flags = {'sparsity': 0.9, 'epochs': 1, **flags}
    return [
      subprocess.Popen(
        [
          *(sys.executable, '-m', 'experiments.cifar', '--method=magnitude'),
          *('--model=resnet8', '--dataset=synthetic', '--batch_size=32'),
          *('--save_every_s=0', f'--coordinator={address}'),
          *(f'--num_processes={num_processes}', f'--process_id={i}'),
          *(
            f'--{name}={value[i] if isinstance(value, list) else value}'
            for name, value in flags.items()
          ),
        ],
        cwd=_ROOT,
        env={
          **os.environ,  # One device each.
          'XLA_FLAGS': '--xla_backend_optimization_level=0',
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
      )
      for i in range(num_processes)
    ]

  def finish(self, processes, code=0):
    """Waits, and returns what each has said."""
    outputs = [p.communicate(timeout=300)[0] for p in processes]
    for process, output in zip(processes, outputs):
      self.assertEqual(process.returncode, code, output)
    return outputs

  def wait_for(self, step, workdir, processes):
    directory = pathlib.Path(workdir, 'checkpoints')
    deadline = time.monotonic() + 300
    while not any(
      int(p.name) >= step for p in directory.glob('*') if p.name.isdigit()
    ):
      self.assertLess(time.monotonic(), deadline)
      for process in processes:
        if process.poll() is not None:
          self.fail(process.communicate()[0])
      time.sleep(0.01)

  def test_two_end_in_the_same_bits_after_one_is_killed(self):
    self.check_kill(2, 0)

  @pytest.mark.slow
  def test_four_end_in_the_same_bits_after_one_is_killed(self):
    self.check_kill(4, 2, model_parallel=2)

  def check_kill(self, num, victim, **flags):
    whole = self.create_tempdir().full_path
    self.finish(self.start(num, workdir=whole, **flags))
    stopped = self.create_tempdir().full_path
    processes = self.start(num, workdir=stopped, **flags)
    self.wait_for(1, stopped, processes)
    processes[victim].send_signal(signal.SIGKILL)
    for process in processes:  # They would notice, after a minute or so.
      process.kill()
      process.communicate()
    if num == 2:  # A signal to one of them stops both.
      processes = self.start(num, workdir=stopped, **flags)
      self.wait_for(9, stopped, processes)
      processes[1].send_signal(signal.SIGTERM)
      first, _ = self.finish(processes)
      self.assertRegex(first, r'Stopped at step \d+\. The same command goes on')
    first, *others = self.finish(self.start(num, workdir=stopped, **flags))
    self.assertIn('Resumed at step', first)
    for output in others:  # The first speaks for all.
      self.assertNotIn('epoch', output)
    chex.assert_trees_all_equal(
      checkpoints.load_final(whole)[:2], checkpoints.load_final(stopped)[:2]
    )
    self.assertLen(_metrics(whole), 1)
    self.assertEqual(_metrics(whole), _metrics(stopped))

  def test_what_one_cannot_do_all_refuse_in_one_sentence(self):
    here, there = (self.create_tempdir().full_path for _ in range(2))
    for flags, sentence in (
      ({'workdir': here, 'sparsity': [0.9, 0.8]}, 'another config'),
      ({'workdir': [here, there]}, 'is not the directory of the first process'),
    ):
      for output in self.finish(self.start(2, **flags), code=1):
        self.assertIn(sentence, output)
        self.assertNotIn('Traceback', output)


if __name__ == '__main__':
  absltest.main()
