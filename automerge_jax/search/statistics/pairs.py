"""One task's scores: intervals of proportions, paired tests."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from automerge_jax.search.statistics.bootstrap import (
  Estimate,
  mean_bootstrap,
  paired_bootstrap,
)


class McNemar(NamedTuple):
  """Paired comparison of two models on the same items.

  Attributes:
    difference: accuracy of the first minus that of the second.
    low, high: its interval.
    gained, lost: items that only the first, only the second, gets right.
    p: exact two-sided p-value of gained = lost.
  """

  difference: float
  low: float
  high: float
  gained: int
  lost: int
  p: float


def wilson(
  successes: float, n: int, level: float = 0.95
) -> tuple[float, float]:
  """Interval (low, high) of a proportion (Wilson 1927, JASA 22:209)."""
  if not 0 <= successes <= n or n < 1:
    raise ValueError(
      f'{successes} successes of {n}: expected 0 <= successes <= n and n >= 1'
    )
  z = stats.norm.ppf(0.5 + level / 2)
  share = float(successes) / n
  center = (share + z**2 / (2 * n)) / (1 + z**2 / n)
  half = z / (1 + z**2 / n)
  half *= math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
  low = 0.0 if successes == 0 else center - half
  high = 1.0 if successes == n else center + half
  return float(low), float(high)


def mcnemar(a: np.ndarray, b: np.ndarray, level: float = 0.95) -> McNemar:
  """Exact McNemar test of two models' 0/1 scores [n] on the same items.

  The p-value is binomial on the discordant pairs (McNemar 1947, exact form).
  The interval is Newcombe's method 10: Wilson's intervals, squared and added
  with the continuity-corrected correlation (1998, Stat. Med. 17:2635). It may
  touch zero where p is just below 0.05, or the other way round.
  """
  a, b = np.asarray(a), np.asarray(b)
  if a.shape != b.shape or a.ndim != 1 or not a.size:
    raise ValueError(f'shapes {a.shape} and {b.shape}: expected one [n], n > 0')
  if not (np.isin(a, (0, 1)).all() and np.isin(b, (0, 1)).all()):
    raise ValueError('scores other than 0 and 1; use `paired`')
  n = len(a)
  a, b = a.astype(bool), b.astype(bool)
  both, neither = int((a & b).sum()), int((~a & ~b).sum())
  gained, lost = int((a & ~b).sum()), int((~a & b).sum())
  p = 1.0
  if gained + lost:
    p = float(stats.binomtest(gained, gained + lost, 0.5).pvalue)
  low, high = _newcombe(both, gained, lost, neither, level)
  return McNemar((gained - lost) / n, low, high, gained, lost, p)


def mean(scores: np.ndarray, seed: int, level: float = 0.95) -> Estimate:
  """Mean of one task's scores [n]; Wilson's interval where they are 0/1."""
  scores = np.asarray(scores)
  if np.isin(scores, (0, 1)).all():
    right = float(scores.sum())
    return Estimate(right / len(scores), *wilson(right, len(scores), level))
  return mean_bootstrap(scores, np.zeros(len(scores), int), seed, level=level)


def paired(
  a: np.ndarray, b: np.ndarray, seed: int, level: float = 0.95
) -> McNemar:
  """Two models' scores [n] on one task's items: McNemar's test for 0/1 scores.

  Other scores: a paired bootstrap, and an exact sign test of the items that
  differ, counted as gained and lost.
  """
  a, b = np.asarray(a), np.asarray(b)
  if np.isin(a, (0, 1)).all() and np.isin(b, (0, 1)).all():
    return mcnemar(a, b, level)
  gained, lost = int((a > b).sum()), int((a < b).sum())
  p = 1.0
  if gained + lost:
    p = float(stats.binomtest(gained, gained + lost, 0.5).pvalue)
  difference = paired_bootstrap(a, b, np.zeros(len(a), int), seed, level=level)
  value, low, high, _ = difference
  assert value is not None and low is not None and high is not None
  return McNemar(value, low, high, gained, lost, p)


def holm(p_values: Sequence[float]) -> list[float]:
  """Adjusted p-values (Holm 1979, Scand. J. Stat. 6:65), in the same order."""
  order = np.argsort(p_values, kind='stable')
  adjusted = [0.0] * len(order)
  running = 0.0
  for rank, index in enumerate(order):
    running = max(running, (len(order) - rank) * float(p_values[index]))
    adjusted[index] = min(1.0, running)
  return adjusted


def _newcombe(
  both: int, gained: int, lost: int, neither: int, level: float
) -> tuple[float, float]:
  n = both + gained + lost + neither
  first, second = (both + gained) / n, (both + lost) / n
  low1, high1 = wilson(both + gained, n, level)
  low2, high2 = wilson(both + lost, n, level)
  product = both * neither - gained * lost
  if product > 0:
    product = max(product - n / 2, 0)
  margins = (
    (both + gained) * (lost + neither) * (both + lost) * (gained + neither)
  )
  phi = product / math.sqrt(margins) if margins else 0.0

  def reach(down: float, up: float) -> float:
    return math.sqrt(max(down**2 - 2 * phi * down * up + up**2, 0.0))

  difference = (gained - lost) / n
  return (
    difference - reach(first - low1, high2 - second),
    difference + reach(high1 - first, second - low2),
  )
