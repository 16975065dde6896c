"""The search as a part of the job: from settings to what it found."""

import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import tqdm
from absl import logging

from automerge_jax import choice, judges
from automerge_jax.io import orbax
from automerge_jax.merging import resident
from automerge_jax.models import base as models
from automerge_jax.search import (
  baselines,
  budget,
  climb,
  fidelity,
  lower,
  plan,
  racing,
  sanity,
  selection,
  shared,
  start,
  study,
)
from automerge_jax.search.job import BASE, Job
from automerge_jax.search.ledger import Ledger
from automerge_jax.search.objectives import Objectives
from automerge_jax.search.optimizers import (
  bayes,
  cma_es,
  cma_es_large,
  gp_bo,
  mixed,
  nsga2,
  random_search,
)
from automerge_jax.search.settings import Settings
from automerge_jax.tasks.itemset import ItemSet
from automerge_jax.types import ExpertStack, Optimizer, SearchSpace

_WITH_STD = ('cma_es', 'cma_es_large', 'mixed')


def _optimizer(settings: Settings, space: SearchSpace) -> Optimizer:
  make: Callable[..., Optimizer] = {
    'mixed': mixed.mixed,
    'cma_es': cma_es.cma_es,
    'cma_es_large': cma_es_large.cma_es_large,
    'gp_bo': gp_bo.gp_bo,
    'bayes': bayes.bayes,
    'nsga2': nsga2.nsga2,
    'random': random_search.random_search,
  }[settings.optimizer]
  own: dict[str, Any] = {}
  if settings.optimizer in _WITH_STD:
    own = {'std': settings.std}
  if settings.optimizer == 'bayes':
    own = {'acquisition': settings.acquisition}
  return make(settings.population, space, **own)


def study_of(
  settings: Settings, job: Job, space: SearchSpace, items: ItemSet
) -> plan.Study:
  """What the settings want to be searched, and how."""
  goals = choice.objectives_of(settings, job)
  if job.method.dynamic and settings.gradient_steps:
    raise ValueError(
      f'gradient_steps is {settings.gradient_steps}, but {job.method.name} '
      'measures gradients itself and has none of its own; set it to 0'
    )
  return plan.Study(
    family=job.family,
    method=job.method,
    space=space,
    optimizer=_optimizer(settings, space),
    starts=starts(settings, job, space),
    objectives=goals,
    rungs=settings.rungs,
    schedule=fidelity.schedule(
      settings.schedule,
      settings.rungs,
      settings.population,
      settings.eta,
      settings.promote,
    ),
    population=settings.population,
    candidates=_room(settings),
    budget=budget.parse(settings.budget),
    batch_size=settings.batch_size,
    race=_race(settings, goals, items),
    screen=settings.screen,
    acquisition=settings.acquisition,
    climb=_climb(settings),
    climb_every=settings.gradient_every,
    own=tuple(
      job.experts.index(task) if task in job.experts else None
      for task in job.references
    ),
    setting=job.setting,
    dtype=settings.dtype,
  )


def stack_of(job: Job, space: SearchSpace, static: bool = False) -> ExpertStack:
  """Base and experts on the device, as the space needs them.

  Args:
    job: what it is about.
    space: what is searched.
    static: Fisher information is that of the experts, whatever the candidate.
  """
  originals = [job.tensors(name) for name in job.experts]
  # Programs may begin with any layer, so none is computed in advance.
  if space.program:
    return resident.build(job.method, job.family, job.tensors(BASE), originals)
  return shared.build(
    job.method,
    job.family,
    job.tensors(BASE),
    originals,
    job.calibration,
    static=static,
  )


def search(
  settings: Settings,
  job: Job,
  space: SearchSpace,
  ledger: Ledger,
  workdir: pathlib.Path,
) -> study.Outcome:
  """Runs or continues the search of a job."""
  items = judges.item_set('search', settings, job)
  what = study_of(settings, job, space, items)
  gate = gate_of(settings, job)
  stack = stack_of(job, space, settings.fisher_at == 'expert')

  def check_start(candidates, scored, subset):
    judge = selection.judge(
      job.family,
      job.heads,
      subset,
      f'gate/{job.setting}',
      ledger,
      job.folders,
      dtype=settings.dtype,
    )
    found = selection.model_scores(judge, job.experts, job.folders)
    start.check(candidates, scored, found)

  with tqdm.tqdm(unit=' items', unit_scale=True) as bar:

    def progress(scored, spent, most):
      reached = max(row.rung for row in scored)
      if reached >= 0:
        top = max(row.values[reached] for row in scored if row.rung == reached)
        bar.set_postfix(generation=scored[0].generation, best=f'{top:.3f}')
      bar.total = most
      bar.update(spent - bar.n)

    def score_reference(rung, subset):
      judge = selection.judge(
        job.family,
        job.heads,
        subset,
        f'reference/{rung}/{job.setting}',
        ledger,
        job.folders,
        dtype=settings.dtype,
      )
      return selection.model_scores(judge, [settings.reference], job.folders)[
        settings.reference
      ]

    return study.run(
      what,
      settings.seed,
      stack,
      job.heads,
      gate,
      items,
      ledger,
      job.folders,
      check_start=check_start,
      score_reference=score_reference,
      restore=lambda state: orbax.restore_step(workdir / 'state', state),
      checkpoint=lambda step, state: orbax.save_step(
        workdir / 'state', step, state
      ),
      progress=progress,
    )


def starts(
  settings: Settings, job: Job, space: SearchSpace
) -> tuple[tuple[str, np.ndarray], ...]:
  """(origin, coefficients [D]) of the start points."""
  weights = settings.weights
  if settings.methods == ('tsv_m',) and settings.tsv_scales:
    weights = settings.tsv_scales
  designs: tuple[tuple[str, np.ndarray], ...] = ()
  if settings.hand_made_starts:
    designs = baselines.starts(space, job.experts, weights)
  return (
    *designs,
    *baselines.explored(
      space, settings.explore, settings.seed, settings.explore_design
    ),
  )


def spendable(settings: Settings) -> int | None:
  """The budget in items; None without one, and where time or tokens bound it.

  Raises:
    ValueError: if nothing bounds the search.
  """
  most = budget.parse(settings.budget)
  if most is None and not settings.candidates:
    raise ValueError(
      'neither search.candidates nor search.budget is set: the search would '
      "not end; for example --config.search.budget='100'"
    )
  if most is None or most.unit not in ('evaluations', 'items'):
    return None
  return budget.in_items(most, budget.Costs(_added(settings), None))


def _added(settings: Settings) -> np.ndarray:
  """Items that each rung adds, [rungs]."""
  return np.diff([0, *settings.rungs]) * len(settings.tasks)


def _room(settings: Settings) -> int:
  """N, the most candidates of the search."""
  if settings.candidates:
    return settings.candidates
  items = spendable(settings)
  if items is None:
    return budget.MOST
  # A race lets some go after a part of the lowest rung.
  least = max(int(_added(settings)[0]) // (2 if settings.race else 1), 1)
  return budget.most_candidates(items, settings.population, least)


def _race(
  settings: Settings, goals: Objectives, items: ItemSet
) -> racing.Race | None:
  if not settings.race:
    return None
  reason = racing.possible(items)
  if reason is not None:
    logging.warning('no race inside rungs: %s', reason)
    return None
  metrics = [one.metric for one in goals.each]
  return racing.race(settings.looks, settings.race, metrics)


def _climb(settings: Settings) -> climb.Climb | None:
  if not settings.gradient_steps:
    return None
  return climb.Climb(
    settings.gradient_steps,
    settings.gradient_rate,
    settings.minibatches,
    settings.gradient_objective or settings.objective,
    settings.gradient_validation,
    settings.gradient_shrinkage,
  )


def gate_of(settings: Settings, job: Job) -> sanity.Gate:
  """What every candidate must pass, measured on its parents."""
  sizes = [getattr(task, 'image_size', None) for task in job.tasks]
  inputs = (
    sanity.waves(max(s for s in sizes if s))
    if any(sizes)
    else sanity.lines(job.folders[BASE], job.family)
  )
  if not settings.gate:
    return sanity.Gate(inputs, sanity.OPEN)

  @jax.jit
  def measure(params):
    return sanity.vitals(job.family, lower.cast(params, settings.dtype), inputs)

  found = [
    measure(models.pack(job.family.keys, job.tensors(name)))
    for name in job.folders
  ]
  return sanity.Gate(inputs, sanity.limits(found))
