"""What a search saw of its candidates, as a table that a model learns from."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Observation(NamedTuple):
  """A candidate on the items that one rung adds.

  Attributes:
    x: proposal on the grid, [D].
    rung: whose items it was scored on.
    share: of all search items that it was scored on there.
    value: mean paired difference to the incumbent, [M].
    variance: of that mean, [M].
    rank: how good the candidate is; higher is better.
  """

  x: np.ndarray
  rung: int
  share: float
  value: np.ndarray
  variance: np.ndarray
  rank: float


class Observations(NamedTuple):
  """As `Observation`, N rows, a fixed number.

  Attributes:
    x: [N, D].
    rung: int32 [N].
    share: [N].
    value, variance: [N, M].
    filled: which rows hold something, bool [N].
  """

  x: np.ndarray
  rung: np.ndarray
  share: np.ndarray
  value: np.ndarray
  variance: np.ndarray
  filled: np.ndarray


def paired(
  score: np.ndarray,
  incumbent: np.ndarray,
  task: np.ndarray,
  weights: np.ndarray,
) -> tuple[float, float] | None:
  """Mean paired difference to the incumbent and its variance.

  Stratified by task: sum_t w_t mean_t(d) and sum_t w_t^2 var_t(d) / n_t. NaN
  items, which a race did not get to, do not count.

  Args:
    score: of the candidate, [n].
    incumbent: of the incumbent on the same items, [n].
    task: index of each item's task, [n].
    weights: of the tasks in the objective, [tasks].

  Returns:
    None where a task that counts has fewer than two items.
  """
  difference = np.asarray(score, np.float64) - incumbent
  mean = variance = 0.0
  for index in np.flatnonzero(weights):
    mine = difference[np.asarray(task) == index]
    mine = mine[np.isfinite(mine)]
    if len(mine) < 2:
      return None
    mean += weights[index] * mine.mean()
    variance += weights[index] ** 2 * mine.var(ddof=1) / len(mine)
  return float(mean), float(variance)


def table(
  rows: Sequence[Observation], capacity: int, num_dims: int, objectives: int
) -> Observations:
  """Rows [N] of a fixed number, in their order.

  Of more than N, the N / 2 of the best ranks are kept (of equal ones the
  newest), and of the others the newest.

  Args:
    rows: oldest first.
    capacity: N.
    num_dims: D.
    objectives: M.

  Raises:
    ValueError: for a value or a variance that is no number, or no share.
  """
  for row in rows:
    numbers = np.concatenate([row.value, row.variance])
    if not (np.isfinite(numbers).all() and 0 < row.share <= 1):
      raise ValueError(
        f'an observation of rung {row.rung} has value {row.value}, variance '
        f'{row.variance} and share {row.share}; expected finite numbers and a '
        'share in (0, 1]'
      )
  kept = rows
  if len(rows) > capacity:
    age = -np.arange(len(rows))
    best = np.lexsort((age, [-row.rank for row in rows]))[: capacity // 2]
    rest = np.setdiff1d(np.arange(len(rows)), best)
    newest = rest[len(rest) - (capacity - len(best)) :]
    kept = [rows[i] for i in np.sort(np.concatenate([best, newest]))]
  count = len(kept)
  out = Observations(
    np.full((capacity, num_dims), 0.5, np.float32),
    np.zeros(capacity, np.int32),
    np.ones(capacity, np.float32),
    np.zeros((capacity, objectives), np.float32),
    np.zeros((capacity, objectives), np.float32),
    np.arange(capacity) < count,
  )
  for field in ('x', 'rung', 'share', 'value', 'variance'):
    if count:
      getattr(out, field)[:count] = [getattr(row, field) for row in kept]
  return out
