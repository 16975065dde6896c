"""What a search knows of its candidates, and who stands before whom."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from automerge_jax.search import estimates, fidelity, fronts
from automerge_jax.search.ledger import Candidate, Scores
from automerge_jax.search.objectives import METRICS, Objectives
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
    likelihoods: the same means of log-likelihoods, [M] at each of them.
    violations: of the constraints at each of them.
    accuracy: of each task, at the highest of them.
  """

  generation: int
  candidate: Candidate
  parts: list[Scores] = dataclasses.field(default_factory=list)
  values: list[np.ndarray] = dataclasses.field(default_factory=list)
  likelihoods: list[np.ndarray] = dataclasses.field(default_factory=list)
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
    likelihood = found[LIKELIHOOD]
    row.likelihoods.append(goals.values(dict.fromkeys(METRICS, likelihood)))
    row.violations.append(goals.violation(found, floor))
    row.accuracy = found['accuracy']


class Likely(NamedTuple):
  """Objectives at one rung, [N, M]; NaN where it was not completed.

  Attributes:
    values: as they are likely to be, see `estimates`.
    likelihoods: their log-likelihoods.
    noise: variance of what chance adds to measured values, [M].
  """

  values: np.ndarray
  likelihoods: np.ndarray
  noise: np.ndarray


def likely(
  rows: Sequence[Row],
  subsets: Sequence[ItemSet],
  goals: Objectives,
  rung: int,
) -> Likely:
  """What all candidates' objectives at a rung tell of each of them."""
  shape = len(rows), len(goals.each)
  found = Likely(
    np.full(shape, np.nan), np.full(shape, np.nan), np.zeros(shape[1])
  )
  there = [i for i, row in enumerate(rows) if row.rung >= rung]
  if not there:
    return found
  found.values[there] = [rows[i].values[rung] for i in there]
  found.likelihoods[there] = [rows[i].likelihoods[rung] for i in there]
  # Fronts keep what is measured: lines would bring their members together.
  alone = len(goals.each) == 1 and goals.each[0].metric != LIKELIHOOD
  if not (goals.drawn and alone):
    return found
  task = np.concatenate([s.task for s in subsets[: rung + 1]])
  scores = np.stack(
    [
      np.concatenate([part.score for part in rows[i].parts[: rung + 1]])
      for i in there
    ]
  )
  found.noise[0] = estimates.noise(scores, task, goals.each[0].weights)
  found.values[there, 0] = estimates.drawn(
    found.values[there, 0], found.likelihoods[there, 0], found.noise[0]
  )
  return found


def scored(
  rows: Sequence[Row],
  subsets: Sequence[ItemSet],
  goals: Objectives,
) -> list[Scored]:
  """What is told of candidates, in order."""
  seen = [likely(rows, subsets, goals, r) for r in range(len(subsets))]
  estimate = np.stack([one.values for one in seen], axis=1)
  likelihoods = np.stack([one.likelihoods for one in seen], axis=1)
  noise = np.stack([one.noise for one in seen])
  rungs, tasks = len(subsets), len(subsets[0].tasks)
  found = []
  for i, row in enumerate(rows):
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
        estimate[i],
        likelihoods[i],
        noise,
      )
    )
  return found


def ranked(told: Sequence[Scored]) -> np.ndarray:
  """Rank scores [N] by the likely objectives, see `fronts.ranks`."""
  return fronts.ranks(
    list(np.asarray([one.likely for one in told]).swapaxes(0, 1)),
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
