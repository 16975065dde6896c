"""A search as data: what is to be done, and what is learned of a candidate."""

import dataclasses
from typing import NamedTuple

import numpy as np

from automerge_jax.search.ledger import Candidate
from automerge_jax.search.objectives import Objectives
from automerge_jax.types import Family, MergeMethod, Optimizer, SearchSpace

COST = 3  # forward passes that a gradient step is charged for each item
SNAPSHOTS = 4  # candidates that a climb along the gradient proposes


@dataclasses.dataclass(frozen=True)
class Study:
  """What is searched, where and how.

  Attributes:
    family, method, space, optimizer: the parts that it is made of.
    starts: (origin, coefficients [D]) of the start points.
    objective: 'accuracy' or 'log_likelihood', whose mean over tasks gradient
      steps climb.
    objectives: what is maximised, and what must not fall.
    rungs: items a task at each rung, ascending.
    promote: candidates of a generation that reach each further rung.
    population: P.
    candidates: budget, start points included.
    batch_size: see `evaluate.population_scorer`.
    gradient_steps: gradient steps before the optimizer starts; 0 for none.
    gradient_rate: learning rate, as a share of each range.
    minibatches: into which the search items are dealt for gradient steps.
    setting: hash of everything else that scores depend on.
    dtype: in which merged models compute.
  """

  family: Family
  method: MergeMethod
  space: SearchSpace
  optimizer: Optimizer
  starts: tuple[tuple[str, np.ndarray], ...]
  objective: str
  objectives: Objectives
  rungs: tuple[int, ...]
  promote: tuple[int, ...]
  population: int
  candidates: int
  batch_size: int | None
  gradient_steps: int
  gradient_rate: float
  minibatches: int
  setting: str
  dtype: str = 'float32'

  @property
  def start_generations(self) -> int:
    return -(-len(self.starts) // self.population)

  @property
  def climbs(self) -> int:
    """Generations that hold what gradient steps propose."""
    return int(self.gradient_steps > 0)

  def climb_items(self, num_items: int) -> int:
    """Items that the gradient steps are charged, of `num_items` in all."""
    return round(self.gradient_steps * COST * num_items / self.minibatches)

  @property
  def rows(self) -> int:
    """Most candidates that there can be, N."""
    return self.generations * self.population

  @property
  def generations(self) -> int:
    rest = self.candidates - len(self.starts) - self.climbs * SNAPSHOTS
    ours = max(rest // self.population, 0)
    return self.start_generations + self.climbs + ours


class Scored(NamedTuple):
  """A candidate and what the search learned of it.

  Attributes:
    generation: in which it was proposed.
    candidate: the proposal.
    values: mean of the objectives at each rung, NaN where it was not scored.
    objectives: each of them at each rung, [rungs, M].
    violations: of the constraints at each rung.
    accuracy: of each task, on the items of the highest rung it reached.
    failure: why it could not be scored, or None.
    seen: items that were scored, in all.
    stopped: whether a race stopped it in the rung after `rung`.
  """

  generation: int
  candidate: Candidate
  values: tuple[float, ...]
  objectives: np.ndarray
  violations: tuple[float, ...]
  accuracy: tuple[float, ...]
  failure: str | None
  seen: int = 0
  stopped: bool = False

  @property
  def rung(self) -> int:
    """The highest rung with a score, -1 if there is none."""
    return int(np.isfinite(self.values).sum()) - 1
