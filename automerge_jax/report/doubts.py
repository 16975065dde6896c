"""Which differences the items could show, held against the one that is claimed.

A search can only rank candidates by differences that its own items show. A
difference that held-out items confirm, but that is smaller than what the search
items could show, was found with the help of luck.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from automerge_jax.report import wording
from automerge_jax.report.measured import Scores
from automerge_jax.search import statistics

BASELINE = 'task_arithmetic'


def resolution(
  tasks: Mapping[str, np.ndarray],
  scores: Mapping[str, Scores],
  weights: Sequence[float] | np.ndarray,
) -> dict[str, dict[str, Any]]:
  """By split: what merge and tuned task arithmetic differ by, and could.

  Args:
    tasks: index of each item's task by split, [n].
    scores: by split and model, see `summary.build`.
    weights: of the tasks in the mean, [tasks].

  Returns:
    `{split: {items, discordant, detectable, difference}}`: items a task (the
    fewest), the share of items on which the two differ, the difference that is
    found with 80% power where models differ so often (None: none would be),
    and the one that there is.
  """
  found = {}
  for split, models in scores.items():
    if not {'merged', BASELINE} <= set(models):
      continue
    index = np.asarray(tasks[split])
    counts = np.bincount(index, minlength=len(weights))
    pair = np.stack([models[name]['score'] for name in ('merged', BASELINE)])
    share = statistics.discordance(pair[0], pair[1], index, weights)
    means = statistics.task_mean(
      statistics.by_weight(pair, index, np.asarray(weights)), index
    )
    found[split] = {
      'items': int(counts.min()),
      'discordant': share,
      'detectable': None
      if share == 0
      else statistics.detectable(
        counts.tolist(),
        share,
        weights,
        graded=not np.isin(pair, (0, 1)).all(),
      ),
      'difference': float(means[0] - means[1]),
    }
  return found


def warnings(summary: Mapping[str, Any]) -> list[str]:
  """What a reader of the verdict has to know beside it.

  Args:
    summary: see `summary.build`; with `comparisons` and `resolution`.
  """
  return [*_looks(summary), *_luck(summary)]


def _looks(summary: Mapping[str, Any]) -> list[str]:
  count = summary['looks']
  if count < 2:
    return []
  return [
    f'{count} different merges of this search were scored on the held-out '
    'items, one after the other as its budget was raised: who stops at the '
    'best of them flatters it, and the intervals here do not know of it.'
  ]


def _luck(summary: Mapping[str, Any]) -> list[str]:
  row = summary['comparisons']['merged_vs_task_arithmetic']
  search = summary['resolution'].get('search')
  if search is None or wording.standing(row) != 'better':
    return []
  shown = search['detectable']
  if shown is not None and row['difference'] >= shown:
    return []
  could = (
    f'differences from {wording.percent(shown)} points on'
    if shown is not None
    else 'no difference at all'
  )
  return [
    f'The gain of {wording.percent(row["difference"])} points over tuned task '
    f'arithmetic is smaller than what the search could go by: with '
    f'{search["items"]} items a task it shows {could}. Held-out items confirm '
    'the gain of this merge, but another search may well miss it.'
  ]
