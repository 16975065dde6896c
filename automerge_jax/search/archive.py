"""What a search knows of its candidates, and who stands before whom."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from automerge_jax.search import fidelity, fronts
from automerge_jax.search.ledger import Candidate, Scores
from automerge_jax.search.objectives import Objectives
from automerge_jax.search.plan import Scored
from automerge_jax.tasks.itemset import ItemSet

LIKELIHOOD = 'log_likelihood'


@dataclasses.dataclass
class Row:
  """A candidate and its item scores so far.

  Attributes:
    generation: in which it was proposed.
    candidate: the proposal.
    parts: item scores on what each rung adds, from the lowest; only the last
      may be stopped or failed.
    values: objectives [M] at each rung that it completed.
    violations: of the constraints at each of them.
    accuracy: of each task, at the highest of them.
  """

  generation: int
  candidate: Candidate
  parts: list[Scores] = dataclasses.field(default_factory=list)
  values: list[np.ndarray] = dataclasses.field(default_factory=list)
  violations: list[float] = dataclasses.field(default_factory=list)
  accuracy: np.ndarray | None = None

  @property
  def begun(self) -> int:
    """The highest rung at which it was scored, -1 for none."""
    return len(self.parts) - 1

  @property
  def rung(self) -> int:
    """The highest rung that it completed, -1 for none."""
    return len(self.values) - 1

  @property
  def failure(self) -> str | None:
    return self.parts[-1].failure if self.parts else None

  @property
  def stopped(self) -> bool:
    return bool(self.parts) and self.parts[-1].stopped

  @property
  def seen(self) -> int:
    """Items that were scored."""
    return sum(
      int(np.isfinite(part.score).sum())
      for part in self.parts
      if part.score is not None
    )


def by_task(
  parts: Sequence[Scores], subsets: Sequence[ItemSet]
) -> dict[str, np.ndarray]:
  """Means over the items of some rungs, by metric, [tasks].

  Args:
    parts: item scores on what each rung adds, from the lowest.
    subsets: what each rung adds.
  """
  task = np.concatenate([s.task for s in subsets[: len(parts)]])
  found = {}
  for name, metric in (('accuracy', 'score'), (LIKELIHOOD, LIKELIHOOD)):
    values = np.concatenate([getattr(part, metric) for part in parts])
    there = np.isfinite(values)
    found[name] = fidelity.by_task(values[there], task[there])
  return found


def add(
  row: Row,
  scores: Scores,
  subsets: Sequence[ItemSet],
  goals: Objectives,
  floor: np.ndarray | None,
) -> None:
  """Adds the scores of the next rung.

  Args:
    row: of a candidate.
    scores: on what the rung adds.
    subsets: what each rung adds.
    goals: objectives and constraints.
    floor: the reference's scores up to that rung, [tasks], or None.
  """
  row.parts.append(scores)
  if scores.failure is None and not scores.stopped:
    found = by_task(row.parts, subsets)
    row.values.append(goals.values(found))
    row.violations.append(goals.violation(found, floor))
    row.accuracy = found['accuracy']


def scored(
  rows: Sequence[Row],
  subsets: Sequence[ItemSet],
  goals: Objectives,
) -> list[Scored]:
  """What is told of candidates, in order."""
  rungs, tasks = len(subsets), len(subsets[0].tasks)
  found = []
  for row in rows:
    values = np.full((rungs, len(goals.each)), np.nan)
    violations = np.zeros(rungs)
    values[: row.rung + 1] = row.values or values[:0]
    violations[: row.rung + 1] = row.violations
    accuracy = np.full(tasks, np.nan) if row.accuracy is None else row.accuracy
    found.append(
      Scored(
        row.generation,
        row.candidate,
        tuple(values.mean(axis=-1).tolist()),
        values,
        tuple(violations.tolist()),
        tuple(accuracy.tolist()),
        row.failure,
        row.seen,
        row.stopped,
      )
    )
  return found


def ranked(told: Sequence[Scored]) -> np.ndarray:
  """Rank scores [N] of what is told of candidates, see `fronts.ranks`."""
  return fronts.ranks(
    list(np.asarray([one.objectives for one in told]).swapaxes(0, 1)),
    list(np.asarray([one.violations for one in told]).T),
  )


def order(
  rows: Sequence[Row], subsets: Sequence[ItemSet], goals: Objectives
) -> np.ndarray:
  """Rank scores of candidates [N], higher is better, see `fronts.ranks`.

  Behind those that completed a rung come those that a race stopped in the
  first, the later the better, then those that failed.
  """
  ranks = ranked(scored(rows, subsets, goals))
  last = [i for i, row in enumerate(rows) if row.rung < 0]

  def merit(i: int) -> tuple[int, float]:
    if not rows[i].stopped:
      return 0, 0.0
    # Who has seen as many items has seen the same ones.
    value = goals.values(by_task(rows[i].parts, subsets))
    return rows[i].seen, float(value.mean())

  places = sorted(ranks[last], reverse=True)
  for place, i in zip(
    places, sorted(last, key=merit, reverse=True), strict=True
  ):
    ranks[i] = place
  return ranks
