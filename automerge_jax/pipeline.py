"""The main job: load, search, choose, export, score held out, report."""

import contextlib
import math
import pathlib
import time
from collections.abc import Sequence
from typing import Any

from automerge_jax import choice, delivery, finalists, searching
from automerge_jax.report import summary
from automerge_jax.search import budget, environment, foresight, history, lock
from automerge_jax.search import job as jobs
from automerge_jax.search import space as spaces
from automerge_jax.search.job import BASE, Job
from automerge_jax.search.ledger import Ledger
from automerge_jax.search.settings import Settings

_LEDGER = 'ledger.sqlite'
# Settings that may change under a ledger; budgets may only grow.
_FREE = ('base', 'experts', 'candidates', 'budget', 'batch_size')


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
    goals = choice.objectives_of(settings, job)
    plan = foresight.foresee(
      settings,
      list(job.references),
      starts=len(searching.starts(settings, job, space)),
      budget=searching.spendable(settings),
    )
    for line in (*plan['lines'], *plan['warnings']):
      print(line)
    with _timed(phases, 'search'):
      outcome = searching.search(settings, job, space, ledger, workdir)
    with _timed(phases, 'choose'):
      made = choice.choose(settings, job, space, ledger, outcome, others)
    chosen = made.recipes
    with _timed(phases, 'export'):
      delivery.export_merge(job, made, workdir)
    looks = ledger.look(job.recipe_hash(chosen['merged']))
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
      gaps = finalists.gaps(
        settings, job, goals, ledger, made.finalists, tasks, scores
      )
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
    weights=settings.task_weights,
    plan=plan,
    spending=history.spending(
      outcome.scored, settings.rungs, len(job.tasks), outcome.climb_items
    ),
    screening=outcome.screening,
    contest=made.contest,
    generalisation=gaps,
    looks=looks,
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
    name: value for name, value in vars(settings).items() if name not in _FREE
  }
  if settings.gate:  # as it was before there was a choice
    chosen.pop('gate')
  spendable = budget.parse(settings.budget)
  chosen['budget unit'] = None if spendable is None else spendable.unit
  return chosen | {'models': dict(job.fingerprints), 'setting': job.setting}


@contextlib.contextmanager
def _timed(phases: dict[str, float], name: str):
  begin = time.perf_counter()
  yield
  phases[name] = round(time.perf_counter() - begin, 3)
