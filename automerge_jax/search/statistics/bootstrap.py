"""Bootstrap intervals of means over tasks, and of what is made of them.

Every bootstrap resamples items within each task, keeps all models' scores of
an item together, and takes the unweighted mean over tasks of per-task means.
Other weights of the tasks come in by `by_weight`.
"""

from typing import NamedTuple

import numpy as np

_CHUNK = 2**22  # resampled counts held at once


class Estimate(NamedTuple):
  """A value with its interval; `reason` says why something is None."""

  value: float | None
  low: float | None
  high: float | None
  reason: str | None = None


def task_mean(scores: np.ndarray, tasks: np.ndarray) -> np.ndarray:
  """Unweighted mean over tasks of the means over items.

  Args:
    scores: one row a model, [..., n].
    tasks: index of each item's task, [n].

  Returns:
    Means [...].
  """
  scores, tasks = checked(scores, tasks)
  means = [scores[..., tasks == t].mean(-1) for t in np.unique(tasks)]
  return np.mean(means, axis=0)


def by_weight(
  scores: np.ndarray, tasks: np.ndarray, weights: np.ndarray
) -> np.ndarray:
  """Scores whose unweighted mean over tasks is the weighted one of `scores`.

  Args:
    scores: [..., n].
    tasks: index of each item's task, [n].
    weights: of the tasks, [tasks], in any unit.
  """
  share = np.asarray(weights, np.float64)
  share = share / share.mean()
  return np.asarray(scores, np.float64) * share[np.asarray(tasks)]


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
  scores, tasks = checked(scores, tasks)
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
  return Estimate(value, *percentiles(resampled[0], level))


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
    float(first - second), *percentiles(drawn[0] - drawn[1], level)
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
  low, _ = percentiles(np.where(usable, ratio, -np.inf), level)
  _, high = percentiles(np.where(usable, ratio, np.inf), level)
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
  return Estimate(float(value), *percentiles(ours[0] - theirs[0], level))


def percentiles(drawn: np.ndarray, level: float) -> tuple[float, float]:
  tail = (1 - level) / 2
  return (
    float(np.quantile(drawn, tail, method='lower')),
    float(np.quantile(drawn, 1 - tail, method='higher')),
  )


def checked(
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
