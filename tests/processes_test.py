import os
from unittest import mock

from absl.testing import absltest

from experiments import processes


class SharesTest(absltest.TestCase):
  def test_processes_share_all_cores_and_no_core(self):
    with mock.patch.object(processes, '_cores', return_value=[0, 1, 2, 4, 5]):
      found = processes.shares(2, None)
    self.assertEqual([s.cores for s in found], [(0, 2, 5), (1, 4)])

  def test_refuses_what_there_is_not(self):
    for number in 0, -1, 1000:
      with self.assertRaisesRegex(ValueError, f'`processes` .*got {number}'):
        processes.shares(number, None)
    for gpus in ['0', '0'], ['a'], ['']:
      with self.assertRaisesRegex(ValueError, '`gpus` must be different'):
        processes.shares(1, gpus)

  def test_a_run_sees_its_gpu_and_what_others_have_compiled(self):
    out = self.create_tempdir().full_path
    with (
      mock.patch.dict(os.environ, clear=True),
      mock.patch.object(processes.subprocess, 'Popen') as popen,
    ):
      (share,) = processes.shares(1, ['3'])
      path = processes.pathlib.Path(out, 'run')
      processes.Process(processes.Config(), path, share, 'there')
    environment = popen.call_args.kwargs['env']
    self.assertEqual(environment['CUDA_VISIBLE_DEVICES'], '3')
    cache = os.path.join(out, 'compiled')
    self.assertEqual(environment['JAX_COMPILATION_CACHE_DIR'], cache)
    self.assertIn('--data_dir=there', popen.call_args.args[0])


if __name__ == '__main__':
  absltest.main()
