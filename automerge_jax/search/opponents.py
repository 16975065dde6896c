"""Whom candidates race at a rung: the best that were scored there."""

from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np

from automerge_jax.search import racing
from automerge_jax.search.archive import Row
from automerge_jax.search.ledger import Candidate, Scores
from automerge_jax.search.plan import Study
from automerge_jax.tasks.itemset import ItemSet

MOST = 4  # members of a front that candidates race


def rivals(
  study: Study,
  best: Sequence[Row],
  known: Mapping[tuple[str, int], Scores],
  subsets: Sequence[ItemSet],
  rung: int,
  candidates: Sequence[Candidate],
) -> racing.Rivals:
  """What the scorer has to know of those that candidates race.

  Args:
    study: with a race.
    best: the best row, or some of the front, best first.
    known: scores of the candidates on lower rungs, by recipe and rung.
    subsets: what each rung adds.
    rung: at which candidates are scored.
    candidates: that are scored, at most P.
  """
  goals, race = study.objectives.each, study.race
  assert race is not None
  count = 1 if len(goals) == 1 else MOST
  weights = np.asarray([one.weights for one in goals], np.float32)
  there = [row for row in best[:count] if row.rung >= rung]
  if any(row.violations[row.rung] > 0 for row in there):
    there = []  # who keeps the constraints may well be behind
  task = [np.asarray(subset.task, np.int32) for subset in subsets]
  lower = np.concatenate([*task[:rung], np.zeros(0, np.int32)])

  def values(parts: Sequence[Scores]) -> np.ndarray:
    """[M, n]."""
    joined = Scores(
      np.concatenate([part.score for part in parts]),
      np.concatenate([part.log_likelihood for part in parts]),
    )
    return np.asarray(racing.values(joined, race.metrics))

  def empty(number: int, items: int) -> np.ndarray:
    return np.full((number, len(goals), items), np.nan, np.float32)

  theirs = empty(count, len(task[rung]))
  before = empty(count, len(lower))
  mine = empty(study.population, len(lower))
  for j, row in enumerate(there):
    theirs[j] = values([row.parts[rung]])
    if rung:
      before[j] = values(row.parts[:rung])
  for i, one in enumerate(candidates if rung else ()):
    mine[i] = values([known[one.recipe, r] for r in range(rung)])
  return racing.Rivals(
    jnp.asarray(theirs),
    jnp.arange(count) < len(there),
    jnp.asarray(weights),
    jnp.asarray(task[rung]),
    racing.population_pairs(
      jnp.asarray(mine),
      jnp.asarray(before),
      jnp.asarray(lower),
      study.objectives.most.size,
    ),
  )
