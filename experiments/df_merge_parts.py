"""The parts of the study of DF-Merge, each made or read back."""

import json
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from automerge_jax.tasks import multitask as joint
from configs import df_merge
from experiments import (
  choices,
  df_merge_baselines,
  df_merge_figures,
  df_merge_kept,
  df_merge_runs,
  multitask,
)
from experiments.bench import df_merge_cost
from experiments.claims_figures import Figures
from experiments.df_merge_kept import Kept


def hand_made(suite: str, kept: pathlib.Path, workdir: pathlib.Path) -> Kept:
  """Item scores of all that is not searched for; told are `select` means."""
  settings = choices.settings(df_merge.get_config(f'{suite}/random_search'))

  def made(models: Mapping[str, str]) -> Kept:
    folder = pathlib.Path(f'runs/{suite}_suite')
    multitask.run(df_merge.SUITES[suite].get_config(), folder)
    scores, select = df_merge_baselines.scores(
      settings,
      workdir / 'hand_made',
      joint=folder / joint.FOLDER,
      known=df_merge_runs.known(workdir),
    )
    task = scores.pop('task')
    return Kept(models, task, scores, {'select': select})

  return df_merge_kept.kept(
    kept / 'hand_made.json', df_merge_runs.folders(settings), made
  )


def put(
  figures: Figures,
  suite: str,
  searched: Mapping[str, Sequence[Kept]],
  made: Kept,
) -> None:
  """Figures of a suite's searches and hand-made merges."""
  df_merge_figures.suite(
    figures,
    suite,
    {name: stacked(runs, 'merged') for name, runs in searched.items()},
    made.scores,
    df_merge_figures.chosen(made.told['select']),
    made.task,
  )
  for name, runs in searched.items():
    figures.values[f'{suite}_{name}_full_evaluations'] = max(
      found.told['full_evaluations'] for found in runs
    )
  ours = searched[df_merge_figures.OURS]
  df_merge_figures.steps(
    figures,
    suite,
    {
      count: stacked(ours, f'steps_{count}')
      for count in (df_merge.EARLY, df_merge.STEPS[suite])
    },
    made.task,
  )


def stacked(runs: Sequence[Kept], name: str) -> np.ndarray:
  """Scores of one model by seed, [S, n]."""
  return np.stack([found.scores[name] for found in runs])


def ablations(
  figures: Figures,
  suite: str,
  kept: pathlib.Path,
  workdir: pathlib.Path,
  command: str,
) -> None:
  """Figures of what is changed in the published search, run or read back."""
  full, *changed = (
    df_merge_runs.search(suite, name, 0, kept, workdir, command)
    for name in (df_merge_figures.OURS, *df_merge.ABLATIONS)
  )
  df_merge_figures.ablations(
    figures,
    suite,
    full.scores['merged'],
    {
      name: found.scores['merged']
      for name, found in zip(df_merge.ABLATIONS, changed, strict=True)
    },
    full.task,
  )


def cost(suite: str, kept: pathlib.Path) -> dict[str, float]:
  """What a step takes, measured where it is not kept."""
  path = kept / 'cost.json'
  if not path.is_file():
    config = df_merge.get_config(f'{suite}/{df_merge_figures.OURS}')
    measured = df_merge_cost.measure(choices.settings(config))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(measured, indent=2) + '\n')
  return json.loads(path.read_text())
