"""Rows against one of them, seed by seed.

Runs of one seed see the same batches, and most begin with the same weights, so
that what they differ by varies less than each of them.
"""

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

import scipy.stats

from experiments.config import check_choice
from experiments.rows import Row, Section

CONFIDENCE = 0.95


class Difference(NamedTuple):
  """By how much a row is ahead of the one that it is compared with."""

  row: Row
  points: tuple[float, ...]  # Of percent, for each seed that both have.
  # Halves of confidence intervals: of this comparison alone, by Student; and of
  # all at its sparsity at once, whose deviations are taken for one.
  alone: float | None = None
  jointly: float | None = None

  @property
  def mean(self) -> float:
    """Over seeds."""
    return statistics.fmean(self.points)


def against(section: Section, label: str) -> list[Difference]:
  """Compares the rows of a section with one of them, at each sparsity.

  Args:
    section: rows of one budget.
    label: of the row that the others are compared with: at their sparsity, or
      at all if it is dense.

  Returns:
    A difference for each other sparse row that shares a seed, by sparsity, the
    best first; none where no row has that label.

  Raises:
    ValueError: two rows of one sparsity have that label.
  """
  references = [row for row in section.rows if section.label(row) == label]
  found: dict[float, list[Difference]] = {}
  for row in section.rows:
    same = [
      reference
      for reference in references
      if is_dense(reference) or reference.config.sparsity == row.config.sparsity
    ]
    if len(same) > 1:
      raise ValueError(
        f'`against`={label!r} is the label of several rows, of which none can '
        'be chosen. Report fewer runs.'
      )
    if same and not is_dense(row) and row not in references:
      points = differences(row, same[0])
      if points:
        found.setdefault(row.config.sparsity, []).append(
          Difference(row, points)
        )
  return [
    difference
    for asked in sorted(found)
    for difference in sorted(_sure(found[asked]), key=lambda x: -x.mean)
  ]


def is_dense(row: Row) -> bool:
  """Whether nothing is pruned, whatever was asked for."""
  return row.config.method == 'dense'


def differences(row: Row, reference: Row) -> tuple[float, ...]:
  """By how many points a row is ahead, for each seed that both have."""
  ours, theirs = (
    {run.config.seed: run.result['test_accuracy'] for run in r.runs}
    for r in (row, reference)
  )
  return tuple(
    100 * (ours[seed] - theirs[seed]) for seed in sorted({*ours} & {*theirs})
  )


def _sure(found: Sequence[Difference]) -> list[Difference]:
  """Adds the intervals."""
  freedom = sum(len(x.points) - 1 for x in found)
  squares = sum(len(x.points) * statistics.pvariance(x.points) for x in found)
  return [
    x._replace(
      alone=_half(
        len(x.points) * statistics.pvariance(x.points),
        len(x.points) - 1,
        len(x.points),
      ),
      jointly=_half(squares, freedom, len(x.points), comparisons=len(found)),
    )
    for x in found
  ]


def _half(
  squares: float, freedom: int, num: int, comparisons: int = 1
) -> float | None:
  """Half of a mean's interval, of a sum of squares; by Bonferroni of many."""
  if not freedom:
    return None
  miss = (1 - CONFIDENCE) / 2 / comparisons
  quantile = float(scipy.stats.t.ppf(1 - miss, freedom))
  return quantile * math.sqrt(squares / freedom / num)


def check(sections: Sequence[Section], label: str) -> None:
  """Raises a `ValueError` with the nearest label, unless a row has it."""
  labels = [section.label(row) for section in sections for row in section.rows]
  check_choice('against', label, list(dict.fromkeys(labels)))
