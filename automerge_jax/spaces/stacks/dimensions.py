"""Typed dimensions: decimals, whole numbers and categories of a unit cube.

A space is a mapping of fields, each an array of genes of one kind; candidates
are their concatenation. The middle of the cube, x = 0.5, is every default.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from automerge_jax.spaces import grid
from automerge_jax.types import Array

DECIMAL, WHOLE, CATEGORY = 'decimal', 'whole', 'category'


class Field(NamedTuple):
  """Genes of one kind.

  Attributes:
    names: one a gene.
    low, high: their range, both included; of categories 0 and options - 1.
    kind: DECIMAL, on the grid of coefficients; WHOLE, ordered; or CATEGORY.
    middle: what x = 0.5 means; None: what lies in the middle of the range.
  """

  names: tuple[str, ...]
  low: float
  high: float
  kind: str = DECIMAL
  middle: float | None = None


class Genes(NamedTuple):
  """The dimensions of a space, D.

  Attributes:
    names: one a dimension.
    choices: options of each dimension, 0 for numbers, int [D].
    owners: field of each dimension.
    snap: `x [D] -> c [D]`, each dimension by itself; jittable.
    encode: `c [D] -> x [D]`; the middle of the interval that means c.
    split: `[D] -> {field: [genes]}`.
    join: `{field: [genes] or a number} -> [D]`.
  """

  names: tuple[str, ...]
  choices: np.ndarray
  owners: tuple[str, ...]
  snap: Callable[[Array], Array]
  encode: Callable[[Array], Array]
  split: Callable[[Array], dict[str, Array]]
  join: Callable[[Mapping[str, Any]], Array]


def genes(fields: Mapping[str, Field]) -> Genes:
  """Lays fields out one after the other; those without genes are left out.

  Raises:
    ValueError: if nothing is left to search.
  """
  fields = {name: field for name, field in fields.items() if field.names}
  if not fields:
    raise ValueError(
      'there is nothing to search: bounds and options leave one program only'
    )
  rows = [field for field in fields.values() for _ in field.names]
  low = np.asarray([row.low for row in rows], np.float32)
  high = np.asarray([row.high for row in rows], np.float32)
  kinds = np.asarray([row.kind for row in rows])
  category, decimal = kinds == CATEGORY, kinds == DECIMAL
  # A whole number owns an interval, a decimal a point.
  end = np.where(decimal, high, high + 1)
  middle = np.asarray(
    [np.nan if row.middle is None else row.middle for row in rows], np.float32
  )
  middle = np.where(np.isnan(middle), (low + end) / 2, middle)
  options = np.where(category, high + 1, 0).astype(int)
  names = tuple(name for field in fields.values() for name in field.names)
  rounded, _ = grid.quantiser(
    [name.split('/')[0] for name in names],
    np.where(decimal, low, 0),
    np.where(decimal, high, 1),
  )

  def snap(x: Array) -> Array:
    x = jnp.clip(jnp.asarray(x, jnp.float32), 0.0, 1.0)
    below = low + 2 * x * (middle - low)
    above = middle + (2 * x - 1) * (end - middle)
    value = jnp.where(x < 0.5, below, above)
    whole = jnp.where(category, jnp.floor(x * options), jnp.floor(value))
    span = np.where(high > low, high - low, 1)
    return jnp.where(
      decimal, rounded((value - low) / span), jnp.clip(whole, low, high)
    )

  def encode(c: Array) -> Array:
    c = jnp.asarray(c, jnp.float32)
    value = jnp.where(decimal, c, c + 0.5)
    below = (value - low) / np.where(middle > low, middle - low, 1) / 2
    above = 0.5 + (value - middle) / np.where(end > middle, end - middle, 1) / 2
    x = jnp.where(value < middle, below, above)
    return jnp.where(category, value / np.maximum(options, 1), x)

  ends = np.cumsum([len(field.names) for field in fields.values()])

  def split(c: Array) -> dict[str, Array]:
    return dict(zip(fields, jnp.split(c, ends[:-1]), strict=True))

  def join(values: Mapping[str, Any]) -> Array:
    parts = [
      jnp.broadcast_to(jnp.asarray(values[name], jnp.float32), (len(f.names),))
      for name, f in fields.items()
    ]
    return jnp.concatenate(parts)

  return Genes(
    names=names,
    choices=options,
    owners=tuple(name for name, f in fields.items() for _ in f.names),
    snap=snap,
    encode=encode,
    split=split,
    join=join,
  )


def categories(names: Sequence[str], options: int) -> Field:
  """Unordered genes of so many options; none where there is one option."""
  return Field(tuple(names) if options > 1 else (), 0, options - 1, CATEGORY)
