"""Layer programs within bounds: which layers are kept, doubled and run again.

Every source layer has slots, one for each time it may stand in a row. A gene
says of the first slot whether the layer is skipped, of the others whether they
are filled; one more gene says how many slots are filled. Where the two nearly
agree, the slots are believed: one gene inserts or removes one layer. Where they
do not, the least wanted layers go or the most wanted come: of x nearest the
other side, ties by a hash of all slots. What was decided is written back, so
that a child starts from the program its parent had.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from automerge_jax.spaces.stacks.layout import YES, Layout, flags
from automerge_jax.types import Array


class Settled(NamedTuple):
  """A program in its only spelling.

  Attributes:
    kept: slots that are filled, the first of each layer first, bool [L, C].
    order: where each slot's genes come from, int32 [L, C].
    again: blocks that are run again, bool [R].
    start, length: of these blocks, in source layers, int32 [R].
  """

  kept: Array
  order: Array
  again: Array
  start: Array
  length: Array


def settle(
  layout: Layout, c: Mapping[str, Array], x: Mapping[str, Array]
) -> Settled:
  """The program that genes mean.

  Args:
    layout: of the programs.
    c: genes by field.
    x: the same in the unit cube; how near to the other option a slot is.
  """
  layers, columns = flags(layout)
  first = columns == 0
  # The default is "no": a first slot is not skipped, another not filled.
  wanted = (c['slot'] != YES) == first if layers.size else jnp.zeros(0, bool)
  want = jnp.where(first, x['slot'], 1 - x['slot']) if layers.size else wanted
  least, most = layout.filled
  sure = layout.depth - int(first.sum())
  number = c['depth'][0].astype(jnp.int32) if 'depth' in c else most
  asked = sure + wanted.sum()
  number = jnp.where(jnp.abs(asked - number) <= layout.slack, asked, number)
  number = jnp.clip(number, least, most) - sure
  tied = ties(wanted)
  ranking = jnp.lexsort((tied, -want.astype(jnp.float32), ~wanted))
  filled = (
    jnp.zeros(layers.size, bool)
    .at[ranking]
    .set(jnp.arange(layers.size) < number)
  )
  kept = jnp.zeros((layout.depth, layout.copies), bool).at[:, 0].set(True)
  kept = kept.at[layers, columns].set(filled)
  order = jnp.argsort(~kept, axis=1, stable=True).astype(jnp.int32)
  kept = jnp.take_along_axis(kept, order, axis=1)
  return Settled(kept, order, *_blocks(layout, kept, c))


def spelled(layout: Layout, settled: Settled) -> dict[str, Array]:
  """The genes of a program, by field; unused ones are as in the middle."""
  layers, columns = flags(layout)
  filled = settled.kept[layers, columns]
  longest, free = max(layout.longest, 1), layout.free
  at = (free.start + max(free.stop, free.start + 1)) // 2
  return {
    'slot': jnp.where(filled == (columns == 0), 1 - YES, YES),
    'depth': settled.kept.sum(),
    'again': jnp.where(settled.again, YES, 1 - YES),
    'start': jnp.where(settled.again, settled.start, at),
    'length': jnp.where(settled.again, settled.length, (2 + longest) // 2),
  }


def positions(layout: Layout, settled: Settled) -> tuple[Array, Array]:
  """(slot at each position, index into [L, C] flat; whether there is one), [S].

  Positions without a layer hold slot 0.
  """
  kept = settled.kept
  slot = np.arange(kept.size)
  layer = slot // layout.copies
  width = layout.repeats + 1
  # Runs again follow the last layer of their block, in their order.
  keys = [jnp.asarray(layer * width * kept.size + slot)]
  masks = [kept.reshape(-1)]
  for r in range(settled.again.shape[0]):
    end = settled.start[r] + settled.length[r]
    keys.append(((end - 1) * width + 1 + r) * kept.size + slot)
    inside = (layer >= settled.start[r]) & (layer < end)
    masks.append(masks[0] & settled.again[r] & inside)
  mask = jnp.concatenate(masks)
  key = jnp.where(mask, jnp.concatenate(keys), np.iinfo(np.int32).max)
  found = jnp.argsort(key, stable=True)[: layout.most]
  active = mask[found]
  return jnp.where(active, found % kept.size, 0).astype(jnp.int32), active


def _blocks(
  layout: Layout, kept: Array, c: Mapping[str, Array]
) -> tuple[Array, Array, Array]:
  """Blocks that fit into what room is left, as tight as they can be said."""
  if 'again' not in c:
    none = jnp.zeros(0, jnp.int32)
    return jnp.zeros(0, bool), none, none
  count = kept.sum(1)
  layer = np.arange(layout.depth)
  room = layout.most - count.sum()
  found = []
  for r in range(layout.repeats):
    start = c['start'][r].astype(jnp.int32)
    end = jnp.minimum(
      start + c['length'][r].astype(jnp.int32), layout.free.stop
    )
    own = jnp.where((layer >= start) & (layer < end), count, 0)
    own = jnp.where(jnp.cumsum(own) <= room, own, 0)
    again = (c['again'][r] == YES) & (own.sum() > 0)
    first = jnp.argmax(own > 0)
    last = layout.depth - 1 - jnp.argmax(own[::-1] > 0)
    found.append((again, first, last + 1 - first))
    room = room - jnp.where(again, own.sum(), 0)
  again, start, length = (jnp.stack(row) for row in zip(*found, strict=True))
  order = jnp.lexsort((start + length, ~again))
  return again[order], start[order], length[order]


def moved(at: np.ndarray, settled: Settled, value: Array) -> Array:
  """Values of slots, [L, C], where filled slots of a layer come first."""
  whole = jnp.zeros(settled.kept.size).at[at].set(value)
  whole = whole.reshape(settled.kept.shape)
  return jnp.take_along_axis(whole, settled.order, axis=1)


def inherited(kept: Array, value: Array) -> Array:
  """Values [L, C] with those of empty slots taken from the one before."""
  mask = kept.reshape(-1)
  slot = jnp.arange(mask.size)
  before = jax.lax.cummax(jnp.where(mask, slot, -1))
  source = jnp.where(before < 0, jnp.argmax(mask), before)
  return value.reshape(-1)[source].reshape(value.shape)


def ties(wanted: Array) -> Array:
  """Ties between slots are broken anew for every set of them; uint32."""
  draw = np.random.default_rng(0)
  weights = draw.integers(1, 2**32, (2, wanted.size), dtype=np.uint32)
  mixed = jnp.sum(jnp.where(wanted, weights[0], 0), dtype=jnp.uint32)
  key = (weights[1] ^ mixed) * np.uint32(0x9E3779B1)
  key = (key ^ jax.lax.shift_right_logical(key, jnp.full_like(key, 15))) * (
    np.uint32(0x85EBCA77)
  )
  return key ^ jax.lax.shift_right_logical(key, jnp.full_like(key, 13))
