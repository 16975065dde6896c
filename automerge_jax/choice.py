"""The last word of a search: who is chosen, and how good the chosen are.

Finalists and tuned baselines are chosen on the select items; what was chosen,
the parents and the base are scored once on the held-out items. Only this
module and the experts' own reports open the sealed items.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from automerge_jax.io import safetensors
from automerge_jax.recipe import Recipe
from automerge_jax.search import baselines, history, selection, study
from automerge_jax.search.job import BASE, Job
from automerge_jax.search.ledger import Ledger
from automerge_jax.search.settings import Settings
from automerge_jax.tasks import sealed, splits
from automerge_jax.tasks.itemset import ItemSet
from automerge_jax.types import SearchSpace


def choose(
  settings: Settings,
  job: Job,
  space: SearchSpace,
  ledger: Ledger,
  outcome: study.Outcome,
  known: Sequence[Ledger],
) -> tuple[list[dict[str, Any]], dict[str, Recipe]]:
  """Finalists (best first) and the chosen recipes by name, on select items."""
  judge = _judge('select', settings, job, ledger, known)
  rows = [
    {
      'origin': row.candidate.origin,
      'recipe': space.describe(row.candidate.coefficients),
      'search': row.values[row.rung],
    }
    for row in history.best(outcome.scored, settings.finalists)
  ]
  if outcome.mean is not None:
    mean = space.describe(outcome.mean)
    rows.insert(0, {'origin': 'mean', 'recipe': mean, 'search': None})
  index, means = selection.best(judge, [row['recipe'] for row in rows])
  chosen = {
    'merged': rows[index]['recipe'],
    'uniform': baselines.uniform(job.experts),
  }
  grids = {
    'task_arithmetic': baselines.task_arithmetic(
      job.experts, BASE, settings.weights
    ),
    'ties': baselines.ties(
      job.experts, BASE, settings.ties_scales, settings.ties_densities
    ),
  }
  for name, grid in grids.items():
    if grid:
      chosen[name] = grid[selection.best(judge, grid)[0]]
  finalists = [
    {
      'recipe_hash': job.recipe_hash(row['recipe']),
      'origin': row['origin'],
      'search': row['search'],
      'select': means[i],
      'chosen': i == index,
    }
    for i, row in enumerate(rows)
  ]
  return sorted(finalists, key=lambda row: not row['chosen']), chosen


def parents(
  settings: Settings, job: Job, ledger: Ledger, known: Sequence[Ledger]
) -> dict[str, str]:
  """Each task's own expert.

  It is the expert that is named like the task; for other tasks the one with
  the best mean score on the select items.
  """
  own = {name: name for name in job.references if name in job.folders}
  if len(own) < len(job.tasks):
    judge = _judge('select', settings, job, ledger, known)
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
  chosen: Mapping[str, Recipe],
  known: Sequence[Ledger],
) -> tuple[dict[str, np.ndarray], dict[str, dict[str, Any]]]:
  """Scores the chosen merges, the parents and the base, by split and model.

  The merge is read back from the exported folder.
  """
  tasks, scores = {}, {}
  for split in ('search', 'heldout'):
    judge = _judge(split, settings, job, ledger, known)
    found = {
      name: judge.score_recipe(recipe)
      for name, recipe in chosen.items()
      if name != 'merged'
    }
    found['merged'] = judge.score_tensors(
      job.recipe_hash(chosen['merged']),
      lambda: safetensors.read(exported),
    )
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


def _items(split: str, settings: Settings, job: Job) -> ItemSet:
  source, n = {
    'search': (splits.search_items, settings.rungs[-1]),
    'select': (sealed.select_items, settings.select),
    'heldout': (sealed.heldout_items, settings.heldout),
  }[split]
  return job.items(
    {
      name: source(place, n, settings.force_test_split)
      for name, place in job.references.items()
    }
  )


def _judge(
  split: str,
  settings: Settings,
  job: Job,
  ledger: Ledger,
  known: Sequence[Ledger],
) -> selection.Judge:
  return selection.judge(
    job.family,
    job.heads,
    _items(split, settings, job),
    f'{split}/{job.setting}',
    ledger,
    job.folders,
    known,
    settings.dtype,
  )
