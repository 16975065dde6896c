"""The search loop: propose, commit, score by rungs, commit, tell.

It sees search items only. Every decision follows from what the ledger holds, so
a search that is started again goes on to the same end, and one with a larger
budget begins as one with a smaller.
"""

import functools
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from automerge_jax.search import budget, climbing, evaluate, sanity
from automerge_jax.search.ledger import Candidate, Ledger, Scores
from automerge_jax.search.plan import Scored, Study
from automerge_jax.search.proposals import Proposer
from automerge_jax.search.rungs import RungScorer
from automerge_jax.tasks.itemset import ItemSet
from automerge_jax.types import ExpertStack, SearchSpace, Told

_RATE = 'items a second'


class _Kept(NamedTuple):
  """An optimizer's state, and the rank scores [N] that it had been told."""

  state: Any
  scores: jax.Array


class Outcome(NamedTuple):
  """What a search found.

  Attributes:
    scored: every candidate, in order.
    mean: coefficients [D] at the centre of the last distribution, or None.
    items: items that were scored, equal recipes once, by this run or before;
      those of gradient steps at their cost.
    climb_items: the part of gradient steps.
    budget: items that may be spent, None without a bound.
    spent: items after each generation.
    screening: rows of `screening.log`.
    evaluations: candidates that were scored, equal recipes once.
    seconds: of this run in `evaluation`, `gradient`, `surrogate`, `gate` and
      in first calls (`compilation`).
    total_s: wall time of this run.
  """

  scored: list[Scored]
  mean: np.ndarray | None
  items: int
  climb_items: int
  budget: int | None
  spent: list[int]
  screening: list[dict[str, Any]]
  evaluations: int
  seconds: dict[str, float]
  total_s: float


def run(
  study: Study,
  seed: int,
  stack: ExpertStack,
  heads: evaluate.Heads,
  gate: sanity.Gate,
  items: ItemSet,
  ledger: Ledger,
  folders: Mapping[str, pathlib.Path],
  *,
  check_start: Callable[[list[Candidate], list[Scores], ItemSet], None],
  score_reference: Callable[[int, ItemSet], Scores],
  restore: Callable[[Any], tuple[int, Any] | None] = lambda state: None,
  checkpoint: Callable[[int, Any], None] = lambda generation, state: None,
  progress: Callable[[Sequence[Scored], int, int | None], None] = (
    lambda scored, spent, most: None
  ),
) -> Outcome:
  """Runs or continues a search.

  Args:
    study: what to do.
    seed: of the items' order and of all proposals.
    stack: base and experts on the device.
    heads: stacked task heads.
    gate: what a candidate must pass before it is scored.
    items: the search items.
    ledger: open; read first, then appended to.
    folders: of the models, for tasks that other programs score.
    check_start: called with the start points and their scores on the first
      rung; raises when they are not what they should be.
    score_reference: `(rung, items) -> Scores` of the model that constraints are
      relative to.
    restore: `state -> (generation, state)` that was kept last, or None; given
      a state of the same structure.
    checkpoint: called with the optimizer's state after each generation.
    progress: called after each generation with its candidates, the items spent
      and those that may be.
  """
  begin = time.perf_counter()
  scorer = RungScorer(study, seed, stack, heads, gate, items, ledger, folders)
  if study.objectives.constrained:
    scorer.reference = [
      score_reference(rung, subset)
      for rung, subset in enumerate(scorer.subsets)
    ]
  climber = climbing.Climber(study, scorer, items)
  init_key, loop_key = jax.random.split(jax.random.key(seed))
  spent: list[int] = []
  cost = budget.costs(scorer.subsets)
  limit: int | None = None

  def generation(g: int, propose: Callable[[], list[Candidate]]) -> None:
    scored = scorer.score(g, scorer.propose(g, propose))
    spent.append(scorer.items + climber.items)
    progress(scored, spent[-1], limit)

  def proposed(
    origins: Sequence[tuple[str, np.ndarray]],
  ) -> Callable[[], list[Candidate]]:
    return lambda: [
      Candidate(origin, '', np.asarray(c, np.float32)) for origin, c in origins
    ]

  for g in range(study.start_generations):
    chunk = study.starts[g * study.population : (g + 1) * study.population]
    generation(g, proposed(chunk))
  first = [row.candidate for row in scorer.rows]
  with scorer.timed('gate'):
    check_start(first, [scorer.first_rung(c) for c in first], scorer.subsets[0])
  limit = _limit(study, scorer, ledger, cost)

  def fits(g: int) -> bool:
    """Whether there is room and budget for another generation."""
    upcoming = budget.expected(study.schedule, g, cost)
    if study.climbs(g):
      upcoming = climber.cost + study.size(g) * cost.full
    return len(scorer.rows) + study.size(g) <= study.candidates and budget.fits(
      limit, spent[-1], upcoming
    )

  g = study.start_generations
  if study.climbs(g) and fits(g):
    generation(g, lambda: climber.propose(scorer.best()))
    g += 1
  proposer = Proposer(study, scorer)
  encode = jax.jit(jax.vmap(study.space.encode))
  told = _told(study, scorer, encode)
  state = study.optimizer.init(init_key, told)
  kept = restore(_Kept(state, told.scores))
  if kept is not None and not ledger.proposals(kept[0]):
    kept = None  # of another ledger
  # What the kept state has been through, in case it is not this ledger's.
  behind: list[Callable[[Any], Any]] = []
  while fits(g):
    ask_key, tell_key = jax.random.split(jax.random.fold_in(loop_key, g))
    if study.climbs(g):
      generation(
        g, lambda s=state: climber.propose(_foot(study, scorer, climber, s))
      )
      told = _told(study, scorer, encode)
      learn = _move(study, scorer, g)
    else:
      generation(g, lambda k=ask_key, s=state: proposer.propose(k, s))
      told = _told(study, scorer, encode)
      learn = functools.partial(study.optimizer.tell, tell_key, told)
    behind.append(learn)
    if kept is None or g >= kept[0]:
      if kept is not None and _same(kept[1].scores, told.scores, g == kept[0]):
        state = kept[1].state
      else:
        for learn in behind:
          state = learn(state)
        checkpoint(g, _Kept(state, told.scores))
      behind, kept = [], None
    g += 1
  mean = None
  if study.optimizer.mean is not None:
    mean = np.asarray(study.space.quantise(study.optimizer.mean(state)))
  return Outcome(
    scorer.told(),
    mean,
    spent[-1],
    climber.items,
    limit,
    spent,
    proposer.log(),
    scorer.recipes,
    dict(scorer.seconds),
    time.perf_counter() - begin,
  )


def _same(one: Any, other: Any, there: bool) -> bool:
  """Whether a state was kept when exactly this had been told."""
  return there and bool(np.array_equal(one, other))


def _foot(
  study: Study, scorer: RungScorer, climber: climbing.Climber, state: Any
) -> np.ndarray:
  """Coefficients [D] to climb from: the best, and the mean, in turn."""
  if study.optimizer.mean is not None and climber.turn % 2:
    return np.asarray(study.space.quantise(study.optimizer.mean(state)))
  return scorer.best()


def _move(
  study: Study, scorer: RungScorer, generation: int
) -> Callable[[Any], Any]:
  """Centres the optimizer on what a climb found, if it is the best so far."""
  best = scorer.rows[int(np.argmax(scorer.order()))]
  if best.generation != generation or study.optimizer.move is None:
    return lambda state: state
  x = study.space.encode(jnp.asarray(best.candidate.coefficients))
  return functools.partial(study.optimizer.move, x)


def positions(space: SearchSpace) -> int:
  """S, the most layers that a space's programs have."""
  assert space.program is not None
  c = jax.ShapeDtypeStruct((len(space.names),), jnp.float32)
  return jax.eval_shape(space.program, c).layer.shape[0]


def _told(
  study: Study, scorer: RungScorer, encode: Callable[[Any], Any]
) -> Told:
  """All rows so far, in arrays of one shape."""
  candidates = [row.candidate for row in scorer.rows]
  count, dims = len(candidates), len(study.space.names)
  c = np.zeros((study.rows, dims), np.float32)
  c[:count] = [one.coefficients for one in candidates]
  scores = np.full(study.rows, -np.inf, np.float32)
  scores[:count] = scorer.order()
  x = jnp.where(
    (jnp.arange(study.rows) < count)[:, None], encode(jnp.asarray(c)), 0.5
  )
  fresh = jnp.asarray(
    np.maximum(np.arange(count - study.population, count), 0), jnp.int32
  )
  asked = [one.asked for one in candidates[-study.population :]]
  raw = x[fresh]
  if len(asked) == study.population and all(a is not None for a in asked):
    raw = jnp.asarray(np.stack([a for a in asked if a is not None]))
  return Told(x, jnp.asarray(scores), fresh, raw, _values(study, scorer))


def _values(study: Study, scorer: RungScorer) -> jax.Array | None:
  """The objective of all rows, as `Told.values` has it."""
  if len(study.objectives.each) > 1 or study.objectives.constrained:
    return None
  values = np.full(study.rows, np.nan, np.float32)
  top = max(row.rung for row in scorer.rows)
  for i, row in enumerate(scorer.rows):
    if row.rung == top >= 0:
      values[i] = row.values[top][0]
  return jnp.asarray(values)


def _limit(
  study: Study, scorer: RungScorer, ledger: Ledger, cost: budget.Costs
) -> int | None:
  """The budget in items; what depends on time is measured once and recorded."""
  if study.budget is None:
    return None
  if study.budget.unit != 'seconds':
    return budget.in_items(study.budget, cost)
  rate = ledger.noted(_RATE)
  if rate is None:
    rate = ledger.note(_RATE, budget.items_a_second(*scorer.pace()))
  return budget.in_items(study.budget, cost, rate)
