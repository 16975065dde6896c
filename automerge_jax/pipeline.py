"""The main job: load, search, choose, export, score held out, report."""

import contextlib
import math
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import tqdm
from absl import logging

from automerge_jax import choice, delivery
from automerge_jax.io import orbax
from automerge_jax.merging import resident
from automerge_jax.models import base as models
from automerge_jax.report import summary
from automerge_jax.search import (
  baselines,
  budget,
  climb,
  environment,
  fidelity,
  history,
  lock,
  plan,
  racing,
  sanity,
  selection,
  shared,
  start,
  study,
)
from automerge_jax.search import job as jobs
from automerge_jax.search import space as spaces
from automerge_jax.search.job import BASE, Job
from automerge_jax.search.ledger import Ledger
from automerge_jax.search.objectives import Objectives
from automerge_jax.search.optimizers import (
  cma_es,
  cma_es_large,
  gp_bo,
  mixed,
  nsga2,
  random_search,
)
from automerge_jax.search.settings import Settings
from automerge_jax.tasks import splits
from automerge_jax.tasks.itemset import ItemSet
from automerge_jax.types import Optimizer, SearchSpace

_LEDGER = 'ledger.sqlite'
_WITH_STD = ('cma_es', 'cma_es_large', 'mixed')


def run(
  settings: Settings,
  workdir: pathlib.Path,
  command: str,
  known: Sequence[pathlib.Path] = (),
) -> dict:
  """Runs or continues the whole job.

  Args:
    settings: what to do.
    workdir: everything is written there.
    command: how to start this again, for the report.
    known: workdirs of other runs, whose scores of the same models on the same
      select and held-out items need not be made again.

  Returns:
    The content of `summary.json`.

  Raises:
    InUseError: if another process works in `workdir`.
    ValueError: if `workdir` is of another search; a larger budget is none.
  """
  with lock.held(workdir):
    return _run(settings, workdir, command, known)


def _run(
  settings: Settings,
  workdir: pathlib.Path,
  command: str,
  known: Sequence[pathlib.Path],
) -> dict:
  phases: dict[str, float] = {}
  with _timed(phases, 'load'):
    job = jobs.load(settings)
    space = spaces.build(settings, job.family, job.experts, BASE)
  with contextlib.ExitStack() as stack:
    ledger = stack.enter_context(Ledger(workdir / _LEDGER))
    others = [
      stack.enter_context(Ledger(folder / _LEDGER, read_only=True))
      for folder in known
    ]
    ledger.claim(_identity(settings, job), _growing(settings))
    with _timed(phases, 'search'):
      outcome = _search(settings, job, space, ledger, workdir)
    with _timed(phases, 'choose'):
      made = choice.choose(settings, job, space, ledger, outcome, others)
    chosen = made.recipes
    with _timed(phases, 'export'):
      delivery.export_merge(job, made, workdir)
    ledger.look(job.recipe_hash(chosen['merged']))
    with _timed(phases, 'heldout'):
      tasks, scores = choice.score(
        settings,
        job,
        ledger,
        workdir / delivery.EXPORTED,
        space,
        chosen,
        others,
      )
      parents = choice.parents(settings, job, ledger, others)
  goals = choice.objectives_of(settings, job)
  metrics = {goal.metric for goal in goals.each}
  result = summary.build(
    metrics=job.metrics,
    parents=parents,
    tasks=tasks,
    scores=scores,
    log=history.log(
      outcome.scored,
      settings.rungs,
      len(job.tasks),
      outcome.spent,
    ),
    seed=settings.seed,
    method=settings.method,
    space=settings.space,
    # Of several metrics no single one names what was maximised.
    objective=metrics.pop() if len(metrics) == 1 else settings.objective,
    goals=goals,
    front=made.front,
    recipe_hashes={name: job.recipe_hash(r) for name, r in chosen.items()},
    finalists=made.finalists,
    coefficients=history.coefficients(
      chosen['merged'],
      job.family,
      spaces.filters(settings, job.family),
      job.experts,
    ),
    environment=environment.describe()
    | {
      'command': command,
      'seconds': phases,
      'search_seconds': {
        name: round(spent, 3)
        for name, spent in (
          outcome.seconds | {'total': outcome.total_s}
        ).items()
      },
      'peak_memory_mb': environment.peak_memory_mb(),
    },
  )
  points = history.points(outcome.scored, list(job.metrics), settings.rungs)
  delivery.write_report(workdir, result, points, job.family.logits is not None)
  return result


def _optimizer(settings: Settings, space: SearchSpace) -> Optimizer:
  make: Callable[..., Optimizer] = {
    'mixed': mixed.mixed,
    'cma_es': cma_es.cma_es,
    'cma_es_large': cma_es_large.cma_es_large,
    'gp_bo': gp_bo.gp_bo,
    'nsga2': nsga2.nsga2,
    'random': random_search.random_search,
  }[settings.optimizer]
  steps = {'std': settings.std} if settings.optimizer in _WITH_STD else {}
  return make(settings.population, space, **steps)


def _search(
  settings: Settings,
  job: Job,
  space: SearchSpace,
  ledger: Ledger,
  workdir: pathlib.Path,
) -> study.Outcome:
  goals = choice.objectives_of(settings, job)
  items = job.items(
    {
      name: splits.search_items(
        reference, settings.rungs[-1], settings.force_test_split
      )
      for name, reference in job.references.items()
    }
  )
  what = plan.Study(
    family=job.family,
    method=job.method,
    space=space,
    optimizer=_optimizer(settings, space),
    starts=baselines.starts(space, job.experts, _weights(settings)),
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
  gate = _gate(settings, job)
  originals = [job.tensors(name) for name in job.experts]
  # Programs may begin with any layer, so none is computed in advance.
  build = resident.build if space.program else shared.build
  stack = build(job.method, job.family, job.tensors(BASE), originals)
  del originals

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


def _weights(settings: Settings) -> tuple[float, ...]:
  """Weights for all experts that start points have."""
  if settings.methods == ('tsv_m',) and settings.tsv_scales:
    return settings.tsv_scales
  return settings.weights


def _room(settings: Settings) -> int:
  """N, the most candidates of the search."""
  if settings.candidates:
    return settings.candidates
  spendable = budget.parse(settings.budget)
  if spendable is None:
    raise ValueError(
      'neither search.candidates nor search.budget is set: the search would '
      "not end; for example --config.search.budget='100'"
    )
  if spendable.unit not in ('evaluations', 'items'):
    return budget.MOST
  added = np.diff([0, *settings.rungs]) * len(settings.tasks)
  items = budget.in_items(spendable, budget.Costs(added, None))
  # A race lets some go after a part of the lowest rung.
  least = max(int(added[0]) // (2 if settings.race else 1), 1)
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


def _gate(settings: Settings, job: Job) -> sanity.Gate:
  """What every candidate must pass, measured on its parents."""
  sizes = [getattr(task, 'image_size', None) for task in job.tasks]
  inputs = (
    sanity.waves(max(s for s in sizes if s))
    if any(sizes)
    else sanity.lines(job.folders[BASE], job.family)
  )

  @jax.jit
  def measure(params):
    return sanity.vitals(
      job.family, shared.cast(params, settings.dtype), inputs
    )

  found = [
    measure(models.pack(job.family.keys, job.tensors(name)))
    for name in job.folders
  ]
  return sanity.Gate(inputs, sanity.limits(found))


def _growing(settings: Settings) -> dict[str, float]:
  """What may be raised when a search goes on."""
  spendable = budget.parse(settings.budget)
  return {
    'candidates': settings.candidates or math.inf,
    'budget': math.inf if spendable is None else spendable.amount,
  }


def _identity(settings: Settings, job: Job) -> dict[str, Any]:
  """What must not change under a ledger; paths may, and budgets may grow."""
  chosen = {
    name: value
    for name, value in vars(settings).items()
    if name not in ('base', 'experts', 'candidates', 'budget')
  }
  spendable = budget.parse(settings.budget)
  chosen['budget unit'] = None if spendable is None else spendable.unit
  return chosen | {'models': dict(job.fingerprints), 'setting': job.setting}


@contextlib.contextmanager
def _timed(phases: dict[str, float], name: str):
  begin = time.perf_counter()
  yield
  phases[name] = round(time.perf_counter() - begin, 3)
