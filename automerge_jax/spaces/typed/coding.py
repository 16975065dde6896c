"""Typed vectors: onto the grid, and into the one form that says the same."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from automerge_jax.merging import mixed
from automerge_jax.spaces import grid
from automerge_jax.spaces.typed.layout import Block, Layout
from automerge_jax.spaces.typed.parameters import PAIR
from automerge_jax.types import Array

Vector = Callable[[Array], Array]


def coder(layout: Layout) -> tuple[Vector, Vector, Vector]:
  """`quantise`, `encode` and `active` of a typed space."""
  low, high, choices = (
    by_dimension(layout, name) for name in ('low', 'high', 'choices')
  )
  is_category = choices > 0
  count = np.maximum(choices, 1)
  kinds = _kinds(layout)
  snap = grid.snapper(kinds, low, high)
  # What is inactive rests in the middle, a category at its first option.
  middle = grid.nearest(kinds, (low + high) / 2)
  rest = np.where(is_category, np.float32(0), middle)
  active = _activity(layout)

  def quantise(x: Array) -> Array:
    x = jnp.clip(x, 0.0, 1.0)
    category = jnp.minimum(jnp.floor(x * count), count - 1)
    c = jnp.where(is_category, category, snap(low + x * (high - low)))
    if not layout.knotted:
      for m in layout.scale_free:
        c = _scaled(layout, m, c)
      c = _single(layout, c)
    return jnp.where(active(c), c, rest)

  def encode(c: Array) -> Array:
    c = jnp.asarray(c)
    return jnp.where(is_category, (c + 0.5) / count, (c - low) / (high - low))

  return jax.jit(quantise), encode, jax.jit(active)


def by_dimension(layout: Layout, field: str) -> np.ndarray:
  """A field of its block for each dimension, float32 [D]."""
  found = [
    np.full(b.shape[0] * b.shape[1], getattr(b, field), np.float32)
    for b in layout.blocks
  ]
  return np.concatenate([*found, np.zeros(0, np.float32)])


def _kinds(layout: Layout) -> list[str]:
  return [
    block.parameter
    for block in layout.blocks
    for _ in range(block.shape[0] * block.shape[1])
  ]


def _put(c: Array, block: Block, rows: Array) -> Array:
  return c.at[block.dims].set(rows.reshape(-1))


def _rows(c: Array, block: Block) -> Array:
  return c[block.dims].reshape(block.shape)


def _touches(layout: Layout) -> np.ndarray:
  """Which columns each site takes of, bool [sites, columns]."""
  found = np.zeros((len(layout.unit_of), layout.columns), bool)
  for site, (low, high, share) in enumerate(
    zip(layout.low_of, layout.high_of, layout.share, strict=True)
  ):
    found[site, low] |= share < 1
    found[site, high] |= share > 0
  return found


def _activity(layout: Layout) -> Vector:
  touches = _touches(layout)
  chooser = layout.block(None, mixed.METHOD)

  def active(c: Array) -> Array:
    c = jnp.asarray(c)
    chosen = jnp.zeros(layout.units) if chooser is None else c[chooser.dims]
    of_site = chosen[layout.unit_of]
    found = []
    for block in layout.blocks:
      if block.method is None:
        rows = jnp.ones(block.shape, bool)
      elif block.choices:
        rows = (chosen == block.method)[None]
      else:
        used = touches & (of_site == block.method)[:, None]
        rows = jnp.broadcast_to(used.any(0), block.shape)
        rows = rows & _counts(layout, block, c)
      found.append(rows.reshape(-1))
    return jnp.concatenate([*found, jnp.zeros(0, bool)])

  return active


def _counts(layout: Layout, block: Block, c: Array) -> Array:
  """Whether a density belongs to a weight that is not 0, [owners, columns]."""
  weight = layout.block(block.method, 'weight')
  if block.parameter != 'density' or weight is None or layout.knotted:
    return jnp.ones((1, 1), bool)
  weighs = _rows(c, weight) != 0
  return weighs if block.per_expert else weighs.any(0, keepdims=True)


def _scaled(layout: Layout, method: int, c: Array) -> Array:
  """Weights that count by their ratios: the largest becomes 1, or its bound.

  Weights that are all 0 say nothing where there is no base to stay at; they
  become equal.
  """
  block = layout.block(method, 'weight')
  if block is None or block.low != 0:
    return c
  rows = _rows(c, block)
  top = rows.max(0, keepdims=True)
  scaled = rows / jnp.where(top > 0, top, 1.0) * min(1.0, block.high)
  if layout.methods[method].stack != 'deltas':
    scaled = jnp.where(top > 0, scaled, min(1.0, block.high))
  snap = grid.snapper([block.parameter], [block.low], [block.high])
  return _put(c, block, snap(scaled))


def _single(layout: Layout, c: Array) -> Array:
  """Where SLERP takes one expert of a pair, the same pair for the same one."""
  method = layout.index(PAIR)
  if method is None:
    return c
  pair, share = layout.block(method, 'pair'), layout.block(method, 't')
  if pair is None or share is None:
    return c
  member = layout.unit_of[None] == np.arange(layout.units)[:, None]
  t = _rows(c, share)[0]
  at_first, at_second = (
    jnp.where(member, t[None] == end, True).all(1) for end in (0.0, 1.0)
  )
  index = c[pair.dims].astype(jnp.int32)
  pairs = jnp.asarray(layout.pairs)
  only = jnp.where(at_first, pairs[index, 0], pairs[index, 1])
  single = at_first | at_second
  # Pairs (0, 1), (0, 2), ... come first in their numbering.
  c = _put(c, pair, jnp.where(single, jnp.maximum(only - 1, 0), index))
  end = jnp.where(single, (only > 0).astype(t.dtype), -1.0)[layout.unit_of]
  return _put(c, share, jnp.where(end >= 0, end, t))
