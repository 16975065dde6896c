"""What the choice on select items is worth, once it is known to be a choice.

Finalists and tuned baselines were both chosen as the best of several on the
same items, so both are corrected alike.
"""

from typing import Any

import numpy as np

from automerge_jax.search import statistics
from automerge_jax.search.ledger import Scores
from automerge_jax.search.objectives import Objectives

_METRICS = {'accuracy': 'score', 'log_likelihood': 'log_likelihood'}


def item_values(
  goals: Objectives, scores: Scores, tasks: np.ndarray
) -> np.ndarray:
  """Values [n] whose unweighted mean over tasks is the mean of the objectives.

  Args:
    goals: the objectives.
    scores: item scores [n].
    tasks: index of each item's task, [n].
  """
  number = len(goals.each[0].weights)
  total = np.zeros(len(tasks))
  for one in goals.each:
    values = getattr(scores, _METRICS[one.metric])
    total += one.weights[tasks] * np.asarray(values, np.float64)
  return total * number / len(goals.each)


def hold(
  ours: np.ndarray,
  theirs: np.ndarray,
  tasks: np.ndarray,
  chosen: tuple[int, int],
  seed: int,
  draws: int = 2000,
) -> dict[str, Any]:
  """The chosen finalist and the tuned baseline on the select items.

  Args:
    ours: values of the finalists among which was chosen, [F, n].
    theirs: values of the baseline's grid, [G, n].
    tasks: index of each item's task, [n].
    chosen: positions of what was chosen, (of F, of G).
    seed: of the resamples.
    draws: number of resamples.

  Returns:
    `finalists` F, `grid` G; `merged` and `baseline`: `{naive, value, low,
    high}`, the score of the best and what it is without the bias of the choice;
    `difference`, alike; `simultaneous`: `{difference, low, high, p}` over all
    pairs.
  """
  best = {
    'merged': statistics.best_of(ours, tasks, seed, draws),
    'baseline': statistics.best_of(theirs, tasks, seed, draws),
    'difference': statistics.difference_of_bests(
      ours, theirs, tasks, seed, draws
    ),
    'simultaneous': statistics.simultaneous(
      ours, theirs, tasks, chosen, seed, draws
    ),
  }
  return {
    'finalists': len(ours),
    'grid': len(theirs),
    **{name: found._asdict() for name, found in best.items()},
  }


def by_rung(
  parts: list[np.ndarray],
  part_tasks: list[np.ndarray],
  fresh: np.ndarray,
  fresh_tasks: np.ndarray,
  seed: int,
  draws: int = 2000,
) -> list[dict[str, Any]]:
  """How far values on search items lie above those on other items.

  Args:
    parts: values of one model on the items that each rung adds, [n] each.
    part_tasks: index of each item's task, alike.
    fresh: its values on items that the search did not see, [m].
    fresh_tasks: index of each item's task, [m].
    seed: of the resamples.
    draws: number of resamples.

  Returns:
    A row a rung: `rung`, `items` (of all tasks), `search`, `fresh`, and the
    `gap` between them with `low` and `high`.
  """
  rows = []
  other = float(statistics.task_mean(fresh, fresh_tasks))
  for rung in range(len(parts)):
    values = np.concatenate(parts[: rung + 1])
    tasks = np.concatenate(part_tasks[: rung + 1])
    gap = statistics.optimism(values, tasks, fresh, fresh_tasks, seed, draws)
    rows.append(
      {
        'rung': rung,
        'items': len(values),
        'search': float(statistics.task_mean(values, tasks)),
        'fresh': other,
        'gap': gap.value,
        'low': gap.low,
        'high': gap.high,
      }
    )
  return rows
