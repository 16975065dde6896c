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
from automerge_jax.tasks.partition import Item
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
  items = {t: sealed.select_items(t, settings.select) for t in settings.tasks}
  judge = _judge('select', items, job, ledger, known)
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
    'uniform': baselines.uniform(settings.tasks),
  }
  grids = {
    'task_arithmetic': baselines.task_arithmetic(
      settings.tasks, BASE, settings.weights
    ),
    'ties': baselines.ties(
      settings.tasks, BASE, settings.ties_scales, settings.ties_densities
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
  wanted = {
    'search': (splits.search_items, settings.rungs[-1]),
    'heldout': (sealed.heldout_items, settings.heldout),
  }
  tasks, scores = {}, {}
  for split, (source, n) in wanted.items():
    items = {task: source(task, n) for task in settings.tasks}
    judge = _judge(split, items, job, ledger, known)
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
    found |= {f'expert:{task}': s for task, s in originals.items()}
    tasks[split] = judge.items.task
    scores[split] = {
      name: {'score': s.score, 'log_likelihood': s.log_likelihood}
      for name, s in found.items()
    }
  return tasks, scores


def _judge(
  split: str,
  items: Mapping[str, Sequence[Item]],
  job: Job,
  ledger: Ledger,
  known: Sequence[Ledger],
) -> selection.Judge:
  return selection.judge(
    job.family,
    job.heads,
    job.items(items),
    f'{split}/{job.setting}',
    ledger,
    job.folders,
    known,
  )
