"""Finalists: who they are, what their choice is worth, how they overfitted."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from automerge_jax import judges
from automerge_jax.recipe import Recipe
from automerge_jax.search import (
  archive,
  climb,
  contest,
  fidelity,
  proposals,
  selection,
)
from automerge_jax.search.baselines import EXPLORE
from automerge_jax.search.job import Job
from automerge_jax.search.ledger import Ledger, Scores
from automerge_jax.search.objectives import Objectives
from automerge_jax.search.plan import Scored
from automerge_jax.search.settings import Settings

# What a climb ends with, by its origin.
CLIMBED = ('gradient:end', 'gradient:mean')


def among(scored: Sequence[Scored], most: int) -> list[Scored]:
  """Who is compared on select items, best first.

  The best different recipes of the highest rung that any candidate completed,
  at most `most`, without those that a race stopped on the way to the next; the
  best start point among them, so that a search that led nowhere is seen, and
  all of them where there are several objectives: few items lose members of a
  front that no search bettered; and what the best climb along the gradient
  ended with, in the end and on average over its late steps, whichever rung that
  reached, unless a race stopped it.
  """
  rank = archive.ranked(scored)
  best_first = [scored[i] for i in np.argsort(-rank, kind='stable')]
  able = [row for row in best_first if row.rung >= 0 and row.failure is None]
  able = [row for row in able if not row.stopped] or able
  top = max((row.rung for row in able), default=-1)
  found: dict[str, Scored] = {}
  for row in able:
    if row.rung == top:
      found.setdefault(row.candidate.recipe, row)
  kept = dict(list(found.items())[:most])
  starts = [r for r in found.values() if is_start(r.candidate.origin)]
  several = len(starts) > 0 and starts[0].objectives.shape[-1] > 1
  for row in starts if several else starts[:1]:
    kept.setdefault(row.candidate.recipe, row)
  for origin in CLIMBED:
    ended = [r for r in able if r.candidate.origin.partition('@')[0] == origin]
    for row in ended[:1]:
      kept.setdefault(row.candidate.recipe, row)
  return list(kept.values())


def is_start(origin: str) -> bool:
  """Whether a candidate of this origin is a start point."""
  found = origin == proposals.ORIGIN or origin.startswith(climb.ORIGIN)
  return not found and origin != EXPLORE


def held(
  judge: selection.Judge,
  goals: Objectives,
  floor: np.ndarray | None,
  ours: tuple[Sequence[Recipe], Recipe],
  theirs: tuple[Sequence[Recipe], Recipe],
  seed: int,
) -> dict[str, Any]:
  """Corrects for both choices; each is (what was compared, the chosen one).

  Where there are constraints, the choice was among those that break them no
  more than the chosen one.
  """
  tasks = judge.items.task
  groups, positions = [], []
  for recipes, best in (ours, theirs):
    told = [judge.score_recipe(recipe) for recipe in recipes]
    broken = [
      np.inf
      if scores.failure
      else goals.violation(judge.by_task(scores), floor)
      for scores in told
    ]
    at = list(recipes).index(best)
    within = [i for i, b in enumerate(broken) if b <= broken[at]]
    positions.append(within.index(at))
    groups.append(
      np.stack([contest.item_values(goals, told[i], tasks) for i in within])
    )
  (finalist, setting), (mine, rival) = groups, positions
  return contest.hold(finalist, setting, tasks, (mine, rival), seed)


def gaps(
  settings: Settings,
  job: Job,
  goals: Objectives,
  ledger: Ledger,
  compared: Sequence[Mapping[str, Any]],
  tasks: Mapping[str, np.ndarray],
  scores: Mapping[str, Mapping[str, Mapping[str, np.ndarray]]],
) -> dict[str, Any]:
  """How far search scores lie above others, rung by rung.

  Args:
    settings: of the search.
    job: what it is about.
    goals: the objectives.
    ledger: of the search.
    compared: rows of `Choice.finalists`, the chosen one first.
    tasks: index of each item's task by split, see `choice.score`.
    scores: by split and model, see `choice.score`.

  Returns:
    `finalists`: rows of `recipe_hash`, `origin`, `chosen` and `rungs`, against
    select items; `chosen`: rungs of the chosen one, against held-out items.
    See `contest.by_rung`; a model without item scores on every rung, such as
    the mean of a distribution that was not chosen, has none.
  """
  search = judges.item_set('search', settings, job)
  added = fidelity.increments(search, settings.rungs, settings.seed)
  part_tasks = [search.task[positions] for positions in added]
  select = judges.item_set('select', settings, job)

  def values(found: Scores, task: np.ndarray) -> np.ndarray:
    return contest.item_values(goals, found, task)

  def by_model(split: str) -> np.ndarray:
    told = scores[split]['merged']
    found = Scores(told['score'], told['log_likelihood'])
    return values(found, np.asarray(tasks[split]))

  def parts_of(row: Mapping[str, Any]) -> list[np.ndarray]:
    found = []
    for rung, task in enumerate(part_tasks):
      seen = ledger.scores(
        row['recipe_hash'], f'search/{rung}/{job.setting}', search.tasks, task
      )
      if seen is None or seen.failure or seen.stopped:
        return []
      found.append(values(seen, task))
    return found

  rows = []
  for row in compared:
    fresh = ledger.scores(
      row['recipe_hash'],
      f'select/{job.setting}',
      select.tasks,
      select.task,
    )
    parts = parts_of(row)
    if fresh is None or fresh.failure or not parts:
      continue
    rows.append(
      {key: row[key] for key in ('recipe_hash', 'origin', 'chosen')}
      | {
        'rungs': contest.by_rung(
          parts,
          part_tasks,
          values(fresh, select.task),
          select.task,
          settings.seed,
        )
      }
    )
  merged = by_model('search')
  return {
    'finalists': rows,
    'chosen': contest.by_rung(
      [merged[positions] for positions in added],
      part_tasks,
      by_model('heldout'),
      np.asarray(tasks['heldout']),
      settings.seed,
    ),
  }
