"""Scoring: candidate -> merge -> forward -> item scores, inside one jit."""

from collections.abc import Callable, Mapping
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from automerge_jax.search import sanity, shared
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
  return ItemScores(
    gather(pairs('score'), 0.0),
    gather(pairs('log_likelihood'), 0.0),
    gather(answers, -1) if answers else None,
  )


def scorer(family: Family, dtype: str = 'float32') -> Callable[..., ItemScores]:
  """`(params, heads, data, num_items) -> ItemScores [n]`, jitted."""

  def run(params, heads, data, num_items):
    model = family, shared.cast(params, dtype)
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
) -> Callable[..., tuple[ItemScores, sanity.Vitals]]:
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

  Returns:
    Jitted `(c [P, D], active [P], stack, heads, gate, data, num_items) ->
    (ItemScores [P, n], Vitals [P])`. Scores of candidates that are inactive or
    do not pass the gate are NaN. It raises RuntimeError when it is traced more
    than once a rung.
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
  ) -> tuple[ItemScores, sanity.Vitals]:
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

    def evaluate(c_one: Array):
      placed = program(c_one) if program else None
      apart = method.switch or program is not None
      model = shared.merged(
        family, method, decode(c_one), stack, dtype, placed, apart
      )

      def scored() -> ItemScores:
        return score(model, heads, data, num_items)

      found = sanity.vitals(*model(gate.inputs), gate.inputs)
      passes = sanity.passes(found, gate.limits)
      return jax.lax.cond(passes, scored, skip(scored)), found

    def one(candidate: tuple[Array, Array]):
      c_one, is_active = candidate
      return jax.lax.cond(is_active, evaluate, skip(evaluate), c_one)

    return jax.lax.map(one, (c, active), batch_size=batch_size)

  return jax.jit(run, static_argnums=6)


def skip(function: Callable[..., Any]) -> Callable[..., Any]:
  """A function of the same arguments whose results are all NaN (ints: -1)."""

  def nothing(shape: jax.ShapeDtypeStruct) -> Array:
    none = jnp.nan if jnp.issubdtype(shape.dtype, jnp.floating) else -1
    return jnp.full(shape.shape, none, shape.dtype)

  return lambda *given: jax.tree.map(nothing, jax.eval_shape(function, *given))


def finish(items: ItemSet, scores: ItemScores) -> Scores:
  """Item scores [n] of one model as they are kept, or why there are none.

  Args:
    items: what was scored.
    scores: leaves [n], on the host.
  """
  if not np.isfinite(scores.log_likelihood).all():
    return Scores(None, None, 'log-likelihood is not finite')
  metric, flags = kinds.finish(items, scores)
  return Scores(
    metric,
    np.asarray(scores.log_likelihood),
    flags=flags if any(flags) else None,
  )
