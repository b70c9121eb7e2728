"""Prunes and trains a network on CIFAR.

    python -m experiments.cifar --method=ong --sparsity=0.95

`--method=list` prints what there is, and `--dataset=cifar10_mini` needs no
download.
"""

import os
import sys
import warnings

import jax
from absl import app, flags, logging

from experiments import console, hosts, options, run, signals
from experiments.config import Config
from experiments.methods import METHODS

_METHOD = flags.DEFINE_string(  # Checked in run, which knows near names.
  'method', Config.method, 'Pruning method; "list" prints them all.'
)
_SPARSITY = flags.DEFINE_float(
  'sparsity', Config.sparsity, 'Fraction of prunable weights, in [0, 1).'
)
_MODEL = flags.DEFINE_string(
  'model', Config.model, 'resnet8, 20, 32, 44, 56, 110, or resnet18, 34.'
)
_DATASET = flags.DEFINE_string(
  'dataset',
  Config.dataset,
  'cifar10 or cifar100, downloaded where they are not there yet; or '
  'cifar10_mini, a tenth of CIFAR-10 that is here.',
)
_TRAIN_IMAGES = flags.DEFINE_integer(
  'train_images',
  Config.train_images,
  'To train on: the first of every class, as many of each; 0 takes all.',
)
_VALIDATION_IMAGES = flags.DEFINE_integer(
  'validation_images',
  Config.validation_images,
  'To choose by: the last of every class are not trained on, and all that is '
  'said of the test set is of them. 0 takes the test set itself.',
)
_DATA_DIR = flags.DEFINE_string(
  'data_dir',
  None,
  'Where TFDS keeps its data sets; else $TFDS_DATA_DIR, else '
  '~/tensorflow_datasets.',
)
_OPTION = flags.DEFINE_multi_string(
  'option',
  [],
  "name=value, an option of the method's own; repeat it for more. "
  '--method=list prints them.',
)
_EPOCHS = flags.DEFINE_float(
  'epochs', Config.epochs, 'Of sparse training; 0 only prunes and evaluates.'
)
_DENSE_EPOCHS = flags.DEFINE_float(
  'dense_epochs',
  Config.dense_epochs,
  'Of dense training before the sparse one; 0 prunes at the outset.',
)
_BATCH_SIZE = flags.DEFINE_integer(
  'batch_size', Config.batch_size, 'Images a step, over all devices.'
)
_LEARNING_RATE = flags.DEFINE_float(
  'learning_rate', Config.learning_rate, 'Peak.'
)
_SCHEDULE = flags.DEFINE_string(
  'schedule', Config.schedule, 'Decay of the rate to 0: linear or cosine.'
)
_WARMUP_FRACTION = flags.DEFINE_float(
  'warmup_fraction',
  Config.warmup_fraction,
  'Of the steps, in which the rate rises to its peak.',
)
_MOMENTUM = flags.DEFINE_float('momentum', Config.momentum, "Nesterov's.")
_WEIGHT_DECAY = flags.DEFINE_float(
  'weight_decay', Config.weight_decay, 'On all parameters.'
)
_LABEL_SMOOTHING = flags.DEFINE_float(
  'label_smoothing', Config.label_smoothing, 'In [0, 1).'
)
_AUGMENT = flags.DEFINE_bool(
  'augment', Config.augment, 'Crop and flip the training images at random.'
)
_BN_IMAGES = flags.DEFINE_integer(
  'bn_images',
  Config.bn_images,
  'Training images on which BatchNorm is redone after a trained network was '
  'pruned; 0 leaves it.',
)
_INITIALIZER = flags.DEFINE_string(
  'initializer', Config.initializer, 'he, lecun, signed or torch.'
)
_INIT_FROM = flags.DEFINE_string(
  'init_from',
  Config.init_from,
  "Trained weights: an .npz or .safetensors under PyTorch's names, or the "
  '--workdir of a finished run. Sets how images are normalized, too.',
)
_ORIGINAL_EPOCHS = flags.DEFINE_float(
  'original_epochs',
  Config.original_epochs,
  'That the network of --init_from was trained for, which retraining rates '
  'look back at; by default those of its run, or 200.',
)
_DTYPE = flags.DEFINE_string(
  'dtype', Config.dtype, 'Of the computation: float32 or bfloat16.'
)
_NONFINITE = flags.DEFINE_string(
  'nonfinite',
  Config.nonfinite,
  'What becomes of a step whose loss or gradients are not finite: report '
  'counts it; skip also takes it as one without gradients.',
)
_EVALUATE_EVERY = flags.DEFINE_integer(
  'evaluate_every',
  Config.evaluate_every,
  'Epochs between two evaluations; 0 is only where a part of the run ends.',
)
_SEED = flags.DEFINE_integer(
  'seed', Config.seed, 'Of weights and batches. The factorization has its own.'
)
_MODEL_PARALLEL = flags.DEFINE_integer(
  'model_parallel',
  Config.model_parallel,
  'Devices that share each kernel; the others split the batch.',
)
_COORDINATOR = flags.DEFINE_string(
  'coordinator',
  None,
  'host:port of the first process, for a run of many processes. Give it to all '
  'of them, with --num_processes and --process_id, and a --workdir that they '
  'share.',
)
_NUM_PROCESSES = flags.DEFINE_integer(
  'num_processes', None, 'Of the run; each uses all devices of its machine.'
)
_PROCESS_ID = flags.DEFINE_integer(
  'process_id', None, 'Which of them this one is, from 0.'
)
_CLUSTER = flags.DEFINE_bool(
  'cluster',
  False,
  'Read --coordinator, --num_processes and --process_id from the environment: '
  'SLURM, Open MPI, Google Kubernetes Engine, Cloud TPU.',
)
_WORKDIR = flags.DEFINE_string(
  'workdir',
  None,
  'Directory for checkpoints and results. A run that was stopped there goes '
  'on. Nothing is stored without it.',
)
_SAVE_EVERY_S = flags.DEFINE_float(
  'save_every_s', 60, 'Seconds between two checkpoints, at least.'
)
_TENSORBOARD = flags.DEFINE_bool(
  'tensorboard',
  False,
  'Write the metrics of every epoch for TensorBoard, too, into `tensorboard` '
  'in --workdir. Needs the package tensorboardX.',
)


def main(argv: list[str]) -> None:
  """Turns the flags into a config, and runs it."""
  if len(argv) > 1:
    raise app.UsageError(f'Unknown argument {argv[1]!r}.')
  if not flags.FLAGS['verbosity'].present:
    # Orbax logs a hundred lines a save. What it calls errors, it raises, too.
    logging.set_verbosity(logging.FATAL)
    # Nor is this of use: what else TensorStore was doing when a read or a write
    # failed, from where nobody can catch it.
    sys.unraisablehook = lambda unraisable: None
    warnings.filterwarnings('ignore', 'coroutine .* was never awaited')
  if _METHOD.value == 'list':
    for name, entry in METHODS.items():
      own = ', '.join(options.describe(entry.recipe)) or 'no options'
      console.log(f'{name:16}  {entry.summary}  {entry.source}  [{own}]')
    return
  try:
    _run()
  except signals.Interrupted as stopped:
    console.log(str(stopped))
    sys.exit(stopped.code)
  except KeyboardInterrupt:
    if jax.process_count() > 1:
      os._exit(130)  # A usual exit would wait for the others.
    sys.exit(130)
  except (ValueError, OSError, jax.errors.JaxRuntimeError) as error:
    alone = jax.process_count() == 1
    if logging.level_info() or (alone and isinstance(error, RuntimeError)):
      raise  # `--verbosity=0` shows where it came from.
    if alone:
      sys.exit(f'Error: {error}')
    hosts.leave(error)


def _run() -> None:
  hosts.join(
    _COORDINATOR.value,
    _NUM_PROCESSES.value,
    _PROCESS_ID.value,
    detect=_CLUSTER.value,
  )
  config = Config(
    options=options.split(_OPTION.value),
    method=_METHOD.value,
    sparsity=_SPARSITY.value,
    model=_MODEL.value,
    dataset=_DATASET.value,
    train_images=_TRAIN_IMAGES.value,
    validation_images=_VALIDATION_IMAGES.value,
    epochs=_EPOCHS.value,
    dense_epochs=_DENSE_EPOCHS.value,
    batch_size=_BATCH_SIZE.value,
    learning_rate=_LEARNING_RATE.value,
    schedule=_SCHEDULE.value,
    warmup_fraction=_WARMUP_FRACTION.value,
    momentum=_MOMENTUM.value,
    weight_decay=_WEIGHT_DECAY.value,
    label_smoothing=_LABEL_SMOOTHING.value,
    bn_images=_BN_IMAGES.value,
    augment=_AUGMENT.value,
    initializer=_INITIALIZER.value,
    init_from=_INIT_FROM.value or None,
    original_epochs=_ORIGINAL_EPOCHS.value,
    dtype=_DTYPE.value,
    nonfinite=_NONFINITE.value,
    evaluate_every=_EVALUATE_EVERY.value,
    seed=_SEED.value,
    model_parallel=_MODEL_PARALLEL.value,
  )
  run.run(
    config,
    data_dir=_DATA_DIR.value,
    workdir=_WORKDIR.value,
    save_every_s=_SAVE_EVERY_S.value,
    tensorboard=_TENSORBOARD.value,
  )


if __name__ == '__main__':
  app.run(main)
