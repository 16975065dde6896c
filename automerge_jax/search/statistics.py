"""What item scores allow one to say: intervals, paired tests, optimism.

Every bootstrap resamples items within each task, keeps all models' scores of
an item together, and takes the unweighted mean over tasks of per-task means.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

_CHUNK = 2**22  # resampled counts held at once


class Estimate(NamedTuple):
  """A value with its interval; `reason` says why something is None."""

  value: float | None
  low: float | None
  high: float | None
  reason: str | None = None


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


def task_mean(scores: np.ndarray, tasks: np.ndarray) -> np.ndarray:
  """Unweighted mean over tasks of the means over items.

  Args:
    scores: one row a model, [..., n].
    tasks: index of each item's task, [n].

  Returns:
    Means [...].
  """
  scores, tasks = _checked(scores, tasks)
  means = [scores[..., tasks == t].mean(-1) for t in np.unique(tasks)]
  return np.mean(means, axis=0)


def resampled_means(
  scores: np.ndarray, tasks: np.ndarray, seed: int, draws: int = 10_000
) -> np.ndarray:
  """Means over tasks in bootstrap resamples that all rows share.

  Items with the same scores in every row are exchangeable, so only their
  number is drawn: one multinomial over the distinct columns of a task.

  Args:
    scores: one row a model, [R, n].
    tasks: index of each item's task, [n].
    seed: of the resamples.
    draws: number of resamples.

  Returns:
    Resampled means [R, draws].
  """
  scores, tasks = _checked(scores, tasks)
  present = np.unique(tasks)
  total = np.zeros((len(scores), draws))
  for task in present:
    rng = np.random.default_rng([seed, int(task)])
    columns, counts = np.unique(
      scores[:, tasks == task], axis=1, return_counts=True
    )
    n = counts.sum()
    step = max(1, _CHUNK // len(counts))
    for start in range(0, draws, step):
      stop = min(start + step, draws)
      drawn = rng.multinomial(n, counts / n, size=stop - start)
      total[:, start:stop] += columns @ drawn.T / n
  return total / len(present)


def mean_bootstrap(
  scores: np.ndarray,
  tasks: np.ndarray,
  seed: int,
  draws: int = 10_000,
  level: float = 0.95,
) -> Estimate:
  """Mean over tasks of one model's scores [n], percentile interval."""
  value = float(task_mean(scores, tasks))
  resampled = resampled_means(np.asarray(scores)[None], tasks, seed, draws)
  return Estimate(value, *_percentiles(resampled[0], level))


def paired_bootstrap(
  a: np.ndarray,
  b: np.ndarray,
  tasks: np.ndarray,
  seed: int,
  draws: int = 10_000,
  level: float = 0.95,
) -> Estimate:
  """Mean over tasks of a [n] minus that of b [n], percentile interval."""
  pairs = np.stack([np.asarray(a, float), np.asarray(b, float)])
  first, second = task_mean(pairs, tasks)
  drawn = resampled_means(pairs, tasks, seed, draws)
  return Estimate(
    float(first - second), *_percentiles(drawn[0] - drawn[1], level)
  )


def gap_closed(
  merged: np.ndarray,
  baseline: np.ndarray,
  experts: np.ndarray,
  tasks: np.ndarray,
  seed: int,
  draws: int = 10_000,
  level: float = 0.95,
) -> Estimate:
  """Share of the gap from baseline to experts that the merge closes.

  (merged - baseline) / (experts - baseline) of means over tasks. Searches with
  several seeds are averaged item by item; the interval is over items, not over
  seeds. There is no value where experts are not above the baseline; a resample
  in which they are not counts as unbounded on both sides.

  Args:
    merged: item scores of the merge, [n], or one row a seed, [S, n].
    baseline: item scores of the baseline, [n] or [S, n].
    experts: each item's score by the expert on its own task, [n].
    tasks: index of each item's task, [n].
    seed: of the resamples.
    draws: number of resamples.
    level: of the interval.
  """
  rows = np.stack(
    [np.atleast_2d(row).mean(0) for row in (merged, baseline, experts)]
  )
  ours, floor, ceiling = task_mean(rows, tasks)
  if ceiling <= floor:
    return Estimate(
      None,
      None,
      None,
      f'the experts ({ceiling:.4f}) are not above the baseline ({floor:.4f})',
    )
  ours_drawn, floor_drawn, ceiling_drawn = resampled_means(
    rows, tasks, seed, draws
  )
  gap = ceiling_drawn - floor_drawn
  usable = gap > 0
  ratio = np.divide(ours_drawn - floor_drawn, gap, where=usable, out=gap * 0)
  low, _ = _percentiles(np.where(usable, ratio, -np.inf), level)
  _, high = _percentiles(np.where(usable, ratio, np.inf), level)
  value = float((ours - floor) / (ceiling - floor))
  if np.isfinite(low) and np.isfinite(high):
    return Estimate(value, low, high)
  return Estimate(
    value,
    None,
    None,
    f'the experts are not above the baseline in {1 - usable.mean():.1%} of '
    'the resamples, so the interval is unbounded',
  )


def optimism(
  search: np.ndarray,
  search_tasks: np.ndarray,
  heldout: np.ndarray,
  heldout_tasks: np.ndarray,
  seed: int,
  draws: int = 10_000,
  level: float = 0.95,
) -> Estimate:
  """Search score minus held-out score of one model; the items differ."""
  value = task_mean(search, search_tasks) - task_mean(heldout, heldout_tasks)
  ours = resampled_means(np.asarray(search)[None], search_tasks, seed, draws)
  # Another seed: the two sets of items are independent.
  theirs = resampled_means(
    np.asarray(heldout)[None], heldout_tasks, seed + 1, draws
  )
  return Estimate(float(value), *_percentiles(ours[0] - theirs[0], level))


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


def _percentiles(drawn: np.ndarray, level: float) -> tuple[float, float]:
  tail = (1 - level) / 2
  return (
    float(np.quantile(drawn, tail, method='lower')),
    float(np.quantile(drawn, 1 - tail, method='higher')),
  )


def _checked(
  scores: np.ndarray, tasks: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  scores, tasks = np.asarray(scores, np.float64), np.asarray(tasks)
  if tasks.ndim != 1 or scores.shape[-1:] != tasks.shape or not tasks.size:
    raise ValueError(
      f'scores {scores.shape} and tasks {tasks.shape}: expected [..., n] and '
      '[n] with n > 0'
    )
  if not np.isfinite(scores).all():
    raise ValueError(
      f'{int((~np.isfinite(scores)).sum())} of {scores.size} scores are not '
      'finite; score the failed items again or leave the model out'
    )
  return scores, tasks
