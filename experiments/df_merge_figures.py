"""Figures of the study of DF-Merge, from item scores."""

from collections.abc import Mapping, Sequence

import numpy as np

from automerge_jax.search import statistics
from experiments.claims_figures import Figures, difference

OURS = 'df_merge_ei'
BEST = 'best_hand_made'


def suite(
  figures: Figures,
  name: str,
  searched: Mapping[str, np.ndarray],
  hand_made: Mapping[str, np.ndarray],
  best: str,
  task: np.ndarray,
) -> None:
  """Held-out means over tasks, and what `OURS` is above each other.

  Args:
    figures: what is filled: `NAME_METHOD`, `NAME_METHOD_seedS`,
      `NAME_best_hand_made` and `NAME_df_merge_ei_minus_METHOD`.
    name: of the suite.
    searched: 0/1 scores by search, one row a seed, [S, n].
    hand_made: 0/1 scores [n] of merges, experts and the model for all tasks.
    best: of the hand-made merges the one chosen on select items.
    task: index of each item's task, [n].
  """
  means = {method: rows.mean(0) for method, rows in searched.items()}
  means |= {**hand_made, BEST: hand_made[best]}
  for method, scores in means.items():
    figures.put(
      f'{name}_{method}', statistics.mean_bootstrap(scores, task, seed=0)
    )
  for method, rows in searched.items():
    for seed, row in enumerate(rows):
      figures.values[f'{name}_{method}_seed{seed}'] = float(
        statistics.task_mean(row, task)
      )
  for rival, scores in means.items():
    if rival != OURS:
      figures.put(
        f'{name}_{OURS}_minus_{rival}',
        difference(searched[OURS], scores, task),
      )


def chosen(select: Mapping[str, list[float]]) -> str:
  """The hand-made method whose best merge is best on select items."""
  return max(select, key=lambda method: np.nanmax(select[method]))


def ablations(
  figures: Figures,
  name: str,
  full: np.ndarray,
  others: Mapping[str, np.ndarray],
  task: np.ndarray,
) -> None:
  """What the published search loses or gains by what is changed in it.

  Args:
    figures: what is filled: `NAME_ABLATION` and `NAME_ABLATION_minus_full`.
    name: of the suite.
    full: 0/1 scores [n] of the search of the same seed.
    others: of what each ablation found.
    task: index of each item's task, [n].
  """
  for ablation, scores in others.items():
    figures.put(
      f'{name}_{ablation}', statistics.mean_bootstrap(scores, task, seed=0)
    )
    figures.put(f'{name}_{ablation}_minus_full', difference(scores, full, task))


def steps(
  figures: Figures,
  name: str,
  after: Mapping[int, np.ndarray],
  task: np.ndarray,
) -> None:
  """What more steps of the published search are worth.

  Args:
    figures: what is filled: `NAME_steps_N`, and `NAME_steps_N_minus_M` of the
      most and the fewest, if these are two.
    name: of the suite.
    after: 0/1 scores of the best on search items after so many candidates,
      one row a seed, [S, n].
    task: index of each item's task, [n].
  """
  for count, rows in after.items():
    figures.put(
      f'{name}_steps_{count}',
      statistics.mean_bootstrap(rows.mean(0), task, seed=0),
    )
  few, many = min(after), max(after)
  if few < many:
    figures.put(
      f'{name}_steps_{many}_minus_{few}',
      difference(after[many], after[few].mean(0), task),
    )


def curve(rows: Sequence[Sequence[float | None]]) -> list[float]:
  """Best score so far after each candidate, mean over seeds.

  Args:
    rows: of each seed the candidates' scores in order, None where one failed.
  """
  length = min(map(len, rows))
  filled = np.stack(
    [
      np.nan_to_num(np.asarray(row[:length], float), nan=-np.inf)
      for row in rows
    ]
  )
  return np.maximum.accumulate(filled, 1).mean(0).tolist()
