"""Scoring candidates rung by rung, every recipe at most once ever."""

import collections
import contextlib
import functools
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from automerge_jax.merging import resolve, streaming
from automerge_jax.merging.layers import layer_of
from automerge_jax.search import (
  evaluate,
  fidelity,
  fronts,
  outside,
  sanity,
  shared,
)
from automerge_jax.search.ledger import Candidate, Ledger, Scores
from automerge_jax.search.plan import Scored, Study
from automerge_jax.tasks import itemset, kinds
from automerge_jax.tasks.itemset import ItemSet
from automerge_jax.types import ExpertStack


class RungScorer:
  """One search's compiled scorer, item sets and counters.

  Attributes:
    subsets: the items that each rung adds.
    seen: (recipe, rung) pairs that were scored, now or before.
    reference: scores of the model that constraints are relative to, on each
      subset; None without constraints.
    seconds: spent in evaluation, and in first calls as compilation.
  """

  def __init__(
    self,
    study: Study,
    seed: int,
    stack: ExpertStack,
    heads: evaluate.Heads,
    gate: sanity.Gate,
    items: ItemSet,
    ledger: Ledger,
    folders: Mapping[str, pathlib.Path],
  ):
    self.study, self.stack, self.heads = study, stack, heads
    kept = functools.partial(
      shared.carried, study.family, stack, dtype=study.dtype
    )
    self.gate = gate._replace(inputs=kept(gate.inputs))
    self.folders = folders
    self.ledger, self.tasks = ledger, items.tasks
    added = fidelity.increments(items, study.rungs, seed)
    self.subsets = [itemset.subset(items, positions) for positions in added]
    self.settings = [
      f'search/{rung}/{study.setting}' for rung in range(len(study.rungs))
    ]
    self.data = [kept(kinds.arrays(subset)) for subset in self.subsets]
    for setting, subset in zip(self.settings, self.subsets, strict=True):
      ledger.record_items(setting, subset)
    self.scorer = evaluate.population_scorer(
      study.family,
      study.method,
      study.space.decode,
      rungs=len(study.rungs),
      batch_size=study.batch_size,
      dtype=study.dtype,
      program=study.space.program,
    )
    self.layers = {k.stored: layer_of(k.stored) for k in study.family.keys}
    self.reference: list[Scores] | None = None
    self.called: set[int] = set()  # rungs whose scorer is compiled
    self.seen: set[tuple[str, int]] = set()  # (recipe, rung) that were scored
    self.seconds: dict[str, float] = collections.defaultdict(float)

  @property
  def items(self) -> int:
    """Items scored, equal recipes once, now or before."""
    return sum(len(self.subsets[rung]) for _, rung in self.seen)

  @contextlib.contextmanager
  def timed(self, kind: str):
    """Adds the time of what is within to `seconds`."""
    begin = time.perf_counter()
    yield
    self.seconds[kind] += time.perf_counter() - begin

  def propose(
    self,
    generation: int,
    proposals: Callable[[], list[tuple[str, np.ndarray]]],
  ) -> list[Candidate]:
    """Commits (origin, coefficients) pairs, or reads what was committed."""
    committed = self.ledger.proposals(generation)
    if committed:
      return committed
    candidates = [
      Candidate(origin, self.hash(c), np.asarray(c, np.float32))
      for origin, c in proposals()
    ]
    self.ledger.propose(generation, candidates)
    return candidates

  def hash(self, coefficients: np.ndarray) -> str:
    recipe = self.study.space.describe(coefficients)
    return resolve.effective_hash(
      recipe, self.layers, self.study.family.num_layers
    )

  def score(self, generation: int, candidates: list[Candidate]) -> list[Scored]:
    """Scores a generation rung by rung, promoting by the last rung's scores."""
    count, rungs = len(candidates), len(self.subsets)
    goals = self.study.objectives
    values = np.full((rungs, count, len(goals.each)), np.nan)
    violations = np.zeros((rungs, count))
    accuracy = np.full((count, len(self.tasks)), np.nan)
    reasons: list[str | None] = [None] * count
    chosen = np.arange(count)
    for rung in range(rungs):
      if rung:
        chosen = fronts.promoted(
          values[rung - 1],
          violations[rung - 1],
          self.study.promote[rung - 1],
        )
      found = self.rung(rung, [candidates[i] for i in chosen])
      for i in chosen:
        parts = [
          self.lookup(candidates[i].recipe, below) for below in range(rung)
        ] + [found[candidates[i].recipe]]
        scored = [p for p in parts if p is not None]
        assert len(scored) == len(parts), 'a promoted candidate lacks a rung'
        reasons[i] = next((p.failure for p in scored if p.failure), None)
        if reasons[i] is None:
          by_task = self.by_task(scored, rung)
          values[rung, i] = goals.values(by_task)
          violations[rung, i] = goals.violation(by_task, self.floor(rung))
          accuracy[i] = by_task['accuracy']
    return [
      Scored(
        generation,
        candidate,
        tuple(values[:, i].mean(axis=-1).tolist()),
        values[:, i],
        tuple(violations[:, i].tolist()),
        tuple(accuracy[i].tolist()),
        reasons[i],
      )
      for i, candidate in enumerate(candidates)
    ]

  def floor(self, rung: int) -> np.ndarray | None:
    """The reference model's scores up to a rung, [tasks]."""
    if self.reference is None:
      return None
    return self.by_task(self.reference[: rung + 1], rung)['accuracy']

  def by_task(
    self, parts: Sequence[Scores], rung: int
  ) -> dict[str, np.ndarray]:
    """Means over all items up to a rung, by metric, [tasks]."""
    task = np.concatenate([s.task for s in self.subsets[: rung + 1]])
    score = np.concatenate([part.score for part in parts])
    likelihood = np.concatenate([part.log_likelihood for part in parts])
    return {
      'accuracy': fidelity.by_task(score, task),
      'log_likelihood': fidelity.by_task(likelihood, task),
    }

  def lookup(self, recipe: str, rung: int) -> Scores | None:
    return self.ledger.scores(
      recipe, self.settings[rung], self.tasks, self.subsets[rung].task
    )

  def first_rung(self, candidate: Candidate) -> Scores:
    scores = self.lookup(candidate.recipe, 0)
    assert scores is not None  # it was scored before
    return scores

  def rung(self, rung: int, candidates: list[Candidate]) -> dict[str, Scores]:
    """Scores on the items that a rung adds; each recipe at most once ever."""
    found = {c.recipe: self.lookup(c.recipe, rung) for c in candidates}
    self.seen |= {(recipe, rung) for recipe in found}
    new = {c.recipe: c for c in candidates if found[c.recipe] is None}
    if new:
      fresh = self.evaluate(rung, list(new.values()))
      self.ledger.record(
        self.settings[rung], self.tasks, self.subsets[rung].task, fresh
      )
      found |= fresh
    return {recipe: scores for recipe, scores in found.items() if scores}

  def evaluate(
    self, rung: int, candidates: list[Candidate]
  ) -> dict[str, Scores]:
    size, subset = self.study.population, self.subsets[rung]
    c = np.zeros((size, len(self.study.space.names)), np.float32)
    c[: len(candidates)] = [one.coefficients for one in candidates]
    kind = 'evaluation' if rung in self.called else 'compilation'
    self.called.add(rung)
    with self.timed(kind):
      scores, vitals = jax.block_until_ready(
        self.scorer(
          jnp.asarray(c),
          jnp.arange(size) < len(candidates),
          self.stack,
          self.heads,
          self.gate,
          self.data[rung],
          len(subset),
        )
      )
    host, measured, most = jax.device_get((scores, vitals, self.gate.limits))

    def result(i: int) -> Scores:
      of_one, found = jax.tree.map(lambda leaf: leaf[i], (host, measured))
      reason = sanity.reason(found, most)
      if reason is not None:
        return Scores(None, None, reason)
      recipe = self.study.space.describe(candidates[i].coefficients)
      return outside.complete(
        subset,
        evaluate.finish(subset, of_one),
        lambda: streaming.merge(recipe, self.folders),
        self.folders['base'],
      )

    return {one.recipe: result(i) for i, one in enumerate(candidates)}


def order(scored: Sequence[Scored]) -> np.ndarray:
  """Rank scores of a list of candidates, see `fronts.ranks`."""
  values = np.asarray([row.objectives for row in scored])  # [P, rungs, M]
  violations = np.asarray([row.violations for row in scored])
  return fronts.ranks(list(values.swapaxes(0, 1)), list(violations.T))
