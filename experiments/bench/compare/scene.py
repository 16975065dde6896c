"""A suite's merges as a problem, searched by ours and by its peers."""

import dataclasses
import pathlib
import tempfile
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from automerge_jax import finalists, judges, searching
from automerge_jax.search import archive, lower, sanity, study
from automerge_jax.search import job as jobs
from automerge_jax.search import space as spaces
from automerge_jax.search.archive import Row
from automerge_jax.search.job import BASE, Job
from automerge_jax.search.ledger import Candidate, Ledger
from automerge_jax.search.rungs import RungScorer
from automerge_jax.search.settings import Settings
from automerge_jax.tasks import classification, kinds
from automerge_jax.tasks.itemset import ItemSet
from automerge_jax.types import ExpertStack, SearchSpace
from experiments.bench.compare import peers
from experiments.bench.compare.evaluated import (
  ENDED,
  OTHER,
  START,
  Evaluated,
)
from experiments.bench.compare.problem import Problem

_IDLE = 50  # calls in a row without a new merge, after which a peer is done


class Scene(NamedTuple):
  """What does not depend on a search's seed.

  Attributes:
    settings: of ours; its seed is of no account.
    job, space, stack, gate: what they lead to.
    budget: full evaluations.
    padded: whether all texts get one length, so that the seeds of a peer share
      what is compiled; pays where models are tiny.
    scorers: compiled for peers, by their rungs.
  """

  settings: Settings
  job: Job
  space: SearchSpace
  stack: ExpertStack
  gate: sanity.Gate
  budget: float
  padded: bool
  scorers: dict[tuple[int, ...], Callable[..., Any]]

  @property
  def items(self) -> int:
    """The budget in items."""
    full = self.settings.rungs[-1] * len(self.settings.tasks)
    return round(self.budget * full)


def load(settings: Settings, budget: float, padded: bool) -> Scene:
  """Models, space and gate of a search."""
  job = jobs.load(settings)
  space = spaces.build(settings, job.family, job.experts, BASE)
  stack = searching.stack_of(job, space)
  gate = searching.gate_of(settings, job)
  return Scene(settings, job, space, stack, gate, budget, padded, {})


def arrays(place: Scene, items: ItemSet) -> tuple[Any, ...]:
  """Items on the device."""
  if not place.padded:
    data = kinds.arrays(items)
    return lower.carried(place.job.family, place.stack, data, 'float32')
  longest = max(task.max_tokens for task in items.definitions)
  texts = items.encoded, items.task, items.label
  return jax.tree.map(jnp.asarray, classification.bucket(*texts, (longest,)))


def by_ours(scene: Scene, seed: int, **changes) -> list[Evaluated]:
  """Everything that our search evaluates; `changes` are of its settings."""
  settings = dataclasses.replace(
    scene.settings, seed=seed, budget=f'{scene.budget:g}', **changes
  )
  with tempfile.TemporaryDirectory() as folder:
    place = pathlib.Path(folder)
    with Ledger(place / 'ledger.sqlite') as ledger:
      outcome = searching.search(
        settings, scene.job, scene.space, ledger, place
      )
  return _in_order(outcome, settings.rungs, len(settings.tasks))


def _in_order(
  outcome: study.Outcome, rungs: Sequence[int], tasks: int
) -> list[Evaluated]:
  """What a search evaluated, one after the other.

  A generation is scored rung by rung, after what a climb to it has cost.
  """
  added = np.diff([0, *rungs]) * tasks
  log: list[Evaluated] = []
  seen: set[tuple[str, int]] = set()
  for g, spent in enumerate(outcome.spent):
    mine = [row for row in outcome.scored if row.generation == g]
    here = [
      (rung, row, (row.candidate.recipe, rung) not in seen)
      for rung in range(len(rungs))
      for row in {row.candidate.recipe: row for row in mine}.values()
      if row.rung >= rung
    ]
    items = spent - sum(int(added[rung]) for rung, _, new in here if new)
    for rung, row, new in here:
      items += int(added[rung]) * new
      seen.add((row.candidate.recipe, rung))
      assert row.likelihoods is not None and row.noise is not None
      log.append(
        Evaluated(
          items,
          rungs[rung],
          row.candidate.coefficients,
          row.candidate.recipe,
          row.objectives[rung],
          _kind(row.candidate.origin),
          row.likelihoods[rung],
          row.noise[rung],
        )
      )
  return log


def _kind(origin: str) -> int:
  if origin.partition('@')[0] in finalists.CLIMBED:
    return ENDED
  return START if finalists.is_start(origin) else OTHER


def by_peer(
  scene: Scene, peer: str, rungs: Sequence[int], seed: int
) -> list[Evaluated]:
  """Everything that a peer evaluates, scored as candidates of ours are.

  Args:
    scene: where.
    peer: see `peers.run`.
    rungs: items a task that it may ask for.
    seed: of the items and of the peer.
  """
  settings = dataclasses.replace(
    scene.settings,
    seed=seed,
    rungs=tuple(rungs),
    promote=(),
    gradient_steps=0,
    explore=0,
  )
  job, space = scene.job, scene.space
  items = judges.item_set('search', settings, job)
  what = searching.study_of(settings, job, space, items)
  log: list[Evaluated] = []
  idle = 0
  with (
    tempfile.TemporaryDirectory() as folder,
    Ledger(pathlib.Path(folder) / 'ledger.sqlite') as ledger,
  ):
    scorer = RungScorer(
      what,
      seed,
      scene.stack,
      job.heads,
      scene.gate,
      items,
      ledger,
      job.folders,
    )
    if scene.padded:
      scorer.data = [arrays(scene, subset) for subset in scorer.subsets]
      scorer.scorer = scene.scorers.setdefault(tuple(rungs), scorer.scorer)
    quantise = jax.jit(jax.vmap(space.quantise))
    starts = {scorer.hash(c) for _, c in what.starts}

    def score(x: np.ndarray, rung: int) -> np.ndarray | None:
      nonlocal idle
      before = scorer.items
      if before >= scene.items or idle >= _IDLE:
        return None
      values = []
      size = what.population
      for i in range(0, len(x), size):
        c = np.asarray(quantise(_filled(x[i : i + size], size)), np.float32)
        values += _scored(
          scorer, c[: len(x) - i], list(rungs).index(rung), starts, log
        )
      idle = 0 if scorer.items > before else idle + 1
      return np.stack(values)

    encode = jax.jit(jax.vmap(space.encode))
    problem = Problem(
      choices=(
        np.zeros(len(space.names), int)
        if space.choices is None
        else np.asarray(space.choices)
      ),
      starts=np.asarray(encode(np.stack([c for _, c in what.starts]))),
      rungs=tuple(rungs),
      num_objectives=len(what.objectives.each),
      population=what.population,
      std=settings.std,
      budget=scene.budget,
    )
    peers.run(peer, problem, score, seed)
  return log


def _filled(x: np.ndarray, size: int) -> np.ndarray:
  """Rows [size, D], so that one compiled function does for all."""
  return np.concatenate([x, np.full((size - len(x), x.shape[1]), 0.5)])


def _scored(
  scorer: RungScorer,
  c: np.ndarray,
  rung: int,
  starts: set[str],
  log: list[Evaluated],
) -> list[np.ndarray]:
  """Objectives [M] of each candidate up to a rung; all of it is logged."""
  candidates = [Candidate('peer', scorer.hash(one), one) for one in c]
  rows = [Row(0, candidate) for candidate in candidates]
  goals = scorer.study.objectives
  items, known = scorer.items, set(scorer.known)
  for r in range(rung + 1):
    scores = scorer.rung(r, candidates)
    for row in rows:
      archive.add(
        row, scores[row.candidate.recipe], scorer.subsets, goals, None
      )
  found = []
  for row in rows:
    keys = {(row.candidate.recipe, r) for r in range(rung + 1)} - known
    items += sum(len(scorer.subsets[r]) for _, r in keys)
    known |= keys
    good = row.rung == rung
    values = row.values[rung] if good else np.full(len(goals.each), np.nan)
    log.append(
      Evaluated(
        items,
        scorer.study.rungs[rung],
        row.candidate.coefficients,
        row.candidate.recipe,
        values,
        START if row.candidate.recipe in starts else OTHER,
      )
    )
    found.append(values)
  return found
