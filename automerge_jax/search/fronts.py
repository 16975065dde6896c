"""Several objectives: fronts, who comes first, and what to take of the best.

Objectives are maximised and a row with a NaN was not scored. Sorting, crowding
and constraint-domination follow NSGA-II (Deb et al. 2002, IEEE TEC 6:182).
A violation is the sum of what each constraint is missed by; 0 or less keeps
them all.
"""

from collections.abc import Sequence

import moocore
import numpy as np

_SINGULAR = 1e-9  # least part of the largest singular value


def fronts(
  values: np.ndarray, violation: np.ndarray | None = None
) -> np.ndarray:
  """The front of each row, 0 the best, -1 where it was not scored, int [P].

  A row dominates another that it matches everywhere and beats once. One that
  keeps the constraints dominates all that do not; among those a smaller
  violation dominates, and of equal ones the objectives decide.

  Args:
    values: objectives, [P, M].
    violation: [P]; None without constraints.

  Raises:
    ValueError: if the shapes do not fit.
  """
  values, broken = _checked(values, violation)
  front = np.full(len(values), -1)
  rows = np.flatnonzero(_scored(values, broken))
  above = _dominates(values[rows], broken[rows])
  dominators, level = above.sum(0), 0
  left = np.ones(len(rows), bool)
  while left.any():
    now = left & (dominators == 0)
    front[rows[now]] = level
    dominators = dominators - above[now].sum(0)
    left, level = left & ~now, level + 1
  return front


def crowding(values: np.ndarray) -> np.ndarray:
  """How far apart the neighbours of each row of one front are, [P].

  The mean over objectives of the distance between the next lower and the next
  higher row, as a share of the objective's range; inf at either end. Objectives
  that are the same everywhere count nothing, and of equal rows all but the
  first have 0. Up to two rows are ends.

  Args:
    values: [P, M], scored.

  Raises:
    ValueError: if a row was not scored.
  """
  values, _ = _checked(values, None)
  if np.isnan(values).any():
    raise ValueError(
      f'{int(np.isnan(values).any(1).sum())} of {len(values)} rows hold NaN; '
      'leave out what was not scored'
    )
  if len(values) <= 2:
    return np.full(len(values), np.inf)
  _, first = np.unique(values, axis=0, return_index=True)
  first = np.sort(first)
  rows = _finite(values[first])
  distance = np.zeros(len(rows))
  for column in rows.T:
    order = np.argsort(-column, kind='stable')
    if span := np.ptp(column):
      steps = np.diff(-column[order], prepend=-np.inf, append=np.inf)
      distance[order] += (steps[:-1] + steps[1:]) / span
  result = np.zeros(len(values))
  result[first] = distance / rows.shape[1]
  return result


def order(
  values: np.ndarray, violation: np.ndarray | None = None
) -> np.ndarray:
  """Positions best first, [P]: by front, then the less crowded, then index.

  Rows that were not scored come last; see `fronts` for the arguments.
  """
  values, _ = _checked(values, violation)
  front = fronts(values, violation)
  distance = np.zeros(len(values))
  for level in range(front.max(initial=-1) + 1):
    distance[front == level] = crowding(values[front == level])
  return np.lexsort((-distance, np.where(front < 0, len(front), front)))


def ranks(
  rungs: Sequence[np.ndarray],
  violations: Sequence[np.ndarray] | None = None,
) -> np.ndarray:
  """Scores that respect fidelity: who got further comes first.

  Args:
    rungs: the objectives of every candidate at each rung, [P, M], NaN where it
      was not scored or failed.
    violations: [P] at each rung; None without constraints.

  Returns:
    P - rank, so higher is better, [P]: candidates of the highest rung first, in
    their `order`, then those below; failed ones last. Numbers of different
    rungs are never compared.
  """
  reached = np.full(len(rungs[0]), -1)
  limits = [None] * len(rungs) if violations is None else violations
  places = np.empty(len(reached))
  for rung, (values, limit) in enumerate(zip(rungs, limits, strict=True)):
    reached[_scored(*_checked(values, limit))] = rung
  at = 0
  for rung in range(len(rungs) - 1, -2, -1):
    mine = np.flatnonzero(reached == rung)
    if rung >= 0:
      limit = limits[rung]
      limit = None if limit is None else np.asarray(limit)[mine]
      mine = mine[order(np.asarray(rungs[rung])[mine], limit)]
    places[mine] = np.arange(at, at + len(mine))
    at += len(mine)
  return len(places) - places


def promoted(
  values: np.ndarray, violation: np.ndarray | None, most: int
) -> np.ndarray:
  """Positions of the best rows, at most `most`, best first; never a NaN."""
  front = fronts(values, violation)
  best = order(values, violation)
  return best[front[best] >= 0][:most]


def archive(
  values: np.ndarray, violation: np.ndarray | None = None
) -> np.ndarray:
  """Positions of the best front, ascending; of equal rows only the first.

  Where no row keeps the constraints, these are the rows of least violation.
  """
  values, _ = _checked(values, violation)
  best = np.flatnonzero(fronts(values, violation) == 0)
  _, first = np.unique(values[best], axis=0, return_index=True)
  return best[np.sort(first)]


def hypervolume(values: np.ndarray, reference: np.ndarray) -> float:
  """Volume between the reference point [M] and what the rows [P, M] dominate.

  Rows that were not scored, or are nowhere above the reference, add nothing.
  """
  values, _ = _checked(values, None)
  reference = np.asarray(reference, np.float64)
  if reference.shape != values.shape[1:] or not np.isfinite(reference).all():
    raise ValueError(
      f'reference {reference.tolist()}: expected {values.shape[1]} finite '
      'numbers, one an objective'
    )
  above = values[(values > reference).all(1)]  # never a NaN
  if not len(above):
    return 0.0
  return float(moocore.hypervolume(above, ref=reference, maximise=True))


def knee(values: np.ndarray, violation: np.ndarray | None = None) -> int:
  """Position of the row of the best front that bulges out furthest.

  Furthest, on the better side, from the hyperplane through the best row of each
  objective, where the front spans 0 to 1 in each (Das 1999, Struct. Optim.
  18:107). Where those rows make no hyperplane with a positive normal, all
  objectives weigh alike. Ties go to the row whose worst objective is best.

  Raises:
    ValueError: if nothing was scored.
  """
  values, _ = _checked(values, violation)
  rows = archive(values, violation)
  _some(rows)
  front = _finite(values[rows])
  span = np.ptp(front, axis=0)
  if not span.any():
    return int(rows[0])
  unit = ((front - front.min(0)) / np.where(span, span, 1))[:, span > 0]
  height = np.round(unit @ _normal(unit), 12)
  return int(rows[np.lexsort((-unit.min(1), -height))[0]])


def pick(
  values: np.ndarray,
  weights: Sequence[float],
  violation: np.ndarray | None = None,
) -> int:
  """Position of the row of the best front with the highest weighted sum.

  Of the objectives as they are, not rescaled: so weights are rates of exchange
  (2 and 1: one point of the first is worth two of the second) whatever else
  is on the front.

  Raises:
    ValueError: if weights are not M numbers of at least 0, with one above, or
      nothing was scored.
  """
  values, _ = _checked(values, violation)
  given = np.asarray(weights, np.float64)
  if given.shape != values.shape[1:] or not (
    np.isfinite(given).all() and (given >= 0).all() and given.any()
  ):
    raise ValueError(
      f'weights {list(weights)}: expected {values.shape[1]} numbers of at '
      'least 0, not all 0, one an objective'
    )
  rows = archive(values, violation)
  _some(rows)
  return int(rows[np.argmax(_finite(values[rows]) @ given)])


def _scored(values: np.ndarray, broken: np.ndarray) -> np.ndarray:
  return ~np.isnan(values).any(1) & ~np.isnan(broken)


def _dominates(values: np.ndarray, broken: np.ndarray) -> np.ndarray:
  """[i, j]: whether row i dominates row j."""
  as_good = np.ones((len(values), len(values)), bool)
  better = np.zeros_like(as_good)
  for column in values.T:
    as_good &= column[:, None] >= column
    better |= column[:, None] > column
  broken = np.maximum(broken, 0)
  less, same = broken[:, None] < broken, broken[:, None] == broken
  return less | (same & as_good & better)


def _normal(unit: np.ndarray) -> np.ndarray:
  """Normal [M] of the hyperplane through each objective's best row."""
  equal = np.ones(unit.shape[1])
  corners = np.stack(
    [
      unit[np.lexsort((-unit.sum(1), -column))[0]]  # of equals the best else
      for column in unit.T
    ]
  )
  sizes = np.linalg.svd(corners, compute_uv=False)
  if sizes[-1] <= _SINGULAR * sizes[0]:
    return equal
  normal = np.linalg.solve(corners, equal)
  return normal / np.linalg.norm(normal) if (normal > 0).all() else equal


def _finite(values: np.ndarray) -> np.ndarray:
  """Infinite values as the objective's most extreme finite ones."""
  if np.isfinite(values).all():
    return values
  known = np.where(np.isfinite(values), values, np.nan)
  empty = np.isnan(known).all(0)
  known = np.where(empty, 0.0, known)
  return np.clip(values, np.nanmin(known, axis=0), np.nanmax(known, axis=0))


def _some(rows: np.ndarray) -> None:
  if not len(rows):
    raise ValueError('no row is scored: every one holds a NaN')


def _checked(
  values: np.ndarray, violation: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
  values = np.asarray(values, np.float64)
  if values.ndim != 2 or not values.shape[1]:
    raise ValueError(f'objectives {values.shape}: expected [P, M], M > 0')
  if violation is None:
    return values, np.zeros(len(values))
  broken = np.asarray(violation, np.float64)
  if broken.shape != values.shape[:1]:
    raise ValueError(
      f'violations {broken.shape} of objectives {values.shape}: expected [P]'
    )
  return values, broken
