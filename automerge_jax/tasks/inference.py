"""One model over bucketed items: pooled features, and item scores."""

from collections.abc import Callable, Sequence

import jax
import numpy as np

from automerge_jax.models import base
from automerge_jax.tasks import classification
from automerge_jax.types import Array, Family, Items, ItemScores, Params


def features_fn(family: Family) -> Callable[[Params, Items], Array]:
  """Jitted `(params, items [C, B, T]) -> features [C, B, d]`."""

  def chunk(params, items):
    hidden = base.forward(family, params, items.inputs)
    return classification.features(hidden, items.inputs)

  return jax.jit(
    lambda params, items: jax.lax.map(lambda one: chunk(params, one), items)
  )


def scores_fn(
  family: Family,
) -> Callable[[Params, classification.Heads, Items], ItemScores]:
  """Jitted `(params, heads, items [C, B, T]) -> ItemScores [C, B]`."""

  def chunk(params, heads, items):
    hidden = base.forward(family, params, items.inputs)
    return classification.score(heads, hidden, items)

  return jax.jit(
    lambda params, heads, items: jax.lax.map(
      lambda one: chunk(params, heads, one), items
    )
  )


def in_order(
  values: Sequence[Array], buckets: Sequence[Items], total: int
) -> np.ndarray:
  """Values of each bucket [C, B, ...] in the order of the item list [n, ...].

  Args:
    values: one array a bucket.
    buckets: the buckets that they belong to.
    total: n.
  """
  first = np.asarray(values[0])
  out = np.empty((total + 1, *first.shape[2:]), first.dtype)
  for value, items in zip(values, buckets, strict=True):
    out[np.asarray(items.slot)] = np.asarray(value)
  return out[:total]
