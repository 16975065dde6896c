"""A search as data: what is to be done, and what is learned of a candidate."""

import dataclasses
from typing import NamedTuple

import numpy as np

from automerge_jax.search.baselines import EXPLORE
from automerge_jax.search.budget import Budget
from automerge_jax.search.climb import SNAPSHOTS, Climb
from automerge_jax.search.fidelity import Schedule
from automerge_jax.search.ledger import Candidate
from automerge_jax.search.objectives import Objectives
from automerge_jax.search.racing import Race
from automerge_jax.types import Family, MergeMethod, Optimizer, SearchSpace


def in_full(starts: int, population: int) -> bool:
  """Whether so many start points are all scored on the last rung.

  They are what a search must beat, and one lost to few items is missed; more
  than a population would cost too much.
  """
  return starts <= population


@dataclasses.dataclass(frozen=True)
class Study:
  """What is searched, where and how.

  Attributes:
    family, method, space, optimizer: the parts that it is made of.
    starts: (origin, coefficients [D]) of the start points.
    objectives: what is maximised, and what must not fall.
    rungs: items a task at each rung, ascending.
    schedule: who is promoted.
    population: P.
    candidates: most candidates, start points included.
    budget: what may be spent; None: no bound but `candidates`.
    batch_size: see `evaluate.population_scorer`.
    race: who is stopped inside a rung; None: nobody.
    screen: proposals for each that is scored; 1: no surrogate.
    acquisition: by which the surrogate keeps them.
    climb: how to climb along the gradient; None: not at all.
    climb_every: generations of the optimizer between two climbs; 0: one climb
      before the first.
    own: index of each task's own expert in the stack, None without one.
    setting: hash of everything else that scores depend on.
    dtype: in which merged models compute.
  """

  family: Family
  method: MergeMethod
  space: SearchSpace
  optimizer: Optimizer
  starts: tuple[tuple[str, np.ndarray], ...]
  objectives: Objectives
  rungs: tuple[int, ...]
  schedule: Schedule
  population: int
  candidates: int
  budget: Budget | None
  batch_size: int | None
  race: Race | None
  screen: int
  acquisition: str
  climb: Climb | None
  climb_every: int
  own: tuple[int | None, ...]
  setting: str
  dtype: str = 'float32'

  @property
  def start_generations(self) -> int:
    return -(-len(self.starts) // self.population)

  @property
  def anchors(self) -> frozenset[str]:
    """Origins of start points that are scored in full, see `in_full`."""
    named = [origin for origin, _ in self.starts if origin != EXPLORE]
    return frozenset(named if in_full(len(named), self.population) else ())

  @property
  def rows(self) -> int:
    """N, the room for candidates in arrays of one shape."""
    own = len(self.starts) + SNAPSHOTS * (self.climb is not None)
    return max(self.candidates, own + self.population)

  def climbs(self, generation: int) -> bool:
    """Whether a generation holds what a climb proposes."""
    after = generation - self.start_generations
    if self.climb is None or after < 0:
      return False
    if not self.climb_every:
      return after == 0
    return after % (self.climb_every + 1) == 0

  def size(self, generation: int) -> int:
    """Candidates of a generation after the start points."""
    return SNAPSHOTS if self.climbs(generation) else self.population


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
    estimates: the objectives as they are likely to be, see `estimates`, from
      their log-likelihoods and the noise of values, [rungs, M]; None for what
      they were measured to be.
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
  estimates: np.ndarray | None = None
  likelihoods: np.ndarray | None = None
  noise: np.ndarray | None = None

  @property
  def likely(self) -> np.ndarray:
    """By which candidates are ranked, [rungs, M]."""
    return self.objectives if self.estimates is None else self.estimates

  @property
  def rung(self) -> int:
    """The highest rung with a score, -1 if there is none."""
    return int(np.isfinite(self.values).sum()) - 1
