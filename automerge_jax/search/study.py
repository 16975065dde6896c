"""The search loop: propose, commit, score by rungs, commit, tell.

It sees search items only. A search that is started again reads what it decided
from the ledger and goes on to the same end.
"""

import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from automerge_jax.search import evaluate, gradient, sanity, shared
from automerge_jax.search.ledger import Candidate, Ledger, Scores
from automerge_jax.search.plan import Scored, Study
from automerge_jax.search.rungs import RungScorer, order
from automerge_jax.tasks.itemset import ItemSet
from automerge_jax.types import ExpertStack, SearchSpace, Told


class Outcome(NamedTuple):
  """What a search found.

  Attributes:
    scored: every candidate, in order.
    mean: coefficients [D] at the centre of the last distribution, or None.
    items: items that were scored, equal recipes once, by this run or before;
      those of gradient steps at their cost.
    climb_items: the part of gradient steps.
    evaluations: candidates that were scored, equal recipes once.
    seconds: of this run in `evaluation`, `gradient`, `gate` and in first
      calls (`compilation`).
    total_s: wall time of this run.
  """

  scored: list[Scored]
  mean: np.ndarray | None
  items: int
  climb_items: int
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
  checkpoint: Callable[[int, Any], None] = lambda generation, state: None,
  progress: Callable[[int, Sequence[Scored]], None] = lambda g, scored: None,
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
    checkpoint: called with the optimizer's state after each generation.
    progress: called after each generation with its candidates.
  """
  begin = time.perf_counter()
  scorer = RungScorer(study, seed, stack, heads, gate, items, ledger, folders)
  if study.objectives.constrained:
    scorer.reference = [
      score_reference(rung, subset)
      for rung, subset in enumerate(scorer.subsets)
    ]
  init_key, loop_key = jax.random.split(jax.random.key(seed))
  everything: list[Scored] = []

  def generation(
    g: int, propose: Callable[[], list[tuple[str, np.ndarray]]]
  ) -> list[Scored]:
    scored = scorer.score(g, scorer.propose(g, propose))
    everything.extend(scored)
    progress(g, scored)
    return scored

  for g in range(study.start_generations):
    chunk = study.starts[g * study.population : (g + 1) * study.population]
    generation(g, lambda chunk=chunk: list(chunk))
  first = [row.candidate for row in everything]
  with scorer.timed('gate'):
    check_start(first, [scorer.first_rung(c) for c in first], scorer.subsets[0])
  for g in range(
    study.start_generations, study.start_generations + study.climbs
  ):
    best = _best(everything)
    generation(g, lambda c=best: _climb(study, scorer, stack, heads, items, c))

  space = study.space
  quantise = jax.jit(jax.vmap(space.quantise))
  encode = jax.jit(jax.vmap(space.encode))

  def told(asked: jax.Array | None = None) -> Told:
    count = len(everything)
    c = np.zeros((study.rows, len(space.names)), np.float32)
    c[:count] = [row.candidate.coefficients for row in everything]
    filled = jnp.arange(study.rows) < count
    scores = np.full(study.rows, -np.inf, np.float32)
    scores[:count] = order(everything)
    fresh = np.arange(count - study.population, count, dtype=np.int32)
    x = jnp.where(filled[:, None], encode(jnp.asarray(c)), 0.5)
    rows = jnp.asarray(np.maximum(fresh, 0))
    return Told(
      x, jnp.asarray(scores), rows, x[rows] if asked is None else asked
    )

  state = study.optimizer.init(init_key, told())
  for g in range(study.start_generations + study.climbs, study.generations):
    ask_key, tell_key = jax.random.split(jax.random.fold_in(loop_key, g))
    x = study.optimizer.ask(ask_key, state)
    generation(g, lambda x=x: [('search', c) for c in np.asarray(quantise(x))])
    state = study.optimizer.tell(tell_key, told(x), state)
    checkpoint(g, state)
  mean = None
  if study.optimizer.mean is not None:
    mean = np.asarray(study.space.quantise(study.optimizer.mean(state)))
  climbed = study.climb_items(len(items))
  return Outcome(
    everything,
    mean,
    scorer.items + climbed,
    climbed,
    len({recipe for recipe, _ in scorer.seen}),
    dict(scorer.seconds),
    time.perf_counter() - begin,
  )


def positions(space: SearchSpace) -> int:
  """S, the most layers that a space's programs have."""
  assert space.program is not None
  c = jax.ShapeDtypeStruct((len(space.names),), jnp.float32)
  return jax.eval_shape(space.program, c).layer.shape[0]


def _best(scored: Sequence[Scored]) -> np.ndarray:
  """Coefficients [D] of the best candidate so far."""
  return scored[int(np.argmax(order(scored)))].candidate.coefficients


def _climb(
  study: Study,
  scorer: RungScorer,
  stack: ExpertStack,
  heads: evaluate.Heads,
  items: ItemSet,
  start: np.ndarray,
) -> list[tuple[str, np.ndarray]]:
  """Proposals along the gradient: two on the way, the end, the late mean."""
  steps, space = study.gradient_steps, study.space
  data = gradient.batches(items, study.minibatches)
  data = data._replace(
    data=shared.carried(study.family, stack, data.data, study.dtype)
  )
  ascent = gradient.ascent(
    study.family,
    study.method,
    space,
    study.objective,
    study.gradient_rate,
    steps,
    study.dtype,
  )
  state = ascent.init(space.encode(jnp.asarray(start)))
  path = []
  for i in range(steps):
    with scorer.timed('gradient' if i else 'compilation'):
      state, value = ascent.step(jnp.asarray(i), state, stack, heads, data)
      jax.block_until_ready(value)
    path.append(np.asarray(ascent.x(state)))
  late = np.mean(path[steps // 2 :], axis=0)
  found = {
    'gradient:half': path[steps // 2],
    'gradient:late': path[3 * steps // 4],
    'gradient:end': path[-1],
    'gradient:mean': late,
  }
  return [
    (origin, np.asarray(space.quantise(jnp.asarray(x))))
    for origin, x in found.items()
  ]
