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
  df_merge_runs,
  multitask,
)
from experiments.bench import df_merge_cost
from experiments.claims_figures import Figures
from experiments.df_merge_runs import Run

EARLY = df_merge.RANDOM + 9  # steps that the paper found to be nearly enough


def hand_made(
  suite: str, place: pathlib.Path
) -> tuple[dict[str, np.ndarray], dict[str, list[float]]]:
  """Item scores of all that is not searched for, and means on select items."""
  folder = pathlib.Path(f'runs/{suite}_suite')
  multitask.run(df_merge.SUITES[suite].get_config(), folder)
  config = df_merge.get_config(f'{suite}/random_search')
  return df_merge_baselines.scores(
    choices.settings(config),
    place / 'hand_made',
    joint=folder / joint.FOLDER,
    known=df_merge_runs.known(suite, place),
  )


def put(
  figures: Figures,
  suite: str,
  searched: Mapping[str, Sequence[Run]],
  made: Mapping[str, np.ndarray],
  best: str,
) -> None:
  """Figures of a suite's searches and hand-made merges, and of their cost."""
  df_merge_figures.suite(
    figures,
    suite,
    {
      name: np.stack([found.scores['merged'] for found in runs])
      for name, runs in searched.items()
    },
    {name: scores for name, scores in made.items() if name != 'task'},
    best,
    made['task'],
  )
  for name, runs in searched.items():
    search = [found.summary['search'] for found in runs]
    figures.values[f'{suite}_{name}_full_evaluations'] = max(
      one['full_evaluations'] for one in search
    )
    figures.values[f'{suite}_{name}_search_s'] = max(
      found.summary['environment']['search_seconds']['total'] for found in runs
    )


def ablations(
  figures: Figures, suite: str, place: pathlib.Path, command: str
) -> None:
  """Figures of what is changed in the published search, run or read back."""
  full = df_merge_runs.search(suite, df_merge_figures.OURS, 0, place, command)
  changed = {
    name: df_merge_runs.search(suite, name, 0, place, command)
    for name in df_merge.ABLATIONS
  }
  counts = (EARLY, df_merge.STEPS[suite])
  df_merge_figures.ablations(
    figures,
    suite,
    full.scores['merged'],
    {name: found.scores['merged'] for name, found in changed.items()},
    dict(zip(counts, df_merge_runs.after(full, counts), strict=True)),
    full.scores['task'],
  )


def cost(suite: str, place: pathlib.Path) -> dict[str, float]:
  """What a step takes, measured where it is not kept."""
  path = place / 'cost.json'
  if not path.is_file():
    config = df_merge.get_config(f'{suite}/{df_merge_figures.OURS}')
    measured = df_merge_cost.measure(choices.settings(config))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(measured, indent=2) + '\n')
  return json.loads(path.read_text())
