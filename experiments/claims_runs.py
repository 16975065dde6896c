"""Searches for one task alone, and fronts, run or read back."""

import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from automerge_jax import pipeline
from automerge_jax.search.ledger import Candidate, Ledger
from automerge_jax.search.settings import Settings
from configs import claims
from experiments import choices, suites

_LEDGER = 'ledger.sqlite'


class Run(NamedTuple):
  """One finished search.

  Attributes:
    folder: its workdir.
    settings: what was searched; of LFS followed by DIS, of the latter.
    summary: content of its `summary.json`.
    scores: 0/1 scores of every model on the held-out items, and their `task`.
    step: candidates up to and with the chosen merge.
    origin: what proposed it first, such as `expert:movie`.
  """

  folder: pathlib.Path
  settings: Settings
  summary: dict
  scores: dict[str, np.ndarray]
  step: int
  origin: str


def single(
  suite: str,
  task: str,
  kind: str,
  seed: int,
  workdir: pathlib.Path,
  command: str,
) -> list[Run]:
  """One search of one task, or its two stages in turn.

  What LFS found is taken from its own search, where DIS follows it.

  Args:
    suite: whose experts are merged.
    task: the only objective.
    kind: one of `claims.KINDS`.
    seed: of the search.
    workdir: of all searches of this suite.
    command: how to make the whole again, for the reports.
  """
  config = claims.single(suite, task, kind)
  config.seed = seed
  place = workdir / task / f'{kind}{seed}'
  first = place / choices.FUSION
  if 'then' in config and not first.exists():
    place.mkdir(parents=True, exist_ok=True)
    first.symlink_to(pathlib.Path('..') / f'lfs{seed}')
  others = sorted((workdir / task).glob('*/summary.json'))
  known = [path.parent for path in others if path.parent != place]
  return [
    _run(settings, folder, command, [k for k in known if k != folder])
    for settings, folder in choices.stages(config, place)
  ]


def front(suite: str, seed: int, workdir: pathlib.Path, command: str) -> Run:
  """The front of a suite's tasks.

  Scores of the same hand-made merges that the suite's own search left are
  taken from there.
  """
  config = claims.front(suite)
  config.seed = seed
  settings = choices.settings(config)
  before = pathlib.Path(config.experts).parent / 'lfs' / 'seed0'
  known = [before] if (before / _LEDGER).is_file() else []
  return _run(settings, workdir / f'{claims.FRONT}{seed}', command, known)


def _run(
  settings: Settings,
  folder: pathlib.Path,
  command: str,
  known: Sequence[pathlib.Path],
) -> Run:
  summary = suites.finished(folder) or pipeline.run(
    settings, folder, command, known
  )
  step, origin = chosen(folder, summary)
  print(f'{folder}: {origin}, step {step}: {summary["verdict"]}', flush=True)
  members = {
    row['name']: row for row in (summary['front'] or {}).get('members', ())
  }
  models = summary['models'] | members
  scores = suites.held_out(folder, settings, summary | {'models': models})
  return Run(folder, settings, summary, scores, step, origin)


def chosen(folder: pathlib.Path, summary: dict) -> tuple[int, str]:
  """Step and origin of the chosen merge, as it was first proposed.

  The mean of the last distribution is no candidate; its step is the last.
  """
  key = summary['models']['merged']['recipe_hash']
  proposed = _proposed(folder, summary)
  for step, candidate in enumerate(proposed, 1):
    if candidate.recipe == key:
      return step, candidate.origin
  return len(proposed), 'mean'


def found_by(stages: Sequence[Run]) -> Run:
  """The search that proposed the chosen merge, of two the first or the last."""
  last = stages[-1]
  return stages[0] if last.origin == f'expert:{choices.FUSION}' else last


def costs(stages: Sequence[Run]) -> dict[str, float]:
  """What a search, or two in turn, took, and when its merge was proposed."""
  searches = [run.summary['search'] for run in stages]
  found: dict[str, float] = {
    key: sum(search[key] for search in searches)
    for key in ('candidates', 'full_evaluations', 'items')
  }
  found['search_s'] = sum(
    run.summary['environment']['search_seconds']['total'] for run in stages
  )
  at = 0 if found_by(stages) is stages[0] else len(stages) - 1
  found['step'] = stages[at].step + sum(
    search['candidates'] for search in searches[:at]
  )
  return found


def experts_in(run: Run) -> int:
  """How many members of a front are experts as they are."""
  experts = {
    candidate.recipe
    for candidate in _proposed(run.folder, run.summary)
    if candidate.origin.startswith('expert:')
  }
  members = run.summary['front']['members']
  return sum(row['recipe_hash'] in experts for row in members)


def _proposed(folder: pathlib.Path, summary: dict) -> list[Candidate]:
  """All candidates of a search, in order."""
  with Ledger(folder / _LEDGER, read_only=True) as ledger:
    return [
      candidate
      for generation in range(summary['search']['generations'])
      for candidate in ledger.proposals(generation)
    ]
