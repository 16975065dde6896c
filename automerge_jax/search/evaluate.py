"""Scoring: candidate -> merge -> forward -> item scores, inside one jit."""

from collections.abc import Callable, Mapping
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from automerge_jax.search import lower, racing, sanity, shared
from automerge_jax.search.ledger import Scores
from automerge_jax.tasks import kinds
from automerge_jax.tasks.itemset import ItemSet
from automerge_jax.types import (
  Array,
  ExpertStack,
  Family,
  ItemScores,
  LayerProgram,
  MergeMethod,
  MergePlan,
  Params,
)

Heads = Mapping[str, Array]
Data = tuple[Any, ...]  # arrays of the items, see `kinds.arrays`


def score(
  model: Callable[[Any], tuple[Family, Params]],
  heads: Heads,
  data: Data,
  num_items: int,
) -> ItemScores:
  """Scores of one model on all items, leaves [n]; pure and jittable.

  Args:
    model: family and parameters to run a piece of data with.
    heads: stacked task heads.
    data: the items.
    num_items: n.
  """
  return _score(model, heads, data, num_items)[0]


def raced(
  model: Callable[[Any], tuple[Family, Params]],
  heads: Heads,
  blocks: Data,
  num_items: int,
  race: racing.Race,
  rivals: racing.Rivals,
) -> tuple[ItemScores, Array]:
  """Scores of one model until it is behind beyond doubt; pure and jittable.

  Args:
    model: family and parameters to run a piece of data with.
    heads: stacked task heads.
    blocks: the items as `kinds.blocks` deals them, leaves [looks, ...].
    num_items: n.
    race: when it is stopped.
    rivals: whom it races; `below` is of this model, [J, M, tasks].

  Returns:
    Scores, leaves [n], NaN for items that it was stopped before, and which
    items it reached, bool [n].
  """

  def first():
    block = jax.tree.map(lambda leaf: leaf[0], blocks)
    return _score(model, heads, block, num_items)

  def step(carry, block: Data):
    def go():
      so_far, reached = carry[0]
      fresh, mine = _score(model, heads, block, num_items)
      scores = jax.tree.map(lambda a, b: jnp.where(mine, a, b), fresh, so_far)
      found = racing.pairs(
        racing.values(scores, race.metrics),
        rivals.values,
        rivals.task,
        rivals.weights.shape[-1],
      )
      together = racing.together(found, rivals.below)
      stopped = racing.stopped(race, together, rivals.weights, rivals.counts)
      return (scores, reached | mine), stopped

    return jax.lax.cond(carry[1], lambda: carry, go), None

  start = skip(first)(), jnp.zeros((), bool)
  (result, _), _ = jax.lax.scan(step, start, blocks)
  return result


def _score(
  model: Callable[[Any], tuple[Family, Params]],
  heads: Heads,
  data: Data,
  num_items: int,
) -> tuple[ItemScores, Array]:
  """Scores [n], 0 for items that are not in the data, and which are, [n]."""
  found = [kinds.scores(*model(part), heads, part) for part in data]
  slots = [slot for _, slot in found]

  def gather(rows: list[tuple[Array, Array]], empty: float) -> Array:
    width = max((row.shape[1:] for row, _ in rows), default=())
    kind = rows[0][0].dtype if rows else jnp.float32
    result = jnp.full((num_items + 1, *width), empty, kind)
    for row, slot in rows:
      at = (slot, *(slice(size) for size in row.shape[1:]))
      result = result.at[at].set(row)
    return result[:num_items]  # padding went one past the end

  def pairs(name: str) -> list[tuple[Array, Array]]:
    rows = [getattr(scores, name) for scores, _ in found]
    return [p for p in zip(rows, slots, strict=True) if p[0] is not None]

  answers = pairs('answer')
  scores = ItemScores(
    gather(pairs('score'), 0.0),
    gather(pairs('log_likelihood'), 0.0),
    gather(answers, -1) if answers else None,
  )
  there = [(jnp.ones(slot.shape, bool), slot) for slot in slots]
  return scores, gather(there, False)


def scorer(family: Family, dtype: str = 'float32') -> Callable[..., ItemScores]:
  """`(params, heads, data, num_items) -> ItemScores [n]`, jitted."""

  def run(params, heads, data, num_items):
    model = family, lower.cast(params, dtype)
    return score(lambda part: model, heads, data, num_items)

  return jax.jit(run, static_argnums=3)


def population_scorer(
  family: Family,
  method: MergeMethod,
  decode: Callable[[Array], MergePlan],
  rungs: int,
  batch_size: int | None = None,
  dtype: str = 'float32',
  program: Callable[[Array], LayerProgram] | None = None,
  race: racing.Race | None = None,
) -> Callable[..., tuple[Any, ...]]:
  """Scores a population in one call, merging each candidate on the device.

  Args:
    family: the models' family.
    method: how to merge.
    decode: from coefficients to a plan.
    rungs: number of different item sets; more traces than that are an error.
    batch_size: candidates that are vmapped together; None takes one at a time,
      which needs the memory of one merged model and really skips the inactive
      and the broken.
    dtype: in which merged models compute.
    program: from coefficients to which layers stand where; None keeps all. It
      needs a stack of whole models.
    race: stops candidates inside a rung. Only one at a time really skips what
      is left: where they are vmapped, the blocks are computed for nothing.

  Returns:
    Jitted `(c [P, D], active [P], stack, heads, gate, data, num_items) ->
    (ItemScores [P, n], Vitals [P])`. Scores of candidates that are inactive or
    do not pass the gate are NaN. With a race the data are `kinds.blocks`,
    leaves [looks, ...], a further argument `racing.Rivals` comes last, and a
    further result: which items were reached, bool [P, n]; the others are NaN.
    It raises RuntimeError when it is traced more than once a rung.
  """

  traces = 0

  def run(
    c: Array,
    active: Array,
    stack: ExpertStack,
    heads: Heads,
    gate: sanity.Gate,
    data: Data,
    num_items: int,
    rivals: racing.Rivals | None = None,
  ) -> tuple[Any, ...]:
    # Python runs when JAX traces. Counted here and not by chex, whose counts
    # are of the source line: a second search in a process would fail.
    nonlocal traces
    traces += 1
    if traces > rungs:
      raise RuntimeError(
        f'the scorer of {rungs} item sets was traced {traces} times; shapes '
        'must be fixed before a search'
      )

    chex.assert_rank(c, 2)
    chex.assert_shape(active, (c.shape[0],))
    if (race is None) != (rivals is None):
      raise ValueError(
        'a scorer takes rivals if and only if it was made with a race; got '
        f'race={race} and {"no " if rivals is None else ""}rivals'
      )
    if race is not None and rivals is not None:
      _check(race, rivals, data, c.shape[0], num_items)

    def evaluate(c_one: Array, below: racing.Pairs | None):
      placed = program(c_one) if program else None
      apart = method.switch or program is not None
      model = shared.merged(
        family, method, decode(c_one), stack, dtype, placed, apart
      )

      def scored():
        if race is None or rivals is None or below is None:
          return score(model, heads, data, num_items)
        mine = rivals._replace(below=below)
        return raced(model, heads, data, num_items, race, mine)

      found = sanity.vitals(*model(gate.inputs), gate.inputs)
      passes = sanity.passes(found, gate.limits)
      return jax.lax.cond(passes, scored, skip(scored)), found

    def one(candidate: tuple[Array, Array, racing.Pairs | None]):
      c_one, is_active, below = candidate
      return jax.lax.cond(is_active, evaluate, skip(evaluate), c_one, below)

    below = None if rivals is None else rivals.below
    found, vitals = jax.lax.map(one, (c, active, below), batch_size=batch_size)
    return (found, vitals) if race is None else (found[0], vitals, found[1])

  return jax.jit(run, static_argnums=6)


def skip(function: Callable[..., Any]) -> Callable[..., Any]:
  """A function of the same arguments whose results say nothing.

  They are all NaN, -1 where they are integers, and False.
  """

  def nothing(shape: jax.ShapeDtypeStruct) -> Array:
    none: float = jnp.nan if jnp.issubdtype(shape.dtype, jnp.floating) else -1
    if shape.dtype == jnp.bool_:
      none = False
    return jnp.full(shape.shape, none, shape.dtype)

  return lambda *given: jax.tree.map(nothing, jax.eval_shape(function, *given))


def finish(
  items: ItemSet, scores: ItemScores, reached: np.ndarray | None = None
) -> Scores:
  """Item scores [n] of one model as they are kept, or why there are none.

  Args:
    items: what was scored.
    scores: leaves [n], on the host.
    reached: which items a race got to, bool [n]; the others are kept as NaN.
      None without a race, which gets to all.
  """
  reached = np.ones(len(items), bool) if reached is None else reached
  if not np.isfinite(scores.log_likelihood[reached]).all():
    return Scores(None, None, 'log-likelihood is not finite')
  metric, flags = kinds.finish(items, scores)
  metric[~reached] = np.nan
  flags[~reached] = 0
  return Scores(
    metric,
    np.where(reached, scores.log_likelihood, np.nan),
    flags=flags if any(flags) else None,
  )


def _check(
  race: racing.Race,
  rivals: racing.Rivals,
  data: Data,
  population: int,
  num_items: int,
) -> None:
  """Shapes of a race, which broadcasting would hide."""
  dealt = {leaf.shape[0] for leaf in jax.tree.leaves(data)}
  if dealt != {race.looks}:
    raise ValueError(
      f'data of a race come in {sorted(dealt)} blocks, its looks are '
      f'{race.looks}: deal them by kinds.blocks(items, {race.looks})'
    )
  count, (objectives, tasks) = len(rivals.counts), rivals.weights.shape
  chex.assert_equal(objectives, len(race.metrics))
  chex.assert_shape(rivals.values, (count, objectives, num_items))
  chex.assert_shape(rivals.task, (num_items,))
  chex.assert_shape(rivals.below, (population, count, objectives, tasks))
