"""What a report says in words and tables."""

import statistics
from collections.abc import Sequence

from experiments import commands, console, paired
from experiments.rows import Row, Section

HEAD = (
  *('method', 'sparsity asked', 'reached', '{accuracy}, %', 'n'),
  *('speed-up', 'training', 'time of a run'),
)
CAPTION = (
  'Mean and standard deviation over n seeds. Speed-up, in theory: '
  'multiply-accumulates of the dense network over those of nonzero weights. '
  'Training, in theory: those of all steps on hardware that skips zeros, of '
  "what dense training takes, without a method's own extras. The runs "
  'themselves were no faster for it. Times are those of runs that went through '
  'at once.'
)
PAIRED_HEAD = (
  *('method', 'sparsity asked', 'points', '95 % interval', 'of all at once'),
  'pairs',
)


def head(section: Section) -> list[str]:
  """Names the columns of `cells`."""
  return [name.format(accuracy=accuracy(section)) for name in HEAD]


def accuracy(section: Section) -> str:
  """Names what rows are judged by.

  Example:
    >>> accuracy(Section((('validation_images', 0),), (), {}))
    'test accuracy'
  """
  held_out = dict(section.budget)['validation_images']
  return 'held-out accuracy' if held_out else 'test accuracy'


def cells(section: Section, row: Row) -> list[str]:
  """Writes a row of the table, a text for each of `HEAD`."""
  found = f'{100 * row.mean("test_accuracy"):.2f}'
  if (deviation := row.deviation('test_accuracy')) is not None:
    found += f' ± {100 * deviation:.2f}'
  speedup = row.mean('speedup')
  spent, executed = row.mean('train_flops'), row.mean('train_flops_dense')
  # Of a run that was resumed, only the last part is known.
  seconds = [
    run.result['seconds']
    for run in row.runs
    if 'seconds' in run.result and not run.result.get('resumed_at_step')
  ]
  return [
    section.label(row),
    '–' if paired.is_dense(row) else f'{100 * row.config.sparsity:g} %',
    f'{100 * row.sparsity:.2f} %',
    found,
    str(len(row.runs)),
    f'{speedup:.2f}' if speedup else '–',
    f'{100 * spent / executed:.1f} %' if executed else '–',
    console.duration(statistics.fmean(seconds)) if seconds else '–',
  ]


def differences(
  section: Section, found: Sequence[paired.Difference]
) -> list[list[str]]:
  """Writes what `paired.against` has found, a text for each `PAIRED_HEAD`."""

  def interval(x, half):
    if half is None:
      return '–'
    return f'{x.mean - half:+.2f} to {x.mean + half:+.2f}'

  return [
    [
      section.label(x.row),
      f'{100 * x.row.config.sparsity:g} %',
      f'{x.mean:+.2f}',
      interval(x, x.alone),
      interval(x, x.jointly),
      str(len(x.points)),
    ]
    for x in found
  ]


def paired_words(label: str, found: Sequence[paired.Difference]) -> str:
  """Says what the intervals are."""
  return (
    f'By how many points each is ahead of {label}, seed by seed: mean, and '
    "its 95 % confidence interval by Student's t. Of many such intervals some "
    'miss. The other is wide enough for all rows of a sparsity at once '
    f'(Bonferroni; {len(found)} comparisons here in all), and takes their '
    'deviations for one.'
  )


def title(section: Section) -> str:
  """Names the budget of a section.

  Example:
    >>> title(Section((('model', 'resnet8'), ('dataset', 'cifar10'),
    ...                ('train_images', 0), ('validation_images', 0),
    ...                ('epochs', 3), ('batch_size', 128),
    ...                ('init_from', None)), (), {}))
    'resnet8 on cifar10, 3 epochs'
  """
  budget = dict(section.budget)
  text = '{model} on '.format(**budget)
  if budget['train_images']:
    text += f'{budget["train_images"]:,} images of '
  text += '{dataset}, {epochs:g} epoch'.format(**budget)
  text += '' if budget['epochs'] == 1 else 's'
  if budget['init_from']:
    text += f', from {budget["init_from"]}'
  if budget['validation_images']:
    text += f', judged by {budget["validation_images"]:,} held-out images'
  return text


def words(section: Section) -> str:
  """Says what the rows of a section have in common, and what is unsure."""
  budget = dict(section.budget)
  text = (
    'These rows compare at equal budget: the same network, data and number of '
    f'steps, dense training included, in batches of {budget["batch_size"]}.'
  )
  if section.common:
    pairs = ', '.join(f'{k} {v}' for k, v in section.common.items())
    text += f' All have {pairs}.'
  counts = {len(row.runs) for row in section.rows}
  if len(counts) > 1:
    text += ' They do not all have as many seeds.'
  if min(counts) == 1:
    text += ' Of a single seed, no deviation is known.'
  return text


def lead(sections: Sequence[Section]) -> str:
  """Says how much there is."""
  every = [row for section in sections for row in section.rows]
  runs = sum(len(row.runs) for row in every)
  budgets = f', {len(sections)} budgets' if len(sections) > 1 else ''
  return f'{runs} runs, {len(every)} configurations{budgets}'


def seeds(row: Row) -> str:
  """Lists the seeds of a row."""
  return ', '.join(str(run.config.seed) for run in row.runs)


def where(sections: Sequence[Section]) -> str:
  """Says on what devices and versions the runs were made, and for how long."""
  results = [
    run.result
    for section in sections
    for row in section.rows
    for run in row.runs
  ]
  devices = sorted({str(r.get('device', 'unknown')) for r in results})
  versions = sorted(
    {
      ', '.join(f'{k} {v}' for k, v in r.get('versions', {}).items())
      for r in results
    }
  )
  seconds = sum(r.get('seconds', 0) for r in results)
  return (
    f'Devices: {"; ".join(devices)}. Versions: {"; ".join(versions)}. All runs '
    f'together: {seconds / 3600:.1f} hours, without what was lost where one '
    'was stopped.'
  )


def markdown(
  sections: Sequence[Section],
  problems: Sequence[str],
  labels: Sequence[str] = (),
) -> str:
  """Writes the tables and their commands as Markdown."""
  parts = [f'# {lead(sections)}']
  parts += [f'Left out: {problem}' for problem in problems]
  for section in sections:
    parts += [f'## {title(section)}', words(section)]
    parts += [
      _table(head(section), [cells(section, row) for row in section.rows]),
      CAPTION,
    ]
    for label in labels:
      if found := paired.against(section, label):
        parts += [
          f'### Against `{label}`',
          _table(PAIRED_HEAD, differences(section, found)),
          paired_words(label, found),
        ]
    parts.append(
      '\n'.join(
        f'- `{commands.command(row.config)}` (seeds {seeds(row)})'
        for row in section.rows
      )
    )
  return '\n\n'.join([*parts, where(sections)]) + '\n'


def _table(names: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
  return '\n'.join(
    f'| {" | ".join(line)} |' for line in [names, ['---'] * len(names), *lines]
  )
