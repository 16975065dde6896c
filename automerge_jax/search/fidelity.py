"""Rungs: nested item subsets, and who goes on from one to the next.

A rung is so many items a task. A generation's candidates all start at one rung,
where they are scored on its items and on those of the rungs below; from there
on a schedule promotes some of them. Schedules see the order of candidates and
no scores, so they are the same for one and several objectives.
"""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np

from automerge_jax.search import brackets
from automerge_jax.tasks.itemset import ItemSet


def increments(
  items: ItemSet, sizes: Sequence[int], seed: int
) -> tuple[np.ndarray, ...]:
  """Positions of the items that each rung adds to the one below.

  Rungs are nested random subsets, stratified by task and label, and the same
  for every candidate.

  Args:
    items: the search items.
    sizes: items a task at each rung, ascending.
    seed: of the random order.

  Raises:
    ValueError: if sizes do not ascend or a task has fewer items.
  """
  brackets.check_sizes(sizes)
  rng = np.random.default_rng(seed)
  order = {}
  for task, name in enumerate(items.tasks):
    positions = np.flatnonzero(items.task == task)
    if len(positions) < sizes[-1]:
      raise ValueError(
        f'task {name!r} has {len(positions)} search items, the last rung needs '
        f'{sizes[-1]}'
      )
    order[task] = positions[_stratified(items.label[positions], rng)]
  bounds = [0, *sizes]
  return tuple(
    np.concatenate([order[task][low:high] for task in order])
    for low, high in itertools.pairwise(bounds)
  )


def by_task(scores: np.ndarray, tasks: np.ndarray) -> np.ndarray:
  """Mean over the items of each task, [tasks].

  Args:
    scores: [n].
    tasks: index of each item's task, [n].
  """
  return np.asarray(
    [scores[tasks == t].mean(dtype=np.float64) for t in np.unique(tasks)]
  )


@dataclasses.dataclass(frozen=True)
class Synchronous:
  """Each generation promotes among its own candidates.

  Attributes:
    starts: rung at which a generation starts, generation by generation, then
      from the first again.
    table: candidates at each rung of a generation that starts at a rung,
      [start, rung].
  """

  starts: tuple[int, ...]
  table: tuple[tuple[int, ...], ...]

  def start(self, generation: int) -> int:
    """The rung up to which all candidates of a generation are scored."""
    return self.starts[generation % len(self.starts)]

  def expected(self, generation: int) -> np.ndarray:
    """Candidates that a generation scores at each rung, [rungs]."""
    return np.asarray(self.table[self.start(generation)])

  def most(self, rung: int) -> int:
    """Most candidates that any generation promotes from a rung."""
    return max(self.table[start][rung + 1] for start in set(self.starts))

  def promoted(
    self,
    rung: int,
    generation: int,
    begun: np.ndarray,
    generation_of: np.ndarray,
    best_first: np.ndarray,
  ) -> np.ndarray:
    """Positions of those to be scored at `rung + 1`, best first.

    Args:
      rung: at which a generation was scored.
      generation: the one that is being scored.
      begun: highest rung at which each candidate was scored, whether or not it
        failed there or a race stopped it; -1 for none, [N].
      generation_of: each candidate, [N].
      best_first: positions of those with a score at `rung`, in order of merit.
    """
    best_first = np.asarray(best_first, int)
    ready = (begun[best_first] == rung) & (
      generation_of[best_first] == generation
    )
    return best_first[ready][: self.expected(generation)[rung + 1]]


@dataclasses.dataclass(frozen=True)
class Asynchronous:
  """ASHA (Li et al. 2020, MLSys 2:230) in commit order.

  After each generation all go on that are among the best 1 in `eta` of
  everything that was ever scored at a rung, and have not gone on before.

  Attributes:
    rungs: number of rungs.
    population: P, also the most that are promoted at a time; who is left over
      stands again in the next generation.
    eta: one in so many.
  """

  rungs: int
  population: int
  eta: int

  def start(self, generation: int) -> int:
    """The rung up to which all candidates of a generation are scored."""
    del generation
    return 0

  def expected(self, generation: int) -> np.ndarray:
    """Candidates that a generation would score if scores never rose, [rungs].

    Where later candidates are better, more are promoted, up to `most`.
    """
    after, before = (
      [g * self.population // self.eta**r for r in range(self.rungs)]
      for g in (generation + 1, generation)
    )
    return np.asarray(after) - np.asarray(before)

  def most(self, rung: int) -> int:
    """Most candidates that any generation promotes from a rung."""
    del rung
    return self.population

  def promoted(
    self,
    rung: int,
    generation: int,
    begun: np.ndarray,
    generation_of: np.ndarray,
    best_first: np.ndarray,
  ) -> np.ndarray:
    """See `Synchronous.promoted`; `generation` and `generation_of` are unused.

    Who failed or was stopped at a rung counts among those scored there.
    """
    del generation, generation_of
    top = np.asarray(best_first, int)[: np.sum(begun >= rung) // self.eta]
    return top[begun[top] == rung][: self.population]


Schedule = Synchronous | Asynchronous


def schedule(
  name: str,
  rungs: Sequence[int],
  population: int,
  eta: int,
  promote: Sequence[int] = (),
) -> Schedule:
  """Who is promoted in a search.

  Args:
    name: 'halving' (every generation starts at the lowest rung), 'hyperband'
      (generations start at rungs in the proportions of its brackets) or
      'asynchronous'.
    rungs: items a task at each rung, ascending.
    population: P, candidates of a generation.
    eta: one in so many goes on, but at least one of a generation.
    promote: instead of `eta`, how many of a generation reach each further rung;
      for 'halving' only.

  Raises:
    ValueError: if these do not fit together.
  """
  brackets.check_sizes(rungs)
  brackets.check_eta(eta)
  if promote and (
    name != 'halving'
    or len(promote) != len(rungs) - 1
    or list(promote) != sorted(promote, reverse=True)
    or not 1 <= promote[-1] <= promote[0] <= population
  ):
    raise ValueError(
      f'promote={tuple(promote)} of the schedule {name!r} with '
      f'{len(rungs)} rungs and a population of {population}: expected '
      f"'halving' and {len(rungs) - 1} counts from {population} to 1 that do "
      'not rise; leave it out to promote by eta'
    )
  numbers = range(len(rungs))
  if name == 'halving' and promote:
    return Synchronous((0,), ((population, *promote),))
  if name in ('halving', 'hyperband'):
    table = tuple(
      tuple(max(population // eta ** max(r - s, 0), 1) for r in numbers)
      for s in numbers
    )
    if name == 'halving':
      return Synchronous((0,), table[:1])
    shares = [stages[0].candidates for stages in brackets.hyperband(eta, rungs)]
    return Synchronous(brackets.interleaved(shares), table)
  if name == 'asynchronous':
    return Asynchronous(len(rungs), population, eta)
  raise ValueError(
    f"schedule {name!r}: expected 'halving', 'hyperband' or 'asynchronous'"
  )


def _stratified(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """A random order in which every prefix has the labels in proportion."""
  place = np.empty(len(labels))
  for label in np.unique(labels):
    mine = rng.permutation(np.flatnonzero(labels == label))
    place[mine] = (np.arange(len(mine)) + rng.random(len(mine))) / len(mine)
  return np.argsort(place, kind='stable')
