"""The best of several flatters itself: estimates that make up for the choice.

The out-of-bag estimate chooses the winner on a resample and scores it on the
items that the resample left out, on average over resamples (as bootstrap bias
corrected cross-validation does: Tsamardinos et al. 2018, Mach. Learn.
107:1895). Chosen and scored on different items, it has no upward bias; it is a
little pessimistic, since a resample chooses by fewer different items. Shifting
the winner's score by the bias found in resamples would correct too little: in
resamples the observed differences count as true ones. Its interval is that of
the out-of-bag scores: they vary by which items were left out and by who won.
Of items drawn once a share of 1/e is left out, and the mean of a share f of n
items scatters about that of all by (1 - f) / (f n) of an item's variance, so
the scatter is scaled by sqrt(f / (1 - f)) to that of n items.

Simultaneous intervals hold for all compared pairs at once, so also for the one
that was chosen after looking (studentised max-type bootstrap: Romano and Wolf
2005, Econometrica 73:1237).
"""

import math
from typing import NamedTuple

import numpy as np

from automerge_jax.search.statistics.bootstrap import (
  checked,
  percentiles,
  resampled_means,
  task_mean,
)

_CHUNK = 2**22  # resampled counts held at once
_LEFT_OUT = math.exp(-1)  # share of items that a resample leaves out
_TIED = 1e-9


class Winner(NamedTuple):
  """Score of the best of several, or the difference of two bests.

  Attributes:
    naive: as it was chosen, on the same items.
    value: corrected for the choice.
    low, high: its interval.
  """

  naive: float
  value: float
  low: float
  high: float


class Simultaneous(NamedTuple):
  """A difference, and an interval and p-value that know of all others."""

  difference: float
  low: float
  high: float
  p: float


def best_of(
  scores: np.ndarray,
  tasks: np.ndarray,
  seed: int,
  draws: int = 2000,
  level: float = 0.95,
) -> Winner:
  """Mean over tasks of the best of F models, corrected for the choice.

  Args:
    scores: one row a model, [F, n].
    tasks: index of each item's task, [n].
    seed: of the resamples.
    draws: number of resamples.
    level: of the interval.
  """
  scores, tasks = checked(scores, tasks)
  drawn = _out_of_bag([scores], tasks, seed, draws)[0]
  return _winner(float(task_mean(scores, tasks).max()), drawn, level)


def difference_of_bests(
  ours: np.ndarray,
  theirs: np.ndarray,
  tasks: np.ndarray,
  seed: int,
  draws: int = 2000,
  level: float = 0.95,
) -> Winner:
  """Best of F models minus best of G, both corrected for their choice.

  Args:
    ours: [F, n].
    theirs: [G, n], on the same items.
    tasks: index of each item's task, [n].
    seed: of the resamples.
    draws: number of resamples.
    level: of the interval.
  """
  ours, tasks = checked(ours, tasks)
  theirs, _ = checked(theirs, tasks)
  naive = task_mean(ours, tasks).max() - task_mean(theirs, tasks).max()
  one, other = _out_of_bag([ours, theirs], tasks, seed, draws)
  return _winner(float(naive), one - other, level)


def simultaneous(
  ours: np.ndarray,
  theirs: np.ndarray,
  tasks: np.ndarray,
  chosen: tuple[int, int],
  seed: int,
  draws: int = 2000,
  level: float = 0.95,
) -> Simultaneous:
  """One pair's difference, held against all F times G pairs.

  Args:
    ours: [F, n].
    theirs: [G, n], on the same items.
    tasks: index of each item's task, [n].
    chosen: the pair (of F, of G), however it was chosen.
    seed: of the resamples.
    draws: number of resamples.
    level: at which all intervals hold at once.
  """
  ours, tasks = checked(ours, tasks)
  theirs, _ = checked(theirs, tasks)
  rows = np.concatenate([ours, theirs])
  means = task_mean(rows, tasks)
  split = len(ours)
  cov = _covariance(rows, tasks)
  variance = np.diag(cov)[:split, None] + np.diag(cov)[None, split:]
  variance = variance - 2 * cov[:split, split:]
  error = np.sqrt(np.maximum(variance, 0.0))
  moved = resampled_means(rows, tasks, seed, draws) - means[:, None]
  largest = np.zeros(draws)
  for i in range(split):
    apart = np.abs(moved[i] - moved[split:])
    known = error[i] > _TIED  # models that never differ have no error
    if known.any():
      ratio = apart[known] / error[i, known, None]
      largest = np.maximum(largest, ratio.max(axis=0))
  i, j = chosen
  difference = float(means[i] - means[split + j])
  reach = float(np.quantile(largest, level, method='higher')) * error[i, j]
  p = 1.0
  if error[i, j] > _TIED:
    beyond = (largest >= abs(difference) / error[i, j] - _TIED).sum()
    p = float((1 + beyond) / (draws + 1))
  return Simultaneous(
    difference, float(difference - reach), float(difference + reach), p
  )


def _winner(naive: float, drawn: np.ndarray, level: float) -> Winner:
  value = drawn.mean()
  scale = math.sqrt(_LEFT_OUT / (1 - _LEFT_OUT))
  return Winner(
    naive, float(value), *percentiles(value + scale * (drawn - value), level)
  )


def _covariance(rows: np.ndarray, tasks: np.ndarray) -> np.ndarray:
  """Of the rows' means over tasks, [R, R]."""
  present = np.unique(tasks)
  total = np.zeros((len(rows), len(rows)))
  for task in present:
    mine = rows[:, tasks == task]
    centred = mine - mine.mean(axis=1, keepdims=True)
    total += centred @ centred.T / mine.shape[1] ** 2
  return total / len(present) ** 2


def _out_of_bag(
  groups: list[np.ndarray], tasks: np.ndarray, seed: int, draws: int
) -> np.ndarray:
  """Out-of-bag scores of each group's winner, [groups, draws].

  Resamples that leave out no item of some task are left out themselves.
  """
  rows = np.concatenate(groups)
  present = np.unique(tasks)
  chosen_by = np.zeros((len(rows), draws))
  scored = np.zeros((len(rows), draws))
  for task in present:
    rng = np.random.default_rng([seed, int(task)])
    mine = rows[:, tasks == task]
    n = mine.shape[1]
    step = max(1, _CHUNK // n)
    for start in range(0, draws, step):
      stop = min(start + step, draws)
      counts = rng.multinomial(n, np.full(n, 1 / n), size=stop - start)
      left = (counts == 0).astype(float)
      size = left.sum(axis=1)
      chosen_by[:, start:stop] += mine @ counts.T / n
      with np.errstate(invalid='ignore'):
        scored[:, start:stop] += mine @ left.T / size
  usable = np.isfinite(scored[0])
  if not usable.any():
    raise ValueError(
      f'{len(tasks)} items of {len(present)} tasks are too few to choose and '
      'score on different ones'
    )
  found, start = [], 0
  for group in groups:
    mine = slice(start, start + len(group))
    winner = chosen_by[mine].argmax(axis=0)
    values = scored[mine][winner, np.arange(draws)]
    found.append(values[usable] / len(present))
    start += len(group)
  return np.asarray(found)
