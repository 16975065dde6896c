"""Whether the surrogate may choose among proposals: it has to earn it.

Its predictions of every generation are compared with what came of them. Only
what was predicted well lately is trusted for the next generation.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

ON = 0.3  # mean rank correlation at which screening starts
# What is screened is alike in its predictions, which lowers the correlation:
# of the best quarter by prediction, 0.5 is left as 0.23.
OFF = 0.1  # below which it ends
LAST = 3  # generations that count
_LEAST = 4  # candidates that a correlation needs


class Generation(NamedTuple):
  """A generation that was predicted.

  Attributes:
    generation: its number.
    predicted: of each candidate, [P]; NaN where nothing was predicted.
    achieved: how good each turned out, [P]; only the order counts, -inf is
      for what failed.
  """

  generation: int
  predicted: Sequence[float]
  achieved: Sequence[float]


class Row(NamedTuple):
  """What was made of a generation's predictions.

  Attributes:
    generation: its number.
    correlation: Spearman's, of predicted and achieved; None where too few were
      predicted or all came out equal, so that it says nothing.
    on: whether the next generation is screened.
  """

  generation: int
  correlation: float | None
  on: bool

  def document(self) -> dict[str, Any]:
    return self._asdict()


def correlation(
  predicted: Sequence[float], achieved: Sequence[float]
) -> float | None:
  """Spearman's rank correlation; 0 of equal predictions, None without data."""
  foreseen, came = np.asarray(predicted, float), np.asarray(achieved, float)
  there = np.isfinite(foreseen) & ~np.isnan(came)
  foreseen, came = foreseen[there], came[there]
  if len(came) < _LEAST or (came == came[0]).all():
    return None
  if (foreseen == foreseen[0]).all():
    return 0.0
  ranks = stats.rankdata(foreseen), stats.rankdata(came)
  return float(np.corrcoef(*ranks)[0, 1])


def decide(generations: Sequence[Generation]) -> list[Row]:
  """Rows of all generations that were predicted, oldest first.

  Screening starts when the mean of the last three correlations is at least 0.3
  (of predictions that say nothing, with twelve candidates, one in twenty is),
  and ends when it falls below 0.1. Until there are three it is off. A
  generation without a correlation changes nothing.
  """
  rows, seen, on = [], [], False
  for one in generations:
    found = correlation(one.predicted, one.achieved)
    if found is not None:
      seen.append(found)
      if len(seen) >= LAST:
        on = math.fsum(seen[-LAST:]) / LAST >= (OFF if on else ON)
    rows.append(Row(one.generation, found, on))
  return rows


def words(rows: Sequence[Row]) -> str | None:
  """Why screening starts or ends after the last row; None where it does not."""
  if not rows:
    return None
  before = len(rows) > 1 and rows[-2].on
  last = rows[-1]
  if last.on == before:
    return None
  found = [row.correlation for row in rows if row.correlation is not None]
  mean = math.fsum(found[-LAST:]) / LAST
  about = (
    f'after generation {last.generation}: the mean rank correlation of its '
    f'predictions over {LAST} generations is {mean:.2f}'
  )
  if last.on:
    return f'the surrogate screens {about}, at least {ON}'
  return f'the surrogate no longer screens {about}, below {OFF}'
