"""What a finished search says of itself: the content of `summary.json`.

    {"verdict": str, "seed": int, "method": str, "space": str,
     "objective": str, "tasks": [TASK, ...],
     "weights": null or {TASK: share of the mean},
     "warnings": [str], "looks": int,
     "metrics": {TASK: str}, "parents": {TASK: EXPERT},
     "models": {MODEL: {"recipe_hash": str|null,
       SPLIT: {"mean": {"accuracy", "low", "high", "log_likelihood"},
         "tasks": {TASK: {"accuracy", "low", "high", "log_likelihood",
                          "n", "truncated", "unparsed"}}}}},
     "objectives": [{"name", "metric", "weights": {TASK: float}}],
     "front": null or {
       "members": [{"name", "recipe_hash", "picked": bool, "why": str,
         "recipe": file of its recipe, "broken": [TASK],
         "objectives": null or {OBJECTIVE: {"value", "low", "high"}},
         SPLIT: as for a model, "on_select": {OBJECTIVE: float}}],
       "others": {MODEL: {OBJECTIVE: {"value", "low", "high"}}},
       "volume": null or {"worst": {OBJECTIVE: float}, "best": ...,
         "front", "others", "difference", "low", "high"}},
     "constraints": [{"task", "reference": MODEL, "most", "difference", "low",
       "high", "kept": bool, "sure": bool}],
     "experts_on_own_task": {"heldout": {"mean": {"accuracy", "low", "high",
       "log_likelihood"}}},
     "comparisons": {
       "merged_vs_MODEL": {"difference", "low", "high"},
       "merged_vs_own_expert": {TASK: {"difference", "low", "high", "gained",
         "lost", "p", "p_holm"}}},
     "gap_closed": {"value", "low", "high", "reason"},
     "optimism": {"search", "heldout", "difference", "low", "high"},
     "search": {"candidates", "evaluations", "items", "full_evaluations",
       "generations", "failures",
       "curve": [{"generation", "candidates", "items", "full_evaluations",
                  "best", "mean", "incumbent"}],
       "spending": null or see `history.spending`,
       "screening": null or [{"generation", "correlation", "on"}]},
     "plan": null or see `foresight.foresee`,
     "resolution": {SPLIT: {"items", "discordant", "detectable", "difference"}},
     "contest": null or see `contest.hold`,
     "generalisation": null or see `finalists.gaps`,
     "finalists": [{"recipe_hash", "origin", "search", "select"}],
     "coefficients": null or {"parameter": str, "experts": [str],
       "components": [str], "layers": [str],
       "values": [expert][component][layer], null where there is none,
       "program": null or see `history.coefficients`},
     "environment": {...}}

MODEL is `merged`, `expert:EXPERT`, `base`, `uniform`, `task_arithmetic` or
another baseline; SPLIT is `search`, `select` or `heldout`, where it was scored.
A task's own expert is its entry in `parents`. Accuracies are means of item
scores by the task's metric, `truncated` and `unparsed` shares of items,
log-likelihoods nats an item, means over tasks unweighted where `weights` is
null, intervals 95%: Wilson's for a task that is right or wrong, a stratified
percentile bootstrap for other scores, for means over tasks and their
differences, Newcombe's for a task's paired difference (where scores are not 0
or 1: a bootstrap, and `gained` and `lost` count items with a higher and a lower
score, compared by a sign test). Objectives of a front's members and of the
other models are held-out ones; its `volume` is of a box, see `report/goals.py`,
and `others` are the parents, the base and the baselines. A constraint is kept
where the merge falls no further than `most` below the reference, by the
difference, and surely so where the whole interval says the same. Everything but
`environment` is the same for the same scores. `best`, `mean` and `incumbent`
are null in generations without such a score. `resolution` compares the merge
with tuned task arithmetic, see `report/doubts.py`.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from automerge_jax.report import doubts, measured, wording
from automerge_jax.report import goals as goals_lib
from automerge_jax.report.measured import Scores
from automerge_jax.search import statistics
from automerge_jax.search.objectives import Objectives

_CURVE = (
  'generation',
  'candidates',
  'items',
  'full_evaluations',
  'best',
  'mean',
  'incumbent',
)
_TOTALS = ('candidates', 'evaluations', 'items', 'full_evaluations', 'failures')


def build(
  *,
  metrics: Mapping[str, str],
  parents: Mapping[str, str],
  tasks: Mapping[str, np.ndarray],
  scores: Mapping[str, Scores],
  log: Sequence[Mapping[str, Any]],
  seed: int,
  method: str,
  space: str,
  objective: str,
  recipe_hashes: Mapping[str, str],
  finalists: Sequence[Mapping[str, Any]],
  coefficients: Mapping[str, Any] | None,
  environment: Mapping[str, Any],
  draws: int = 10_000,
  goals: Objectives | None = None,
  front: Sequence[Mapping[str, Any]] = (),
  weights: Mapping[str, float] | None = None,
  plan: Mapping[str, Any] | None = None,
  spending: Mapping[str, Any] | None = None,
  screening: Sequence[Mapping[str, Any]] | None = None,
  contest: Mapping[str, Any] | None = None,
  generalisation: Mapping[str, Any] | None = None,
  looks: int = 1,
) -> dict[str, Any]:
  """Content of `summary.json`; the module's docstring has the schema.

  Args:
    metrics: of each task, in order.
    parents: each task's own expert.
    tasks: index of each item's task, `{split: [n]}`.
    scores: `{split: {model: {'score': [n], 'log_likelihood': [n]}}}`, where
      there are any also `flags` [n]. `heldout` holds `merged`,
      `task_arithmetic` and every `expert:EXPERT` of `parents`; `search` holds
      `merged`.
    log: one row a generation: `generation`, then, counted from the start,
      `candidates` (proposed), `evaluations` (of a candidate at a rung),
      `items`, `full_evaluations` (items over those of the last rung) and
      `failures`; then `best` and `mean` of its scores and `incumbent`, the
      best score so far.
    seed: of the search and of the bootstrap.
    method: merge method.
    space: search space.
    objective: what was maximised.
    recipe_hashes: `{model: hash}`, for models that have a recipe.
    finalists: rows with `recipe_hash`, `origin`, `search` and `select`.
    coefficients: what the merged recipe holds, or None.
    environment: times, memory, versions: whatever may differ on a repetition.
    draws: bootstrap resamples.
    goals: objectives and constraints; None: no constraints, no front.
    front: its members, see `goals.front`; `merged` is the picked one.
    weights: of tasks in all means over tasks, 1 where nothing is stated; None:
      all alike.
    plan: what was stated before the search, see `foresight.foresee`.
    spending: where the items went, see `history.spending`.
    screening: rows of `generation`, `correlation` (rank correlation of what
      the surrogate foresaw with what was scored, None where unknown) and `on`.
    contest: what the choice is worth, see `contest.hold`.
    generalisation: gaps by rung, see `finalists.gaps`.

  Raises:
    ValueError: if a model that the comparisons need was not scored.
  """
  task_names = list(metrics)
  own = [parents[task] for task in task_names]
  _check(task_names, own, tasks, scores, log)
  held, held_tasks = scores['heldout'], np.asarray(tasks['heldout'])
  members = {'merged', *(row['name'] for row in front)}
  share = np.asarray([(weights or {}).get(task, 1.0) for task in task_names])

  def whole(values: np.ndarray, split: str = 'heldout') -> np.ndarray:
    return statistics.by_weight(values, tasks[split], share)

  merged = whole(held['merged']['score'])
  experts = {
    key: measured.own(held, key, own, held_tasks)
    for key in ('score', 'log_likelihood')
  }
  floor = whole(held['task_arithmetic']['score'])
  comparisons: dict[str, Any] = {
    f'merged_vs_{name}': measured.difference(
      statistics.paired_bootstrap(
        merged, whole(other['score']), held_tasks, seed, draws
      )
    )
    for name, other in sorted(held.items())
    if name not in members
  }
  comparisons['merged_vs_own_expert'] = measured.against_experts(
    held, parents, task_names, held_tasks, seed
  )
  before = whole(scores['search']['merged']['score'], 'search')
  optimism = statistics.optimism(
    before, tasks['search'], merged, held_tasks, seed, draws
  )
  models = {
    name: {
      'recipe_hash': recipe_hashes.get(name),
      **{
        split: {
          'mean': measured.mean(
            scores[split][name], tasks[split], share, seed, draws
          ),
          'tasks': measured.per_task(
            scores[split][name], tasks[split], task_names, seed
          ),
        }
        for split in ('search', 'select', 'heldout')
        if name in scores.get(split, {})
      },
    }
    for name in sorted(set().union(*scores.values()))
  }
  # Beside their picked one, members of a front are no rivals of the merge.
  siblings = {row['name']: models.pop(row['name'], {}) for row in front}
  gap = statistics.gap_closed(
    merged, floor, whole(experts['score']), held_tasks, seed, draws
  )
  summary = {
    'verdict': '',
    'seed': seed,
    'method': method,
    'space': space,
    'objective': objective,
    'tasks': task_names,
    'weights': None
    if weights is None or len(set(share)) == 1
    else dict(zip(task_names, share / share.sum(), strict=True)),
    'metrics': dict(metrics),
    'parents': {task: parents[task] for task in task_names},
    'models': models,
    'objectives': goals_lib.describe(goals, task_names),
    'front': goals_lib.front(
      [siblings[row['name']] | _member(row) for row in front],
      goals,
      held,
      task_names,
      held_tasks,
      seed,
      draws,
    ),
    'constraints': goals_lib.constraints(
      goals, held, task_names, held_tasks, seed
    ),
    'experts_on_own_task': {
      'heldout': {
        'mean': measured.mean(experts, held_tasks, share, seed, draws)
      }
    },
    'comparisons': comparisons,
    'gap_closed': gap._asdict(),
    'optimism': {
      'search': float(statistics.task_mean(before, tasks['search'])),
      'heldout': float(statistics.task_mean(merged, held_tasks)),
      **measured.difference(optimism),
    },
    'search': {
      **{key: log[-1][key] for key in _TOTALS},
      'generations': len(log),
      'curve': [{key: row[key] for key in _CURVE} for row in log],
      'spending': None if spending is None else dict(spending),
      'screening': None if screening is None else list(screening),
    },
    'plan': None if plan is None else dict(plan),
    'resolution': doubts.resolution(tasks, scores, share),
    'contest': None if contest is None else dict(contest),
    'generalisation': None if generalisation is None else dict(generalisation),
    'looks': looks,
    'warnings': [],
    'finalists': [
      {key: row[key] for key in ('recipe_hash', 'origin', 'search', 'select')}
      for row in finalists
    ],
    'coefficients': None if coefficients is None else dict(coefficients),
    'environment': dict(environment),
  }
  summary['verdict'] = wording.verdict(summary)
  summary['warnings'] = doubts.warnings(summary)
  return _plain(summary)


def _check(
  task_names: Sequence[str],
  own: Sequence[str],
  tasks: Mapping[str, np.ndarray],
  scores: Mapping[str, Scores],
  log: Sequence[Mapping[str, Any]],
) -> None:
  needed = {
    'heldout': ['merged', 'task_arithmetic']
    + [f'expert:{name}' for name in own],
    'search': ['merged'],
  }
  for split, names in needed.items():
    missing = [name for name in names if name not in scores.get(split, {})]
    if missing:
      raise ValueError(
        f'no {split} scores of {missing}; score them before the summary'
      )
  if not log:
    raise ValueError('the search log is empty: no generation was finished')
  for split, indices in tasks.items():
    found = np.unique(indices).tolist()
    if found != list(range(len(task_names))):
      raise ValueError(
        f'{split} items belong to tasks {found}: expected items of each of '
        f'{list(task_names)}'
      )


def _member(row: Mapping[str, Any]) -> dict[str, Any]:
  """What is stated of a member; its scores are found by split."""
  fields = ('name', 'recipe_hash', 'picked', 'why')
  return {key: row[key] for key in fields} | {'on_select': row.get('select')}


def _plain(value: Any) -> Any:
  """Numpy scalars and arrays as what JSON holds; not finite is null."""
  if isinstance(value, Mapping):
    return {key: _plain(item) for key, item in value.items()}
  if isinstance(value, list | tuple | np.ndarray):
    return [_plain(item) for item in value]
  if isinstance(value, np.generic):
    value = value.item()
  if isinstance(value, float) and not math.isfinite(value):
    return None
  return value
