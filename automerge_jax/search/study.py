"""The search loop: propose, commit, score by rungs, commit, tell.

It sees search items only. A search that is started again reads what it decided
from the ledger and goes on to the same end.
"""

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from automerge_jax import recipe as recipes
from automerge_jax.merging.streaming import layer_of
from automerge_jax.search import evaluate, fidelity
from automerge_jax.search.ledger import Candidate, Ledger, Scores
from automerge_jax.tasks import itemset
from automerge_jax.tasks.itemset import ItemSet
from automerge_jax.types import (
  ExpertStack,
  Family,
  MergeMethod,
  Optimizer,
  SearchSpace,
)


@dataclasses.dataclass(frozen=True)
class Study:
  """What is searched, where and how.

  Attributes:
    family, method, space, optimizer: the parts that it is made of.
    starts: (origin, coefficients [D]) of the start points.
    objective: 'accuracy' or 'log_likelihood', averaged over tasks.
    rungs: items a task at each rung, ascending.
    promote: candidates of a generation that reach each further rung.
    population: P.
    candidates: budget, start points included.
    batch_size: see `evaluate.population_scorer`.
    setting: hash of everything else that scores depend on.
  """

  family: Family
  method: MergeMethod
  space: SearchSpace
  optimizer: Optimizer
  starts: tuple[tuple[str, np.ndarray], ...]
  objective: str
  rungs: tuple[int, ...]
  promote: tuple[int, ...]
  population: int
  candidates: int
  batch_size: int | None
  setting: str

  @property
  def start_generations(self) -> int:
    return -(-len(self.starts) // self.population)

  @property
  def generations(self) -> int:
    rest = self.candidates - len(self.starts)
    return self.start_generations + rest // self.population


class Scored(NamedTuple):
  """A candidate and what the search learned of it.

  Attributes:
    generation: in which it was proposed.
    candidate: the proposal.
    values: objective at each rung, NaN where it was not scored.
    accuracy: of each task, on the items of the highest rung it reached.
    failure: why it could not be scored, or None.
  """

  generation: int
  candidate: Candidate
  values: tuple[float, ...]
  accuracy: tuple[float, ...]
  failure: str | None

  @property
  def rung(self) -> int:
    """The highest rung with a score, -1 if there is none."""
    return int(np.isfinite(self.values).sum()) - 1


class Outcome(NamedTuple):
  """What a search found.

  Attributes:
    scored: every candidate, in order.
    mean: coefficients [D] at the centre of the last distribution, or None.
    items: items that were scored, equal recipes once, by this run or before.
    evaluations: candidates that were scored, equal recipes once.
    blocked_s: seconds in evaluation calls after the first of each rung.
    compile_s: seconds of the first call of each rung, compilation included.
    search_s: wall time of the loop.
  """

  scored: list[Scored]
  mean: np.ndarray | None
  items: int
  evaluations: int
  blocked_s: float
  compile_s: float
  search_s: float


def run(
  study: Study,
  seed: int,
  stack: ExpertStack,
  heads: evaluate.Heads,
  items: ItemSet,
  ledger: Ledger,
  *,
  check_start: Callable[[list[Candidate], list[Scores], ItemSet], None],
  checkpoint: Callable[[int, Any], None] = lambda generation, state: None,
  progress: Callable[[int, Sequence[Scored]], None] = lambda g, scored: None,
) -> Outcome:
  """Runs or continues a search.

  Args:
    study: what to do.
    seed: of the items' order and of all proposals.
    stack: base and experts on the device.
    heads: stacked task heads.
    items: the search items.
    ledger: open; read first, then appended to.
    check_start: called with the start points and their scores on the first
      rung; raises when they are not what they should be.
    checkpoint: called with the optimizer's state after each generation.
    progress: called after each generation with its candidates.
  """
  begin = time.perf_counter()
  loop = _Loop(study, seed, stack, heads, items, ledger)
  init_key, loop_key = jax.random.split(jax.random.key(seed))
  everything: list[Scored] = []
  starts = list(study.starts)
  for g in range(study.start_generations):
    chunk = starts[g * study.population : (g + 1) * study.population]
    proposed = loop.propose(g, [(o, np.asarray(c)) for o, c in chunk])
    scored = loop.score(g, proposed)
    everything += scored
    progress(g, scored)
  first = [row.candidate for row in everything]
  check_start(first, [loop.first_rung(c) for c in first], loop.subsets[0])

  best = everything[int(np.argmax(_order(everything)))].candidate
  x = study.space.encode(jnp.asarray(best.coefficients))
  state = study.optimizer.init(init_key, x, study.space.correlation)
  quantise = jax.jit(jax.vmap(study.space.quantise))
  encode = jax.jit(jax.vmap(study.space.encode))
  for g in range(study.start_generations, study.generations):
    ask_key, tell_key = jax.random.split(jax.random.fold_in(loop_key, g))
    x, state = study.optimizer.ask(ask_key, state)
    proposed = loop.propose(g, [('search', c) for c in np.asarray(quantise(x))])
    scored = loop.score(g, proposed)
    told = encode(jnp.asarray([c.coefficients for c in proposed]))
    state = study.optimizer.tell(
      tell_key, told, jnp.asarray(_order(scored)), state
    )
    everything += scored
    checkpoint(g, state)
    progress(g, scored)
  mean = None
  if study.optimizer.mean is not None:
    mean = np.asarray(study.space.quantise(study.optimizer.mean(state)))
  return Outcome(
    everything,
    mean,
    sum(len(loop.subsets[rung]) for _, rung in loop.seen),
    len({recipe for recipe, _ in loop.seen}),
    loop.blocked_s,
    loop.compile_s,
    time.perf_counter() - begin,
  )


class _Loop:
  """One search's compiled scorer, item sets and counters."""

  def __init__(self, study, seed, stack, heads, items, ledger):
    self.study, self.stack, self.heads = study, stack, heads
    self.ledger, self.tasks = ledger, items.tasks
    added = fidelity.increments(items, study.rungs, seed)
    self.subsets = [itemset.subset(items, positions) for positions in added]
    self.settings = [
      f'search/{rung}/{study.setting}' for rung in range(len(study.rungs))
    ]
    self.buckets = [evaluate.buckets(subset) for subset in self.subsets]
    for setting, subset in zip(self.settings, self.subsets, strict=True):
      for t, task in enumerate(items.tasks):
        mine = np.flatnonzero(subset.task == t)
        ledger.record_items(setting, task, [subset.ids[i] for i in mine])
    self.scorer = evaluate.population_scorer(
      study.family,
      study.method,
      study.space.decode,
      rungs=len(study.rungs),
      batch_size=study.batch_size,
    )
    self.layers = {k.stored: layer_of(k.stored) for k in study.family.keys}
    self.called: set[int] = set()  # rungs whose scorer is compiled
    self.seen: set[tuple[str, int]] = set()  # (recipe, rung) that were scored
    self.blocked_s, self.compile_s = 0.0, 0.0

  def propose(
    self, generation: int, proposals: list[tuple[str, np.ndarray]]
  ) -> list[Candidate]:
    """Commits the proposals, or reads back what was committed before."""
    committed = self.ledger.proposals(generation)
    if committed:
      return committed
    candidates = [
      Candidate(origin, self.hash(c), np.asarray(c, np.float32))
      for origin, c in proposals
    ]
    self.ledger.propose(generation, candidates)
    return candidates

  def hash(self, coefficients: np.ndarray) -> str:
    recipe = self.study.space.describe(coefficients)
    return recipes.effective_hash(
      recipe, self.layers, self.study.family.num_layers
    )

  def score(self, generation: int, candidates: list[Candidate]) -> list[Scored]:
    """Scores a generation rung by rung, promoting by the last rung's scores."""
    count, rungs = len(candidates), len(self.subsets)
    values = np.full((rungs, count), np.nan)
    accuracy = np.full((count, len(self.tasks)), np.nan)
    reasons: list[str | None] = [None] * count
    chosen = np.arange(count)
    for rung in range(rungs):
      if rung:
        chosen = fidelity.promoted(
          values[rung - 1], self.study.promote[rung - 1]
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
          values[rung, i] = by_task[self.study.objective].mean()
          accuracy[i] = by_task['accuracy']
    return [
      Scored(
        generation,
        candidate,
        tuple(values[:, i].tolist()),
        tuple(accuracy[i].tolist()),
        reasons[i],
      )
      for i, candidate in enumerate(candidates)
    ]

  def by_task(
    self, parts: Sequence[Scores], rung: int
  ) -> dict[str, np.ndarray]:
    """Means over all items up to a rung, by metric, [tasks]."""
    task = np.concatenate([s.task for s in self.subsets[: rung + 1]])
    correct = np.concatenate([part.correct for part in parts])
    likelihood = np.concatenate([part.log_likelihood for part in parts])
    return {
      'accuracy': fidelity.by_task(correct, task),
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
    begin = time.perf_counter()
    scores = jax.block_until_ready(
      self.scorer(
        jnp.asarray(c),
        jnp.arange(size) < len(candidates),
        self.stack,
        self.heads,
        self.buckets[rung],
        len(subset),
      )
    )
    spent = time.perf_counter() - begin
    if rung in self.called:
      self.blocked_s += spent
    else:
      self.called.add(rung)
      self.compile_s += spent
    host = jax.device_get(scores)
    reasons = evaluate.failures(scores)
    return {
      one.recipe: Scores(None, None, reasons[i])
      if reasons[i]
      else Scores(host.correct[i], host.log_likelihood[i])
      for i, one in enumerate(candidates)
    }


def _order(scored: Sequence[Scored]) -> np.ndarray:
  """Rank scores of a list of candidates, see `fidelity.ranks`."""
  return fidelity.ranks(list(np.asarray([row.values for row in scored]).T))
