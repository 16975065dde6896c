"""The last word of a search: who is chosen, and how good the chosen are.

Finalists and tuned baselines are chosen on the select items; what was chosen,
the parents and the base are scored once on the held-out items.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from automerge_jax import finalists, judges
from automerge_jax.io import safetensors
from automerge_jax.recipe import Recipe
from automerge_jax.search import (
  baselines,
  fronts,
  objectives,
  restacked,
  selection,
  study,
)
from automerge_jax.search.job import BASE, Job
from automerge_jax.search.ledger import Ledger
from automerge_jax.search.objectives import Objectives
from automerge_jax.search.settings import Settings
from automerge_jax.types import SearchSpace


class Choice(NamedTuple):
  """What was chosen on select items.

  Attributes:
    finalists: what was compared, the chosen one first.
    recipes: chosen recipes by name: `merged`, the tuned baselines, and the
      members of a front as `front:0`, `front:1`, ...
    front: a row for each member; empty for one objective.
    contest: see `contest.hold`, or `{'reason': why there is none}`.
  """

  finalists: list[dict[str, Any]]
  recipes: dict[str, Recipe]
  front: list[dict[str, Any]]
  contest: dict[str, Any]


def choose(
  settings: Settings,
  job: Job,
  space: SearchSpace,
  ledger: Ledger,
  outcome: study.Outcome,
  known: Sequence[Ledger],
) -> Choice:
  """Finalists and baselines, compared on select items."""
  goals = objectives_of(settings, job)
  judge = judges.judge('select', settings, job, ledger, known, space)
  floor = _floor(settings, goals, judge, job)
  rows = [
    {
      'origin': row.candidate.origin,
      'recipe': space.describe(row.candidate.coefficients),
      'search': row.values[row.rung],
    }
    for row in finalists.among(outcome.scored, settings.finalists)
  ]
  if outcome.mean is not None and len(goals.each) == 1:
    mean = space.describe(outcome.mean)
    rows.insert(0, {'origin': 'mean', 'recipe': mean, 'search': None})
  index, means = selection.best(
    judge, [row['recipe'] for row in rows], goals, floor
  )
  front: list[dict[str, Any]] = []
  members: list[int] = []
  if len(goals.each) > 1:
    values, broken = _values(judge, goals, floor, rows)
    members = [int(i) for i in fronts.archive(values, broken)]
    picked = (
      fronts.pick(values[members], settings.preference)
      if settings.preference
      else fronts.knee(values[members])
    )
    index = members[picked]
    front = [
      {
        'name': f'front:{n}',
        'recipe_hash': job.recipe_hash(rows[i]['recipe']),
        'picked': i == index,
        'why': 'weights' if settings.preference else 'knee',
        'select': dict(
          zip([one.name for one in goals.each], values[i].tolist(), strict=True)
        ),
      }
      for n, i in enumerate(members)
    ]
  chosen = {
    'merged': rows[index]['recipe'],
    'uniform': baselines.uniform(job.originals),
  }
  grids = baselines.grids(job.originals, BASE, settings)
  for name, grid in grids.items():
    if grid:
      chosen[name] = grid[selection.best(judge, grid, goals, floor)[0]]
  chosen |= {
    row['name']: rows[i]['recipe']
    for row, i in zip(front, members, strict=True)
  }
  compared = [
    {
      'recipe_hash': job.recipe_hash(row['recipe']),
      'origin': row['origin'],
      'search': row['search'],
      'select': means[i],
      'chosen': i == index,
    }
    for i, row in enumerate(rows)
  ]
  compared.sort(key=lambda row: not row['chosen'])
  held: dict[str, Any] = {
    'reason': 'a member of a front is not chosen as the best'
  }
  if not front:
    held = finalists.held(
      judge,
      goals,
      floor,
      ([row['recipe'] for row in rows], chosen['merged']),
      (grids['task_arithmetic'], chosen['task_arithmetic']),
      settings.seed,
    )
  return Choice(compared, chosen, front, held)


def objectives_of(settings: Settings, job: Job) -> Objectives:
  """What the settings want to be maximised, and kept."""
  return objectives.read(
    list(job.references),
    settings.objective,
    settings.objectives,
    settings.constraints,
    settings.reference,
    settings.task_weights,
  )._replace(drawn=settings.denoise)


def _floor(
  settings: Settings, goals: Objectives, judge: selection.Judge, job: Job
) -> np.ndarray | None:
  """Scores of the constraints' reference, [tasks]."""
  if not goals.constrained:
    return None
  found = selection.model_scores(judge, [goals.reference], job.folders)
  return judge.by_task(found[goals.reference])['accuracy']


def _values(
  judge: selection.Judge,
  goals: Objectives,
  floor: np.ndarray | None,
  rows: Sequence[Mapping[str, Any]],
) -> tuple[np.ndarray, np.ndarray]:
  """Objectives [F, M] and violations [F] of finalists, NaN where failed."""
  values = np.full((len(rows), len(goals.each)), np.nan)
  broken = np.zeros(len(rows))
  for i, row in enumerate(rows):
    scores = judge.score_recipe(row['recipe'])
    if scores.failure is None:
      by_task = judge.by_task(scores)
      values[i] = goals.values(by_task)
      broken[i] = goals.violation(by_task, floor)
  return values, broken


def parents(
  settings: Settings, job: Job, ledger: Ledger, known: Sequence[Ledger]
) -> dict[str, str]:
  """Each task's own expert.

  It is the expert that is named like the task; for other tasks the one with
  the best mean score on the select items.
  """
  own = {name: name for name in job.references if name in job.folders}
  if len(own) < len(job.tasks):
    judge = judges.judge('select', settings, job, ledger, known)
    found = selection.model_scores(judge, job.experts, job.folders)
    good = {
      name: (s.score, s.log_likelihood)
      for name, s in found.items()
      if s.score is not None and s.log_likelihood is not None
    }
    if not good:
      raise ValueError(f'no expert can be scored: {found}')
    for index, task in enumerate(job.references):
      mine = judge.items.task == index

      def rank(name: str, mine=mine) -> tuple[float, float]:
        metric, nats = good[name]
        return float(metric[mine].mean()), float(nats[mine].mean())

      own.setdefault(task, max(good, key=rank))
  return {task: own[task] for task in job.references}


def score(
  settings: Settings,
  job: Job,
  ledger: Ledger,
  exported: pathlib.Path,
  space: SearchSpace,
  chosen: Mapping[str, Recipe],
  known: Sequence[Ledger],
) -> tuple[dict[str, np.ndarray], dict[str, dict[str, Any]]]:
  """Scores the chosen merges, the parents and the base, by split and model.

  The merge is read back from the exported folder. On select items only those
  are told that were chosen by them.
  """
  tasks, scores = {}, {}
  for split in ('search', 'select', 'heldout'):
    judge = judges.judge(split, settings, job, ledger, known, space)
    found = {
      name: judge.score_recipe(recipe)
      for name, recipe in chosen.items()
      if name != 'merged' and not (split == 'select' and name == 'uniform')
    }
    found['merged'] = judge.score_tensors(
      job.recipe_hash(chosen['merged']),
      lambda: safetensors.read(exported),
      restacked.sources(chosen['merged'], job.layers)
      if space.program
      else None,
    )
    if split != 'select':
      originals = selection.model_scores(judge, list(job.folders), job.folders)
      found[BASE] = originals.pop(BASE)
      found |= {f'expert:{name}': s for name, s in originals.items()}
    tasks[split] = judge.items.task
    scores[split] = {
      name: {
        'score': s.score,
        'log_likelihood': s.log_likelihood,
        'flags': s.flags,
      }
      for name, s in found.items()
      if s.failure is None
    }
  return tasks, scores
