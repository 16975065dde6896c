"""What ours and its peers search in a comparison."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

# (x [n, D] in [0, 1], items a task) -> values [n, M], which are maximised; None
# where the budget is spent.
Score = Callable[[np.ndarray, int], np.ndarray | None]


class Problem(NamedTuple):
  """A space, a budget and where to start.

  Attributes:
    choices: options of each dimension, 0 where it is a float, int [D].
    starts: [S, D] in [0, 1]; category i of n lies at (i + 0.5) / n.
    rungs: items a task at each rung, ascending; the last is a full evaluation.
    num_objectives: M.
    population: P of those that have one.
    std: first step of CMA-ES.
    budget: full evaluations.
  """

  choices: np.ndarray
  starts: np.ndarray
  rungs: tuple[int, ...]
  num_objectives: int
  population: int
  std: float
  budget: float
