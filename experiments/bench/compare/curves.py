"""From what a search evaluated to curves over the items that it spent."""

from collections.abc import Mapping, Sequence
from typing import Any

import moocore
import numpy as np

from automerge_jax.search import fronts
from experiments.bench.compare import evaluated
from experiments.bench.compare.evaluated import Evaluated
from experiments.bench.compare.marks import Marks

FINALISTS = 8
MEMBERS = 16  # that may be in a front


def of_one(
  log: Sequence[Evaluated], marks: Marks, budget: int, shares: Sequence[float]
) -> dict[str, list[float]]:
  """The current choice at each share of the budget: its scores, [shares].

  The choice is of the best by search items the best on select items, for every
  search alike.
  """
  select, heldout, search = [], [], []
  for share in shares:
    found = evaluated.finalists(log, round(share * budget), FINALISTS)
    if not found:  # nothing was scored yet
      select, heldout, search = (
        [*rows, float('nan')] for rows in (select, heldout, search)
      )
      continue
    means = marks.means('select', found).mean(1)
    best = found[int(means.argmax())]
    select.append(round(float(means.max()), 4))
    heldout.append(round(float(marks.means('heldout', [best]).mean()), 5))
    search.append(round(float(best.values.mean()), 4))
  return {'heldout': heldout, 'select': select, 'search': search}


def of_front(
  log: Sequence[Evaluated],
  marks: Marks,
  budget: int,
  shares: Sequence[float],
  worst: Sequence[float],
) -> dict[str, list[float]]:
  """Held-out hypervolume above `worst` of the current front, [shares].

  The front is of what no other merge dominates on select items, of those that
  come first on search items; for every search alike.
  """
  volumes = []
  for share in shares:
    found = evaluated.front(log, round(share * budget), MEMBERS)
    if not found:  # nothing was scored yet
      volumes.append(0.0)
      continue
    level = fronts.fronts(marks.means('select', found))
    found = [one for one, at in zip(found, level, strict=True) if at == 0]
    volumes.append(volume(marks.means('heldout', found), worst))
  return {'hypervolume': volumes}


def volume(values: np.ndarray, worst: Sequence[float]) -> float:
  """What points [n, M], which are maximised, dominate above `worst`."""
  return float(moocore.hypervolume(-values, ref=-np.asarray(worst)))


def area(shares: Sequence[float], values: Sequence[float]) -> float:
  """Mean height of a curve between its first and its last share."""
  x, y = np.asarray(shares), np.asarray(values)
  known = np.isfinite(y)
  x, y = x[known], y[known]
  return float(np.trapezoid(y, x) / (x[-1] - x[0]))


def reached(
  shares: Sequence[float], values: Sequence[float], target: float
) -> float:
  """The first share at which a curve is at a target, inf if it never is."""
  there = np.flatnonzero(np.asarray(values) >= target)
  return float(shares[there[0]]) if len(there) else float('inf')


def medians(rows: Sequence[Mapping[str, Any]], name: str) -> np.ndarray:
  """The median curve of some runs, [shares]."""
  return np.nanmedian([row[name] for row in rows], axis=0)
