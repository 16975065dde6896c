"""The smallest difference that paired items can be expected to show."""

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

from automerge_jax.search.statistics.bootstrap import checked


def detectable(
  items: Sequence[int],
  discordant: float,
  weights: Sequence[float] | None = None,
  level: float = 0.05,
  power: float = 0.8,
  graded: bool = False,
) -> float | None:
  """Smallest difference of two means over tasks that a paired test will find.

  Two models that differ on a share q of the items have a mean difference of
  variance q / n where they are equal and (q - d^2) / n where they differ by d,
  with n the effective number of items; so d solves
  d = z_level sqrt(q / n) + z_power sqrt((q - d^2) / n)
  (Connor 1987, Biometrics 43:207), and no d can exceed q. Of graded scores q is
  the mean squared difference, and no d can exceed its root.

  Args:
    items: items of each task, [tasks].
    discordant: q, see `discordance`.
    weights: of the tasks in the mean, [tasks]; None for equal ones.
    level: of the two-sided test.
    power: chance of finding it.
    graded: whether scores are other than 0 and 1.

  Returns:
    d, or None where even a difference of q would rather be missed.

  Raises:
    ValueError: for a share outside (0, 1], of graded scores one that is not
      above 0, or a task without items.
  """
  if not discordant > 0 or (discordant > 1 and not graded):
    raise ValueError(
      f'a share of discordant items of {discordant}: expected more than 0 and '
      'at most 1'
    )
  if not len(items) or min(items) < 1:
    raise ValueError(f'items a task {list(items)}: expected at least one each')
  w = np.ones(len(items)) if weights is None else np.asarray(weights, float)
  n = 1 / float(np.sum((w / w.sum()) ** 2 / np.asarray(items)))
  first, second = stats.norm.ppf([1 - level / 2, power])
  # (n + second^2) d^2 - 2 first sqrt(q n) d + (first^2 - second^2) q = 0
  rest = n + second**2 - first**2
  if rest < 0:
    return None
  d = first * math.sqrt(n) + second * math.sqrt(rest)
  d *= math.sqrt(discordant) / (n + second**2)
  most = math.sqrt(discordant) if graded else discordant
  return float(d) if d <= most else None


def discordance(
  a: np.ndarray,
  b: np.ndarray,
  tasks: np.ndarray,
  weights: Sequence[float] | None = None,
) -> float:
  """Share of items [n] on which two models differ, as `detectable` takes it.

  Of graded scores the mean squared difference, which for 0 and 1 is the same.
  Tasks count as they do in the variance of the mean over tasks.
  """
  pairs, tasks = checked(np.stack([a, b]), tasks)
  present = np.unique(tasks)
  w = np.ones(len(present)) if weights is None else np.asarray(weights, float)
  squared = (pairs[0] - pairs[1]) ** 2
  shares = np.array([squared[tasks == t].mean() for t in present])
  counts = np.array([(tasks == t).sum() for t in present])
  return float(np.average(shares, weights=w**2 / counts))
