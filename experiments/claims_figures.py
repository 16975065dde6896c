"""Figures of the claims, from item scores: values and their 95% intervals."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from automerge_jax.search import statistics
from automerge_jax.search.statistics import Estimate

_DRAWS = 1000  # resamples in which coverage is taken


@dataclasses.dataclass(frozen=True)
class Figures:
  """What goes into a results file, filled figure by figure."""

  values: dict[str, Any] = dataclasses.field(default_factory=dict)
  intervals: dict[str, list[float | None]] = dataclasses.field(
    default_factory=dict
  )

  def put(self, name: str, estimate: Estimate) -> None:
    self.values[name] = estimate.value
    self.intervals[name] = [estimate.low, estimate.high]


def difference(
  merged: np.ndarray, expert: np.ndarray, task: np.ndarray
) -> Estimate:
  """Mean over tasks of merges' scores minus the experts', paired by item.

  Args:
    merged: 0/1 scores, one row a seed of the search, [S, n]; averaged item by
      item, so the interval is over items, not over seeds.
    expert: 0/1 scores [n] of each item's own expert.
    task: index of each item's task, [n].
  """
  return statistics.paired_bootstrap(
    np.atleast_2d(merged).mean(0), expert, task, seed=0
  )


def own_tasks(
  figures: Figures,
  name: str,
  merged: Mapping[str, np.ndarray],
  experts: Mapping[str, np.ndarray],
) -> None:
  """One kind of search on every task, each by a search of its own.

  Args:
    figures: what is filled: `NAME` with `_minus_expert` and
      `_tasks_surely_above_expert` (the interval is above 0), `_below_`, and by
      task. `p` is McNemar's, of the first seed, without correction.
    name: begins with the suite, holds `{task}`, and names the kind.
    merged: 0/1 scores by task, one row a seed, [S, n].
    experts: scores of the task's own expert, [n].
  """
  estimates = {}
  for task, rows in merged.items():
    own, one = experts[task], np.zeros(rows.shape[1], int)
    told = name.format(task=f'{task}_')
    estimates[task] = difference(rows, own, one)
    figures.put(
      f'{told}_heldout', statistics.mean_bootstrap(rows.mean(0), one, seed=0)
    )
    figures.put(f'{told}_minus_expert', estimates[task])
    test = statistics.mcnemar(rows[0], own)
    figures.values[f'{told}_p'] = test.p
    figures.values[f'{told}_gained'] = test.gained
    figures.values[f'{told}_lost'] = test.lost
  told = name.format(task='')
  figures.put(
    f'{told}_minus_expert',
    difference(
      np.concatenate(list(merged.values()), axis=1),
      np.concatenate([experts[task] for task in merged]),
      np.repeat(np.arange(len(merged)), [r.shape[1] for r in merged.values()]),
    ),
  )
  figures.values[f'{told}_tasks_surely_above_expert'] = sum(
    one.low is not None and one.low > 0 for one in estimates.values()
  )
  figures.values[f'{told}_tasks_surely_below_expert'] = sum(
    one.high is not None and one.high < 0 for one in estimates.values()
  )


def corrected(figures: Figures, suite: str, kinds: Sequence[str]) -> None:
  """Surely above after Holm's correction for all searches of a suite."""
  ends = tuple(f'_{kind}_p' for kind in kinds)
  names = [
    key.removesuffix('_p')
    for key in figures.values
    if key.startswith(f'{suite}_') and key.endswith(ends)
  ]
  adjusted = statistics.holm([figures.values[f'{name}_p'] for name in names])
  above = [
    p < 0.05
    and figures.values[f'{name}_gained'] > figures.values[f'{name}_lost']
    for name, p in zip(names, adjusted, strict=True)
  ]
  figures.values[f'{suite}_searches'] = len(names)
  figures.values[f'{suite}_searches_above_expert_holm'] = sum(above)


def coverage(
  covering: Sequence[np.ndarray],
  covered: Sequence[np.ndarray],
  task: np.ndarray,
) -> Estimate:
  """Share of models that some other model dominates, on the same items.

  A model dominates another that it matches on every task and beats on one.

  Args:
    covering, covered: item scores [n] of the models.
    task: index of each item's task, [n].
  """
  rows = np.stack([*covering, *covered])
  of_task = [rows[:, task == t] for t in np.unique(task)]
  means = np.stack([mine.mean(1) for mine in of_task])
  drawn = np.stack(
    [
      statistics.resampled_means(
        mine, np.zeros(mine.shape[1], int), seed=index, draws=_DRAWS
      )
      for index, mine in enumerate(of_task)
    ]
  )

  def share(values: np.ndarray) -> np.ndarray:
    """Of values [tasks, models, ...] the share [...]."""
    # Differences of means that are equal are rounding.
    values = np.round(values, 9)
    ours, theirs = np.split(values, [len(covering)], axis=1)
    ours, theirs = ours[:, :, None], theirs[:, None]
    above = (ours >= theirs).all(0) & (ours > theirs).any(0)
    return above.any(0).mean(0)

  shares = share(drawn)
  low, high = np.quantile(shares, (0.025, 0.975))
  return Estimate(float(share(means)), float(low), float(high))


def front(
  figures: Figures,
  suite: str,
  summary: Mapping[str, Any],
  scores: Mapping[str, np.ndarray],
) -> None:
  """A front against the experts, the base and the hand-made merges.

  Args:
    figures: what is filled, `SUITE_front_...` and `SUITE_others_volume`.
    suite: whose tasks are the objectives.
    summary: of its search.
    scores: held-out scores [n] of every model, and their `task`.
  """
  found = summary['front']
  volume, members = found['volume'], [row['name'] for row in found['members']]
  others = [n for n in scores if n not in ('task', 'merged', *members)]
  groups = {
    'others': others,
    'experts': [n for n in others if n.startswith('expert:')],
    'hand_made': [
      n for n in others if n != 'base' and not n.startswith('expert:')
    ],
  }
  figures.values[f'{suite}_front_members'] = len(members)
  figures.values[f'{suite}_front_volume'] = volume['front']
  figures.values[f'{suite}_others_volume'] = volume['others']
  figures.put(
    f'{suite}_front_volume_gain',
    Estimate(volume['difference'], volume['low'], volume['high']),
  )
  of = {name: scores[name] for name in (*members, *others)}

  def cover(first: Sequence[str], second: Sequence[str]) -> Estimate:
    return coverage(
      [of[n] for n in first], [of[n] for n in second], scores['task']
    )

  for group, names in groups.items():
    figures.values[f'{suite}_front_{group}'] = len(names)
    figures.put(f'{suite}_front_covers_{group}', cover(members, names))
    figures.put(f'{suite}_front_covered_by_{group}', cover(names, members))
  for name, values in of.items():
    told = name.replace('front:', 'front_').replace('expert:', 'expert_')
    for index, task in enumerate(summary['tasks']):
      figures.values[f'{suite}_{told}_heldout_{task}'] = float(
        values[scores['task'] == index].mean()
      )
