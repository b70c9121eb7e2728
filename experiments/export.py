"""Takes the network of a finished run away, as a file.

    python -m experiments.export RUN --format=safetensors --out=FILE

RUN is the `--workdir` of the run. Channels of which nothing is left, as
`iee-channels` leaves them, are taken out first.
"""

import os
import sys

from absl import app, flags, logging

from experiments import console, finished, writers

_FORMAT = flags.DEFINE_enum(
  'format',
  'safetensors',
  list(writers.FORMATS),
  'safetensors: the kept values and a bit a weight, for '
  "`ong_jax.export.compressed.load`; torch: a state dict under PyTorch's "
  'names, .npz or .safetensors; onnx: from pixels (uint8) to logits, for '
  'onnxruntime; '
  'scipy: kernels as CSR matrices, in an .npz.',
)
_OUT = flags.DEFINE_string('out', None, 'The file to write.')
_SHRINK = flags.DEFINE_bool(
  'shrink', True, 'Take out channels of which nothing is left.'
)


def main(argv: list[str]) -> None:
  """Reads the flags, and writes the file."""
  if len(argv) != 2 or not _OUT.value:
    raise app.UsageError('Pass one RUN, and --out=FILE.')
  if not flags.FLAGS['verbosity'].present:
    logging.set_verbosity(logging.FATAL)  # Orbax logs every read.
  try:
    _export(argv[1], _FORMAT.value, _OUT.value)
  except (ValueError, TypeError, OSError, ImportError) as error:
    if logging.level_info():
      raise  # `--verbosity=0` shows where it came from.
    sys.exit(f'Error: {error}')


def _export(run: str, name: str, path: str) -> None:
  network = finished.load(run)
  dense, gone = writers.num_bytes(network), {}
  if _SHRINK.value:
    network, gone = finished.shrink(network)
  path = os.path.expanduser(path)
  writers.FORMATS[name].write(path, network)
  size = os.path.getsize(path)
  console.log(
    f"'{path}': {size:,} bytes, {size / dense:.1%} of the {dense:,} of the "
    'dense network.'
  )
  if gone:
    console.log(
      f'Fewer operations anywhere: {sum(gone.values())} channels were taken '
      f'out ({", ".join(f"{n} of {group}" for group, n in gone.items())}).'
    )
  console.log(f'For the rest: {writers.FORMATS[name].speed}')


if __name__ == '__main__':
  app.run(main)
