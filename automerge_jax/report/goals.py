"""Objectives, the front and constraints, as held-out items show them.

A front's volume is what its members dominate of the box between the worst and
the best value that any compared model has in each objective. It is of the best
of several noisy values, so noise raises it, and more so the more models there
are: the interval of the difference knows of the items only.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from automerge_jax.search import fronts, statistics
from automerge_jax.search.objectives import Objective, Objectives

Scores = Mapping[str, Mapping[str, np.ndarray]]

_VOLUMES = 1000  # resamples in which volumes are taken
_METRICS = {'accuracy': 'score', 'log_likelihood': 'log_likelihood'}


def describe(
  goals: Objectives | None, tasks: Sequence[str]
) -> list[dict[str, Any]]:
  """A row an objective: name, metric, the weights of its tasks."""
  if goals is None:
    return []
  return [
    {
      'name': one.name,
      'metric': one.metric,
      'weights': {
        task: float(weight)
        for task, weight in zip(tasks, one.weights, strict=True)
        if weight
      },
    }
    for one in goals.each
  ]


def front(
  members: Sequence[Mapping[str, Any]],
  goals: Objectives | None,
  held: Scores,
  names: Sequence[str],
  tasks: np.ndarray,
  seed: int,
  draws: int,
) -> dict[str, Any] | None:
  """What `summary.json` says of a front; None without members.

  Args:
    members: rows with `name` (a model of `held`, `front:N`), `recipe_hash`,
      `picked` and `why`; what else they hold is kept.
    goals: the objectives.
    held: held-out scores by model; all that is neither `merged` nor a member
      is what the front is compared with.
    names: of the tasks.
    tasks: index of each item's task, [n].
    seed: of the bootstrap.
    draws: bootstrap resamples.

  Raises:
    ValueError: if there are members without objectives to see them by, or not
      exactly one of them is picked.
  """
  if not members:
    return None
  if goals is None or len(goals.each) < 2:
    raise ValueError('a front needs the two or more objectives it is one of')
  picked = [row['name'] for row in members if row['picked']]
  if len(picked) != 1:
    raise ValueError(f'picked members are {picked}; expected exactly one')
  mine = [row['name'] for row in members]
  scored = [name for name in mine if name in held]
  others = sorted(set(held) - {'merged', *mine})
  drawn = _drawn(goals.each, held, [*scored, *others], tasks, seed, draws)
  values = {
    name: _values(goals.each, held[name], drawn[i], tasks, seed, draws)
    for i, name in enumerate([*scored, *others])
  }
  return {
    'members': [
      {
        **row,
        'recipe': f'{row["name"].replace(":", "/")}.yaml',
        'objectives': values.get(row['name']),
        'broken': [names[t] for t in _broken(goals, held, row['name'], tasks)],
      }
      for row in members
    ],
    'others': {name: values[name] for name in others},
    'volume': _volume(values, drawn[:, :_VOLUMES], len(scored)),
  }


def constraints(
  goals: Objectives | None,
  held: Scores,
  names: Sequence[str],
  tasks: np.ndarray,
  seed: int,
) -> list[dict[str, Any]]:
  """Whether the merge keeps each constraint on held-out items.

  Args:
    goals: with the constraints.
    held: held-out scores by model.
    names: of the tasks.
    tasks: index of each item's task, [n].
    seed: of the bootstrap for scores that are not 0 or 1.

  Returns:
    Rows of `task`, `reference` (a model), `most` (how far it may fall) and the
    paired `difference`, merge minus reference, with its interval; `kept` by the
    difference, `sure` where the whole interval says the same.

  Raises:
    ValueError: if the reference was not scored.
  """
  rows = []
  for index, most in enumerate([] if goals is None else goals.most):
    if goals is None or not np.isfinite(most):
      continue
    reference = _reference(goals, held)
    mine = tasks == index
    test = statistics.paired(
      held['merged']['score'][mine], held[reference]['score'][mine], seed
    )
    kept = _keeps(test.difference, most)
    rows.append(
      {
        'task': names[index],
        'reference': reference,
        'most': float(most),
        'difference': test.difference,
        'low': test.low,
        'high': test.high,
        'kept': kept,
        'sure': _keeps(test.low if kept else test.high, most) == kept,
      }
    )
  return rows


def _drawn(
  each: Sequence[Objective],
  held: Scores,
  models: Sequence[str],
  tasks: np.ndarray,
  seed: int,
  draws: int,
) -> np.ndarray:
  """Objectives in resamples that all models share, [R, draws, M]."""
  total = np.zeros((len(models), draws, len(each)))
  for metric in {one.metric for one in each}:
    rows = np.stack([held[name][_METRICS[metric]] for name in models])
    weights = [one.weights * (one.metric == metric) for one in each]
    for task, weight in enumerate(np.transpose(weights)):
      if weight.any():
        mine = tasks == task
        means = statistics.resampled_means(
          rows[:, mine], tasks[mine], seed, draws
        )
        total += means[:, :, None] * weight
  return total


def _values(
  each: Sequence[Objective],
  scores: Mapping[str, np.ndarray],
  drawn: np.ndarray,
  tasks: np.ndarray,
  seed: int,
  draws: int,
) -> dict[str, dict[str, float | None]]:
  """Each objective of one model with its interval; drawn [draws, M].

  Intervals of accuracies are those of the other tables, for tasks and for the
  mean over them.
  """
  found = {}
  for one, column in zip(each, drawn.T, strict=True):
    rows = scores[_METRICS[one.metric]]
    wanted = np.flatnonzero(one.weights)
    mine = tasks == wanted[0]
    if len(wanted) == 1 and np.isin(rows[mine], (0, 1)).all():
      estimate = statistics.mean(rows[mine], seed)
    elif one.metric == 'accuracy' and one.weights.all():
      estimate = statistics.mean_bootstrap(
        statistics.by_weight(rows, tasks, one.weights), tasks, seed, draws
      )
    else:
      value = sum(
        one.weights[t] * rows[tasks == t].mean(dtype=float) for t in wanted
      )
      estimate = statistics.Estimate(float(value), *_interval(column))
    found[one.name] = {
      'value': estimate.value,
      'low': estimate.low,
      'high': estimate.high,
    }
  return found


def _volume(
  values: Mapping[str, Mapping[str, Mapping[str, Any]]],
  drawn: np.ndarray,
  count: int,
) -> dict[str, Any] | None:
  """Volumes of the first `count` models and of the rest, as shares of the box.

  None where models do not differ in an objective, or none is on one side.
  """
  rows = np.array(
    [[cell['value'] for cell in row.values()] for row in values.values()]
  )
  if not 0 < count < len(rows):
    return None
  worst, best = rows.min(0), rows.max(0)
  box = float(np.prod(best - worst))
  if not box:
    return None

  def share(points: np.ndarray) -> float:
    return fronts.hypervolume(points, worst) / box

  ours, theirs = share(rows[:count]), share(rows[count:])
  differences = [
    share(points[:count]) - share(points[count:])
    for points in np.swapaxes(drawn, 0, 1)
  ]
  low, high = _interval(np.asarray(differences))
  names = list(next(iter(values.values())))
  return {
    'worst': dict(zip(names, worst.tolist(), strict=True)),
    'best': dict(zip(names, best.tolist(), strict=True)),
    'front': ours,
    'others': theirs,
    'difference': ours - theirs,
    'low': low,
    'high': high,
  }


def _reference(goals: Objectives, held: Scores) -> str:
  for name in (goals.reference, f'expert:{goals.reference}'):
    if name in held:
      return name
  raise ValueError(
    f'constraints are relative to {goals.reference!r}, which has no held-out '
    f'scores; scored were {sorted(held)}'
  )


def _broken(
  goals: Objectives, held: Scores, name: str, tasks: np.ndarray
) -> list[int]:
  """Tasks whose constraint a model breaks."""
  if name not in held or not goals.constrained:
    return []
  floor = held[_reference(goals, held)]['score']
  fall = held[name]['score'].astype(float) - floor
  return [
    index
    for index, most in enumerate(goals.most)
    if np.isfinite(most) and not _keeps(fall[tasks == index].mean(), most)
  ]


def _keeps(difference: float, most: float) -> bool:
  return bool(difference >= -most - 1e-9)  # but for rounding


def _interval(drawn: np.ndarray) -> tuple[float, float]:
  low = np.quantile(drawn, 0.025, method='lower')
  high = np.quantile(drawn, 0.975, method='higher')
  return float(low), float(high)
