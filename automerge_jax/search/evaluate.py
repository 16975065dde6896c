"""Scoring: candidate -> merge -> forward -> item scores, inside one jit."""

from collections.abc import Callable, Mapping, Sequence

import chex
import jax
import jax.numpy as jnp

from automerge_jax.merging import resident
from automerge_jax.models import base as models
from automerge_jax.tasks import classification
from automerge_jax.tasks.itemset import ItemSet
from automerge_jax.types import (
  Array,
  ExpertStack,
  Family,
  Items,
  ItemScores,
  MergeMethod,
  MergePlan,
  Params,
)

Heads = Mapping[str, Array]
Buckets = tuple[Items, ...]


def buckets(items: ItemSet, tokens_per_chunk: int = 2048) -> Buckets:
  """The items in length buckets, on the device."""
  made = classification.bucket(
    items.tokens, items.task, items.label, tokens_per_chunk=tokens_per_chunk
  )
  return jax.tree.map(jnp.asarray, made)


def score(
  family: Family, params: Params, heads: Heads, data: Buckets, num_items: int
) -> ItemScores:
  """Scores of one model on all items, leaves [n]; pure and jittable."""

  parts = [
    jax.lax.map(lambda items: score_chunk(family, params, heads, items), bucket)
    for bucket in data
  ]
  slots = jnp.concatenate([items.slot.ravel() for items in data])

  def gather(*leaves: Array) -> Array:
    flat = [jnp.concatenate(leaf) for leaf in leaves]  # chunks in a row
    values = jnp.concatenate(flat)
    shape = (num_items + 1, *values.shape[1:])
    padded = jnp.zeros(shape, values.dtype).at[slots].set(values)
    return padded[:num_items]  # padding went one past the end

  return jax.tree.map(gather, *parts)


def score_chunk(
  family: Family, params: Params, heads: Heads, items: Items
) -> ItemScores:
  """Scores of one chunk of items, leaves [B]."""
  hidden = models.forward(family, params, items.inputs)
  return classification.score(heads, hidden, items)


def scorer(family: Family) -> Callable[..., ItemScores]:
  """`(params, heads, buckets, num_items) -> ItemScores [n]`, jitted."""

  def run(params, heads, data, num_items):
    return score(family, params, heads, data, num_items)

  return jax.jit(run, static_argnums=3)


def population_scorer(
  family: Family,
  method: MergeMethod,
  decode: Callable[[Array], MergePlan],
  rungs: int,
  batch_size: int | None = None,
) -> Callable[..., ItemScores]:
  """Scores a population in one call, merging each candidate on the device.

  Args:
    family: the models' family.
    method: how to merge.
    decode: from coefficients to a plan.
    rungs: number of different item sets; more traces than that are an error.
    batch_size: candidates that are vmapped together; None takes one at a time,
      which needs the memory of one merged model and really skips the inactive.

  Returns:
    Jitted `(c [P, D], active [P], stack, heads, buckets, num_items) ->
    ItemScores [P, n]`, NaN for inactive candidates. It raises RuntimeError
    when it is traced more than once a rung.
  """

  traces = 0

  def run(
    c: Array,
    active: Array,
    stack: ExpertStack,
    heads: Heads,
    data: Buckets,
    num_items: int,
  ) -> ItemScores:
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

    def evaluate(c_one: Array) -> ItemScores:
      params = resident.merge(method, decode(c_one), stack)
      return score(family, params, heads, data, num_items)

    def skip(c_one: Array) -> ItemScores:
      shapes = jax.eval_shape(evaluate, c_one)
      return jax.tree.map(_nothing, shapes)

    def one(candidate: tuple[Array, Array]) -> ItemScores:
      c_one, is_active = candidate
      return jax.lax.cond(is_active, evaluate, skip, c_one)

    return jax.lax.map(one, (c, active), batch_size=batch_size)

  return jax.jit(run, static_argnums=5)


def _nothing(shape: jax.ShapeDtypeStruct) -> Array:
  none = jnp.nan if jnp.issubdtype(shape.dtype, jnp.floating) else -1
  return jnp.full(shape.shape, none, shape.dtype)


def failures(scores: ItemScores) -> Sequence[str | None]:
  """Why each candidate's scores [P, n] cannot be used; None where they can."""
  finite = jax.device_get(jnp.isfinite(scores.log_likelihood).all(-1))
  return [None if ok else 'log-likelihood is not finite' for ok in finite]
