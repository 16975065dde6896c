"""Hand-made merges of a suite: tuned on select items, scored on held-out ones.

Beside them the experts and, where it was trained, one model for all tasks. Item
scores are kept in a ledger, statistics in folders beside it.
"""

import contextlib
import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from automerge_jax import choice, judges
from automerge_jax.io import checkpoints
from automerge_jax.merging import streaming
from automerge_jax.merging.measured import Statistics
from automerge_jax.recipe import Recipe, Slice, Source
from automerge_jax.search import baselines, selection
from automerge_jax.search import job as jobs
from automerge_jax.search.job import BASE, Job
from automerge_jax.search.ledger import Ledger
from automerge_jax.search.settings import Settings
from automerge_jax.tasks import multitask
from experiments import df_merge_statistics

EXPERTS = 'experts'
LEDGER = 'ledger.sqlite'
# Merges without a search; the experts' mean on their own tasks is none.
METHODS = (
  'uniform',
  'fisher',
  'regmean',
  'task_arithmetic',
  'ties',
  'dare_ties',
  'tsv_m',
  'iso_c',
  'wudi',
)
_SCALES = (0.6, 0.8, 1.0, 1.2, 1.5)
_WEIGHTS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0)
_DENSITIES = (0.2, 0.5, 1.0)


def grids(experts: Sequence[str]) -> dict[str, list[Recipe]]:
  """What is compared on select items, by method; of `uniform` there is one."""

  def scaled(method: str, scales: Sequence[float], **own: Any) -> list[Recipe]:
    sources = tuple(Source(e, dict(own)) for e in experts)
    return [
      Recipe(
        method,
        (Slice(sources),),
        base_model=BASE,
        parameters={'lambda': scale},
        semantics='paper',
      )
      for scale in scales
    ]

  def settings(method: str, name: str, values: Sequence[float]) -> list[Recipe]:
    return [
      Recipe(
        method,
        (Slice(tuple(Source(e, {}) for e in experts)),),
        base_model=BASE,
        parameters={name: value},
        semantics='paper',
      )
      for value in values
    ]

  return {
    'uniform': [baselines.uniform(experts)],
    'fisher': settings('fisher', 'unit_norm', (1.0, 0.0)),
    'regmean': settings('regmean', 'reduction', (0.5, 0.7, 0.9)),
    'task_arithmetic': baselines.task_arithmetic(experts, BASE, _WEIGHTS),
    'ties': baselines.ties(experts, BASE, _SCALES, _DENSITIES),
    'dare_ties': [
      recipe
      for density in _DENSITIES[:2]
      for recipe in scaled(
        'dare_ties', (0.2, 0.3, 0.4, 0.6), weight=1.0, density=density
      )
    ],
    'tsv_m': baselines.tsv(experts, BASE, (0.8, 1.0, 1.2, 1.4)),
    'iso_c': scaled('iso_c', (*_SCALES, 2.0)),
    'wudi': scaled('wudi', (0.4, 0.6, 0.8, 1.0)),
  }


def scores(
  settings: Settings,
  workdir: pathlib.Path,
  methods: Sequence[str] = METHODS,
  joint: pathlib.Path | None = None,
  known: Sequence[pathlib.Path] = (),
) -> tuple[dict[str, np.ndarray], dict[str, list[float]]]:
  """Held-out scores [n] of every method, the experts and the joint model.

  Args:
    settings: of a search of the suite that measures nothing itself.
    workdir: ledger and statistics are kept there.
    methods: some of `METHODS`.
    joint: folder of the model trained on all tasks; None for none.
    known: workdirs of searches, whose scores of the same merges are taken.

  Returns:
    Scores by name with `task`, the index of each item's task; and means on
    select items by method, in the order of its grid.
  """
  job = jobs.load(settings)
  goals = choice.objectives_of(settings, job)
  workdir.mkdir(parents=True, exist_ok=True)
  told: Mapping[str, Statistics] = {}
  if set(methods) & {'fisher', 'regmean'}:
    told = df_merge_statistics.of_experts(job, workdir / 'statistics')

  def merge(recipe: Recipe) -> dict[str, np.ndarray]:
    return streaming.merge(recipe, job.folders, told)

  merging = dataclasses.replace(job, merge=merge)
  found, select = {}, {}
  with contextlib.ExitStack() as stack:
    ledger = stack.enter_context(Ledger(workdir / LEDGER))
    others = [
      stack.enter_context(Ledger(folder / LEDGER, read_only=True))
      for folder in known
    ]
    judge = {
      split: judges.judge(split, settings, merging, ledger, others)
      for split in ('select', 'heldout')
    }
    items = judge['heldout'].items
    for name, grid in grids(job.experts).items():
      if name in methods:
        index, select[name] = selection.best(judge['select'], grid, goals)
        found[name] = _held(judge['heldout'].score_recipe(grid[index]), name)
        print(f'{workdir}: {name}: {found[name].mean():.4f}', flush=True)
    own = selection.model_scores(judge['heldout'], job.experts, job.folders)
    found[EXPERTS] = np.choose(
      items.task, [_held(own[name], name) for name in items.tasks]
    )
    if joint is not None:
      found[multitask.FOLDER] = _joint(settings, job, ledger, joint)
  return found | {'task': items.task}, select


def _joint(
  settings: Settings, job: Job, ledger: Ledger, folder: pathlib.Path
) -> np.ndarray:
  """Held-out scores [n] of the model for all tasks, with its own heads."""
  items = judges.item_set('heldout', settings, job)
  heads = multitask.heads(folder, items.tasks)
  judge = selection.judge(
    job.family,
    jax.tree.map(jnp.asarray, heads),
    items,
    f'multitask/{job.setting}',
    ledger,
    job.folders,
    (),
    settings.dtype,
  )
  key = f'{multitask.FOLDER}/{checkpoints.fingerprint(folder)}'
  return _held(
    judge.score_tensors(key, lambda: checkpoints.read(folder)), str(folder)
  )


def _held(scores: Any, name: str) -> np.ndarray:
  if scores.score is None:
    raise RuntimeError(f'{name} has no held-out scores: {scores.failure}')
  return scores.score
