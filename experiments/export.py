"""Takes the network of a finished run away, as a file.

    python -m experiments.export RUN --format=safetensors --out=FILE

RUN is the `--workdir` of the run. Channels of which nothing is left, as
`iee-channels` leaves them, are taken out first.
"""

import argparse
import os
import sys
from collections.abc import Sequence

from absl import logging

from experiments import console, finished, writers


def parser() -> argparse.ArgumentParser:
  """Says what the command line takes."""
  found = argparse.ArgumentParser(
    prog='python -m experiments.export',
    description='Takes the network of a finished run away, as a file.',
    allow_abbrev=False,
  )
  found.add_argument('run', metavar='RUN', help='the --workdir of the run')
  found.add_argument('--out', required=True, help='the file to write')
  found.add_argument(
    '--format',
    choices=writers.FORMATS,
    default='safetensors',
    help='safetensors (default): the kept values and a bit a weight, for '
    "ong_jax.export.compressed.load; torch: a state dict under PyTorch's "
    'names, .npz or .safetensors; onnx: from pixels (uint8) to logits, for '
    'onnxruntime; scipy: kernels as CSR matrices, in an .npz',
  )
  found.add_argument(
    '--noshrink',
    action='store_true',
    help='leave channels in of which nothing is left',
  )
  return found


def main(argv: Sequence[str] | None = None) -> None:
  """Reads the arguments, and writes the file."""
  args = parser().parse_args(argv)
  logging.set_verbosity(logging.FATAL)  # Orbax logs every read.
  try:
    _export(args.run, args.format, args.out, shrink=not args.noshrink)
  except (
    ImportError,
    NotImplementedError,
    OSError,
    TypeError,
    ValueError,
  ) as error:
    sys.exit(f'Error: {error}')


def _export(run: str, name: str, path: str, *, shrink: bool) -> None:
  suffixes = writers.FORMATS[name].suffixes
  if not path.endswith(suffixes):
    raise ValueError(
      f'`out` must end in {" or ".join(suffixes)} for {name}, got {path!r}.'
    )
  network = finished.load(run)
  dense, gone = writers.num_bytes(network), {}
  if shrink:
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
  console.log(f'Faster by its zeros: {writers.FORMATS[name].speed}')
  mean, std = (
    ', '.join(f'{x:.4g}' for x in values)
    for values in (network.image_mean, network.image_std)
  )
  if name != 'onnx':  # Which does it by itself.
    console.log(f'Its input is (pixel / 255 - ({mean})) / ({std}).')


if __name__ == '__main__':
  main()
