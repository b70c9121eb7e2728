import json
import pathlib
import threading
import time
from unittest import mock

from absl.testing import absltest

from experiments import console, processes, studies, study
from experiments.config import Config


def _configs(**fields):
  given = {'model': 'resnet8', 'dataset': 'synthetic', 'method': 'magnitude'}
  return [
    Config(**given, sparsity=sparsity, **fields) for sparsity in (0.5, 0.9)
  ]


class StudyTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    self.out = pathlib.Path(self.create_tempdir().full_path)

  def run_study(self, configs, stop=()):
    """Runs it, and returns it with what it said."""
    found = study.Study(configs, self.out, None)
    with mock.patch.object(console, 'log') as log:
      study.run(found, processes.shares(1, None), stop)
    return found, [call.args[0] for call in log.call_args_list]

  def test_a_run_that_fails_costs_no_other_and_is_tried_again(self):
    configs = _configs(epochs=0)
    other = self.out / studies.name(configs[0]) / 'config.json'
    other.parent.mkdir()
    other.write_text('{"seed": 7}')
    done, lines = self.run_study(configs)
    self.assertEqual(done.failed, [studies.name(configs[0])])
    self.assertRegex(lines[0], 'magnitude-0.5-.* failed: Error: .*another conf')
    self.assertRegex(lines[1], '1 of 2: magnitude-0.9-.* comes to .* in ')
    other.unlink()
    done, lines = self.run_study(configs)
    self.assertEqual((done.num_done, done.failed), (2, []))
    self.assertLen(lines, 1)
    for config in configs:
      file = self.out / studies.name(config) / 'result.json'
      self.assertEqual(
        json.loads(file.read_text())['sparsity'], config.sparsity
      )
    _, lines = self.run_study(configs)
    self.assertEmpty(lines)

  def test_asked_to_stop_it_has_its_runs_save(self):
    config = _configs(epochs=1000)[0]
    stop = []

    def ask():
      metrics = self.out / studies.name(config) / 'metrics.jsonl'
      while not metrics.exists():
        time.sleep(0.1)
      stop.append(15)

    thread = threading.Thread(target=ask)
    thread.start()
    stopped, lines = self.run_study([config], stop)
    thread.join()
    self.assertEmpty(lines)
    self.assertEmpty(stopped.failed)
    path = self.out / studies.name(config)
    self.assertNotEmpty(list((path / 'checkpoints').glob('[0-9]*')))
    self.assertIn('The same command goes on', (path / 'output.txt').read_text())

  def test_says_how_long_it_will_take(self):
    found = study.Study(_configs(), self.out, None)
    found.seconds = [100, 140]
    running = mock.Mock(path=self.out / 'a', started=time.monotonic() - 60)
    self.assertRegex(found.note([running]), '^about 5 minutes left; a$')


if __name__ == '__main__':
  absltest.main()
