"""Rows against one of them, seed by seed.

Runs of one seed begin with the same weights and see the same batches, so that
what they differ by varies less than each of them.
"""

import math
import statistics
from typing import NamedTuple

import scipy.stats

from experiments.config import check_choice
from experiments.rows import Row, Section

CONFIDENCE = 0.95


class Difference(NamedTuple):
  """By how much a row is ahead of the one that it is compared with."""

  row: Row
  mean: float  # Of the accuracies' differences, in points: of percent.
  half: float | None  # Of the interval's width; None of a single pair.
  pairs: int  # Seeds that both have.


def against(section: Section, label: str) -> list[Difference]:
  """Compares the rows of a section with one of them, at each sparsity.

  Args:
    section: rows of one budget.
    label: of the row that the others are compared with, at their sparsity.

  Returns:
    A difference for each other row that shares a seed, by sparsity, the best
    first; none where no row has that label.
  """
  references = {
    row.config.sparsity: row
    for row in section.rows
    if section.label(row) == label
  }
  found = [
    difference(row, references[row.config.sparsity])
    for row in section.rows
    if row.config.sparsity in references and section.label(row) != label
  ]
  return sorted(
    (x for x in found if x), key=lambda x: (x.row.config.sparsity, -x.mean)
  )


def difference(row: Row, reference: Row) -> Difference | None:
  """Compares two rows; None if they have no seed in common."""
  ours, theirs = (
    {run.config.seed: run.result['test_accuracy'] for run in r.runs}
    for r in (row, reference)
  )
  points = [100 * (ours[seed] - theirs[seed]) for seed in ours.keys() & theirs]
  if not points:
    return None
  return Difference(row, statistics.fmean(points), half(points), len(points))


def half(values: list[float]) -> float | None:
  """Half of the confidence interval of a mean, by Student's t.

  Example:
    >>> round(half([1.0, 2.0, 3.0]), 3)  # 4.303 / sqrt(3)
    2.484
  """
  if len(values) < 2:
    return None
  quantile = scipy.stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1)
  return float(quantile) * statistics.stdev(values) / math.sqrt(len(values))


def check(sections: list[Section], label: str) -> None:
  """Raises a `ValueError` with the nearest label, unless a row has it."""
  labels = [section.label(row) for section in sections for row in section.rows]
  check_choice('against', label, list(dict.fromkeys(labels)))
