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
from absl import logging

from automerge_jax.merging import resolve, streaming
from automerge_jax.merging.layers import layer_of
from automerge_jax.search import (
  archive,
  evaluate,
  failures,
  fidelity,
  fronts,
  lower,
  opponents,
  outside,
  sanity,
)
from automerge_jax.search.archive import Row
from automerge_jax.search.ledger import Candidate, Ledger, Scores
from automerge_jax.search.plan import Scored, Study
from automerge_jax.tasks import itemset, kinds
from automerge_jax.tasks.itemset import ItemSet
from automerge_jax.types import ExpertStack


class RungScorer:
  """One search's compiled scorer, item sets, candidates and counters.

  Attributes:
    subsets: the items that each rung adds.
    rows: every candidate, in order.
    reference: scores of the model that constraints are relative to, on each
      subset; None without constraints.
    seconds: spent in evaluation, and in first calls as compilation.
    rate: (items, seconds) of calls that did not compile.
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
      lower.carried, study.family, stack, dtype=study.dtype
    )
    self.gate = gate._replace(inputs=kept(gate.inputs))
    self.folders = folders
    self.ledger, self.tasks = ledger, items.tasks
    added = fidelity.increments(items, study.rungs, seed)
    self.subsets = [itemset.subset(items, positions) for positions in added]
    self.settings = [
      f'search/{rung}/{study.setting}' for rung in range(len(study.rungs))
    ]
    dealt = kinds.arrays
    if study.race:
      dealt = functools.partial(kinds.blocks, count=study.race.looks)
    self.data = [kept(dealt(subset)) for subset in self.subsets]
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
      race=study.race,
    )
    self.layers = {k.stored: layer_of(k.stored) for k in study.family.keys}
    self.reference: list[Scores] | None = None
    self.called: set[int] = set()  # rungs whose scorer is compiled
    self.known: dict[tuple[str, int], Scores] = {}  # by recipe and rung
    self.rows: list[Row] = []
    self.seconds: dict[str, float] = collections.defaultdict(float)
    self.rate = (0, 0.0)

  @property
  def items(self) -> int:
    """Items scored, equal recipes once, now or before."""
    return sum(
      int(np.isfinite(scores.score).sum())
      for scores in self.known.values()
      if scores.score is not None
    )

  @property
  def recipes(self) -> int:
    """Recipes that were scored."""
    return len({recipe for recipe, _ in self.known})

  @contextlib.contextmanager
  def timed(self, kind: str):
    """Adds the time of what is within to `seconds`."""
    begin = time.perf_counter()
    yield
    self.seconds[kind] += time.perf_counter() - begin

  def hash(self, coefficients: np.ndarray) -> str:
    recipe = self.study.space.describe(coefficients)
    return resolve.effective_hash(
      recipe, self.layers, self.study.family.num_layers
    )

  def propose(
    self, generation: int, proposals: Callable[[], list[Candidate]]
  ) -> list[Candidate]:
    """Commits proposals with their recipes, or reads what was committed."""
    committed = self.ledger.proposals(generation)
    if committed:
      return committed
    candidates = [
      one._replace(recipe=self.hash(one.coefficients)) for one in proposals()
    ]
    self.ledger.propose(generation, candidates)
    return candidates

  def score(self, generation: int, candidates: list[Candidate]) -> list[Scored]:
    """Scores a generation rung by rung, as the schedule promotes."""
    schedule, anchors = self.study.schedule, self.study.anchors
    self.rows += [Row(generation, candidate) for candidate in candidates]
    start = schedule.start(generation)
    for rung in range(len(self.subsets)):
      chosen = [
        i
        for i, row in enumerate(self.rows)
        if row.generation == generation
        and row.rung == rung - 1 == row.begun
        and (rung <= start or row.candidate.origin in anchors)
      ]
      if rung > start:
        promoted = schedule.promoted(
          rung - 1,
          generation,
          np.asarray([row.begun for row in self.rows]),
          np.asarray([row.generation for row in self.rows]),
          self.order_at(rung - 1),
        ).tolist()
        chosen += [i for i in promoted if i not in chosen]
      found = self.rung(rung, [self.rows[i].candidate for i in chosen])
      for i in chosen:
        archive.add(
          self.rows[i],
          found[self.rows[i].candidate.recipe],
          self.subsets,
          self.study.objectives,
          self.floor(rung),
        )
    mine = [row for row in self.rows if row.generation == generation]
    return self.told(mine)

  def told(self, rows: Sequence[Row] | None = None) -> list[Scored]:
    """What is told of candidates, of all by default."""
    chosen = self.rows if rows is None else rows
    return archive.scored(chosen, self.subsets, self.study.objectives)

  def order(self) -> np.ndarray:
    """Rank scores of all candidates, [N]."""
    return archive.order(self.rows, self.subsets, self.study.objectives)

  def order_at(self, rung: int) -> np.ndarray:
    """Positions of those with a score at a rung, best first."""
    there = [i for i, row in enumerate(self.rows) if row.rung >= rung]
    if not there:
      return np.zeros(0, int)
    values = self.estimated(rung)[there]
    broken = np.asarray([self.rows[i].violations[rung] for i in there])
    return np.asarray(there)[fronts.order(values, broken)]

  def incumbents(self, most: int) -> list[Row]:
    """The best row, or some of the front, of the highest rung reached."""
    top = max((row.rung for row in self.rows), default=-1)
    if top < 0:
      return []
    best = self.order_at(top)
    best = [i for i in best if self.rows[i].rung == top]
    values = self.estimated(top)[best]
    broken = np.asarray([self.rows[i].violations[top] for i in best])
    front = fronts.fronts(values, broken)
    return [self.rows[i] for i, f in zip(best, front, strict=True) if f == 0][
      :most
    ]

  def estimated(self, rung: int) -> np.ndarray:
    """Likely objectives at a rung, [N, M]."""
    goals = self.study.objectives
    return archive.likely(self.rows, self.subsets, goals, rung).values

  def floor(self, rung: int) -> np.ndarray | None:
    """The reference model's scores up to a rung, [tasks]."""
    if self.reference is None:
      return None
    found = archive.by_task(self.reference[: rung + 1], self.subsets)
    return found['accuracy']

  def best(self) -> np.ndarray:
    """Coefficients [D] of the best candidate so far."""
    best = self.rows[int(np.argmax(self.order()))]
    return best.candidate.coefficients

  def pace(self) -> tuple[int, float]:
    """(items, seconds) of scoring, without compilation."""
    if not self.rate[0]:
      self.evaluate(
        0, [row.candidate for row in self.rows][: self.study.population]
      )
    return self.rate

  def first_rung(self, candidate: Candidate) -> Scores:
    return self.known[candidate.recipe, 0]

  def rung(self, rung: int, candidates: list[Candidate]) -> dict[str, Scores]:
    """Scores on the items that a rung adds; each recipe at most once ever."""
    wanted = {c.recipe: c for c in candidates}
    for recipe in wanted:
      if (recipe, rung) not in self.known:
        scores = self.ledger.scores(
          recipe, self.settings[rung], self.tasks, self.subsets[rung].task
        )
        if scores is not None:
          self.known[recipe, rung] = scores
    new = [c for c in wanted.values() if (c.recipe, rung) not in self.known]
    size = self.study.population
    for part in (new[i : i + size] for i in range(0, len(new), size)):
      fresh = self.evaluate(rung, part)
      self.ledger.record(
        self.settings[rung], self.tasks, self.subsets[rung].task, fresh
      )
      self.known |= {(recipe, rung): s for recipe, s in fresh.items()}
    return {recipe: self.known[recipe, rung] for recipe in wanted}

  def evaluate(
    self, rung: int, candidates: list[Candidate]
  ) -> dict[str, Scores]:
    size, subset = self.study.population, self.subsets[rung]
    c = np.zeros((size, len(self.study.space.names)), np.float32)
    c[: len(candidates)] = [one.coefficients for one in candidates]
    given = (
      jnp.asarray(c),
      jnp.arange(size) < len(candidates),
      self.stack,
      self.heads,
      self.gate,
      self.data[rung],
      len(subset),
    )
    if self.study.race:
      given += (
        opponents.rivals(
          self.study,
          self.incumbents(opponents.MOST),
          self.known,
          self.subsets,
          rung,
          candidates,
        ),
      )
    first = rung not in self.called
    self.called.add(rung)
    begin = time.perf_counter()
    try:
      with self.timed('compilation' if first else 'evaluation'):
        scores, vitals, *reached = jax.block_until_ready(self.scorer(*given))
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
      kind = failures.kind(error)
      if kind is None:
        raise
      told = failures.memory(error, len(candidates), self.study.batch_size)
      logging.error('%s', told)
      return {
        one.recipe: Scores(None, None, told, kind=kind) for one in candidates
      }
    found = jax.device_get((scores, vitals, *reached))
    most = jax.device_get(self.gate.limits)

    def result(i: int) -> Scores:
      of_one, vital, *mask = jax.tree.map(lambda leaf: leaf[i], found)
      reason = sanity.reason(vital, most)
      if reason is not None:
        return Scores(None, None, reason, kind=failures.kind(reason))
      recipe = self.study.space.describe(candidates[i].coefficients)
      return outside.complete(
        subset,
        evaluate.finish(subset, of_one, *mask),
        lambda: streaming.merge(recipe, self.folders),
        self.folders['base'],
      )

    fresh = {one.recipe: result(i) for i, one in enumerate(candidates)}
    if not first:
      done = sum(
        np.isfinite(s.score).sum() for s in fresh.values() if not s.failure
      )
      spent = time.perf_counter() - begin
      self.rate = self.rate[0] + int(done), self.rate[1] + spent
    return fresh
