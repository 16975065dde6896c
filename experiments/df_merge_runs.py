"""Searches of configs/df_merge.py, run or read back, as item scores."""

import pathlib
from typing import NamedTuple

import numpy as np

from automerge_jax import judges, pipeline
from automerge_jax.search import fidelity, statistics
from automerge_jax.search import job as jobs
from automerge_jax.search import space as spaces
from automerge_jax.search.job import BASE
from automerge_jax.search.ledger import Candidate, Ledger
from automerge_jax.search.settings import Settings
from configs import df_merge
from experiments import choices, suites

LEDGER = 'ledger.sqlite'
_EARLY = 'early'  # below a run: who is scored later of its candidates


class Run(NamedTuple):
  """One finished search.

  Attributes:
    folder: its workdir.
    settings: what was searched.
    summary: content of its `summary.json`.
    scores: 0/1 scores [n] of every model on the held-out items, and their
      `task`.
  """

  folder: pathlib.Path
  settings: Settings
  summary: dict
  scores: dict[str, np.ndarray]


def search(
  suite: str, name: str, seed: int, workdir: pathlib.Path, command: str
) -> Run:
  """Runs a search, or reads it back.

  Scores of models that another search of the suite has made are taken from it.

  Args:
    suite, name: as behind the colon of configs/df_merge.py.
    seed: of the search.
    workdir: of all searches of this suite.
    command: how to make the whole again, for the report.
  """
  config = df_merge.get_config(f'{suite}/{name}')
  config.seed = seed
  settings = choices.settings(config)
  folder = workdir / f'{name}{seed}'
  others = [k for k in known(suite, workdir) if k != folder]
  summary = suites.finished(folder) or pipeline.run(
    settings, folder, command, others
  )
  print(f'{folder}: {summary["verdict"]}', flush=True)
  return Run(
    folder, settings, summary, suites.held_out(folder, settings, summary)
  )


def known(suite: str, workdir: pathlib.Path) -> list[pathlib.Path]:
  """Finished searches of a suite, here and of its own study."""
  before = pathlib.Path(f'runs/{suite}_suite/lfs')
  found = [
    *sorted(workdir.glob('*/summary.json')),
    *sorted(before.glob('*/summary.json')),
  ]
  return [p.parent for p in found if (p.parent / LEDGER).is_file()]


def after(run: Run, counts: tuple[int, ...]) -> list[np.ndarray]:
  """Held-out scores [n] of the best of the first so many candidates.

  Best on the search items, as published; what a search with fewer steps would
  have found, since one with more begins like it.

  Args:
    run: a search of one rung, whose ledger has all candidates.
    counts: after how many candidates each.
  """
  proposed, values = candidates(run)
  job = jobs.load(run.settings)
  space = spaces.build(run.settings, job.family, job.experts, BASE)
  place = run.folder / _EARLY
  place.mkdir(exist_ok=True)
  found = []
  with (
    Ledger(place / LEDGER) as ledger,
    Ledger(run.folder / LEDGER, read_only=True) as own,
  ):
    judge = judges.judge('heldout', run.settings, job, ledger, [own], space)
    for count in counts:
      best = proposed[first_best(values, count)]
      scores = judge.score_recipe(space.describe(best.coefficients))
      if scores.score is None:
        raise RuntimeError(f'{run.folder}: {best.recipe}: {scores.failure}')
      found.append(scores.score)
  return found


def first_best(values: np.ndarray, count: int) -> int:
  """The first of the best of the first so many, NaN where one failed.

  Raises:
    ValueError: if there are fewer, or all of them failed.
  """
  if len(values) < count or not np.isfinite(values[:count]).any():
    raise ValueError(
      f'{np.isfinite(values[:count]).sum()} of {len(values)} candidates have '
      f'scores; expected {count} candidates, and one with a score'
    )
  return int(np.nanargmax(values[:count]))


def candidates(run: Run) -> tuple[list[Candidate], np.ndarray]:
  """All candidates of a search of one rung, and their scores on its items."""
  job = jobs.load(run.settings)
  items = judges.item_set('search', run.settings, job)
  (order,) = fidelity.increments(items, run.settings.rungs, run.settings.seed)
  task, what = items.task[order], f'search/0/{job.setting}'
  proposed, values = [], []
  with Ledger(run.folder / LEDGER, read_only=True) as ledger:
    for generation in range(run.summary['search']['generations']):
      proposed += ledger.proposals(generation)
    for one in proposed:
      scores = ledger.scores(one.recipe, what, items.tasks, task)
      found = None if scores is None else scores.score
      values.append(
        np.nan if found is None else float(statistics.task_mean(found, task))
      )
  return proposed, np.asarray(values)
