"""Searches of configs/df_merge.py, run or read back, as item scores."""

import pathlib
from collections.abc import Mapping

import numpy as np

from automerge_jax import judges, pipeline
from automerge_jax.search import fidelity, statistics
from automerge_jax.search import job as jobs
from automerge_jax.search import space as spaces
from automerge_jax.search.job import BASE, Job
from automerge_jax.search.ledger import Candidate, Ledger
from automerge_jax.search.settings import Settings
from configs import df_merge
from experiments import choices, df_merge_figures, df_merge_kept, suites
from experiments.df_merge_kept import Kept

LEDGER = 'ledger.sqlite'
_EARLY = 'early'  # below a run: who is scored later of its candidates


def search(
  suite: str,
  name: str,
  seed: int,
  kept: pathlib.Path,
  workdir: pathlib.Path,
  command: str,
) -> Kept:
  """What a search found, run where it is not kept.

  Args:
    suite, name: as behind the colon of configs/df_merge.py.
    seed: of the search.
    kept: of what is kept of this suite's runs.
    workdir: of all searches of this suite; scores of models that another one
      has made are taken from it.
    command: how to make the whole again, for the report.

  Returns:
    Scores of `merged` and of all it was compared with; of `df_merge_ei` also
    of the best after so many steps, `steps_19` and `steps_60`. Told are
    `verdict`, `full_evaluations`, and of searches of one rung the `values` of
    all candidates on search items.
  """
  config = df_merge.get_config(f'{suite}/{name}')
  config.seed = seed
  settings = choices.settings(config)

  def made(models: Mapping[str, str]) -> Kept:
    folder = workdir / f'{name}{seed}'
    others = [k for k in known(workdir) if k != folder]
    summary = suites.finished(folder) or pipeline.run(
      settings, folder, command, others
    )
    job = jobs.load(settings)
    scores = suites.held_out(folder, settings, summary)
    task = scores.pop('task')
    told = {
      'verdict': summary['verdict'],
      'full_evaluations': summary['search']['full_evaluations'],
    }
    if len(settings.rungs) == 1:
      proposed, values = candidates(folder, settings, job)
      told['values'] = [None if np.isnan(v) else round(v, 6) for v in values]
      if name == df_merge_figures.OURS:
        counts = (df_merge.EARLY, df_merge.STEPS[suite])
        best = [proposed[first_best(values, count)] for count in counts]
        rows = _held_out(best, folder, settings, job)
        for count, row in zip(counts, rows, strict=True):
          scores[f'steps_{count}'] = row
    return Kept(models, task, scores, told)

  found = df_merge_kept.kept(
    kept / f'{name}{seed}.json', folders(settings), made
  )
  print(f'{suite}, {name}{seed}: {found.told["verdict"]}', flush=True)
  return found


def folders(settings: Settings) -> dict[str, pathlib.Path]:
  """Checkpoints of base and experts, by name."""
  return {BASE: settings.base, **settings.experts}


def known(workdir: pathlib.Path) -> list[pathlib.Path]:
  """Finished searches of a suite that are still there with all scores."""
  found = sorted(workdir.glob('*/summary.json'))
  return [p.parent for p in found if (p.parent / LEDGER).is_file()]


def first_best(values: np.ndarray, count: int) -> int:
  """The first of the best of the first so many, NaN where one failed.

  Best on the search items, as published; what a search with fewer steps would
  have found, since one with more begins like it.

  Raises:
    ValueError: if there are fewer, or all of them failed.
  """
  if len(values) < count or not np.isfinite(values[:count]).any():
    raise ValueError(
      f'{np.isfinite(values[:count]).sum()} of {len(values)} candidates have '
      f'scores; expected {count} candidates, and one with a score'
    )
  return int(np.nanargmax(values[:count]))


def candidates(
  folder: pathlib.Path, settings: Settings, job: Job
) -> tuple[list[Candidate], np.ndarray]:
  """All candidates of a search of one rung, and their scores on its items."""
  items = judges.item_set('search', settings, job)
  (order,) = fidelity.increments(items, settings.rungs, settings.seed)
  task, what = items.task[order], f'search/0/{job.setting}'
  proposed, values = [], []
  with Ledger(folder / LEDGER, read_only=True) as ledger:
    generation = 0
    while rows := ledger.proposals(generation):
      proposed += rows
      generation += 1
    for one in proposed:
      scores = ledger.scores(one.recipe, what, items.tasks, task)
      found = None if scores is None else scores.score
      values.append(
        np.nan if found is None else float(statistics.task_mean(found, task))
      )
  return proposed, np.asarray(values)


def _held_out(
  chosen: list[Candidate], folder: pathlib.Path, settings: Settings, job: Job
) -> list[np.ndarray]:
  """Held-out scores [n] of some of a search's candidates."""
  space = spaces.build(settings, job.family, job.experts, BASE)
  place = folder / _EARLY
  place.mkdir(exist_ok=True)
  found = []
  with (
    Ledger(place / LEDGER) as ledger,
    Ledger(folder / LEDGER, read_only=True) as own,
  ):
    judge = judges.judge('heldout', settings, job, ledger, [own], space)
    for one in chosen:
      scores = judge.score_recipe(space.describe(one.coefficients))
      if scores.score is None:
        raise RuntimeError(f'{folder}: {one.recipe}: {scores.failure}')
      found.append(scores.score)
  return found
