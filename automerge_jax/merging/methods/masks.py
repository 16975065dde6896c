"""Nested masks: which entries of a task vector a density keeps.

Every sparsifier here keeps more as its density grows and never lets go of what
a lower density kept. So one small number an entry, its level, says it for all
densities in thousandths: an entry is kept where `level < 1000 density`. A new
density then costs a comparison, not a sort or a draw.

Where the density is known in advance (an export), the fact is that one mask,
bool, found in linear time.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from automerge_jax.merging.facts import DENSITIES, descending, kept, largest
from automerge_jax.merging.methods import draws
from automerge_jax.types import Array, Fact, Stored

LEVEL = np.int16
NEVER = LEVEL(0x7FFF)
_PART = 1 << 18


def index(density: Array) -> Array:
  """Thousandths of a density; a positive one is at least one of them."""
  whole = jnp.rint(density * DENSITIES).astype(jnp.int32)
  return jnp.where(density > 0, jnp.maximum(whole, 1), 0)


def keeps(level: Array, density: Array) -> Array:
  """Mask of an expert's levels at its density, int32: all bits, or none.

  Bits, because the vectorised code of comparisons and selections is slow.
  """
  if level.dtype == bool:
    return -level.astype(jnp.int32)
  return ((level - index(density).astype(level.dtype)) >> 15).astype(jnp.int32)


def one(mask: Array) -> Array:
  """1.0 where all bits of an int32 are set, 0.0 where none is."""
  bits = mask & np.float32(1).view(np.int32)
  return jax.lax.bitcast_convert_type(bits, jnp.float32)


def _levels(
  stored: Stored,
  known: Callable[[Stored, int, float], np.ndarray],
  every: Callable[[Stored, int], np.ndarray],
) -> np.ndarray:
  """Mask bool [K, ...] for one density, or levels int16 [K, ...] for all."""
  one = 'density' in stored.settings
  levels = np.empty(stored.stack.shape, bool if one else LEVEL)
  for k in range(len(levels)):
    found = (
      known(stored, k, stored.settings['density'][k])
      if one
      else every(stored, k)
    )
    levels[k] = found.reshape(levels[k].shape)
  return without_zeros(levels, stored.stack)


def without_zeros(levels: np.ndarray, stack: np.ndarray) -> np.ndarray:
  """Lets go of entries that are zero, in place: they have no sign to elect."""
  gone = False if levels.dtype == bool else NEVER
  for k in range(len(levels)):  # `...`: of a scalar, too, there is a view
    np.copyto(levels[k, ...], gone, where=stack[k, ...] == 0)
  return levels


# -- ranks of magnitude: TIES keeps the largest, Breadcrumbs all but the very
# largest. Both keep a window of ranks [start, stop) that grows with density.


def window(density: float, size: int, gamma: float | None) -> tuple[int, int]:
  """Ranks of magnitude that are kept, [start, stop).

  The ⌊gamma n⌋ largest are dropped, unless the density then asks for more
  entries than are left. As in mergekit 0.1.5, Breadcrumbs may keep none of a
  small tensor, TIES (gamma is None) keeps at least one.
  """
  if gamma is None:
    return 0, kept(density, size)
  count = min(size, max(0, int(density * size)))
  start = min(int(gamma * size), size - count)
  return start, start + count


def _known_window(stored: Stored, k: int, density: float) -> np.ndarray:
  values = stored.stack[k].reshape(-1)
  start, stop = window(density, values.size, _gamma(stored, k))
  chosen = largest(values, stop)
  if start:
    chosen &= ~largest(values, start)
  return chosen


def _every_window(stored: Stored, k: int) -> np.ndarray:
  magnitude = np.abs(stored.stack[k].reshape(-1))
  size, gamma = magnitude.size, _gamma(stored, k)
  by_rank = np.full(size, NEVER)
  start, stop = window(0.0, size, gamma)
  for i in range(DENSITIES):
    wider, longer = window((i + 1) / DENSITIES, size, gamma)
    by_rank[wider:start] = by_rank[stop:longer] = i
    start, stop = wider, longer
  levels = np.empty(size, LEVEL)
  levels[descending(magnitude)] = by_rank
  return levels


def _gamma(stored: Stored, k: int) -> float | None:
  return stored.settings['gamma'][k] if 'gamma' in stored.settings else None


# -- random masks


def _known_bernoulli(stored: Stored, k: int, density: float) -> np.ndarray:
  size = stored.stack[k].size
  drawn = draws.uniform(stored.seed, k, stored.name, size)
  return drawn < np.float64(density) * (1 << draws.BITS)


def _every_bernoulli(stored: Stored, k: int) -> np.ndarray:
  drawn = draws.uniform(stored.seed, k, stored.name, stored.stack[k].size)
  # draw / 65536 < i / 1000 exactly where ⌊1000 draw / 65536⌋ < i.
  return ((drawn.astype(np.uint32) * DENSITIES) >> draws.BITS).astype(LEVEL)


MAGNITUDE = Fact(
  'level',
  lambda stored, _: _levels(stored, _known_window, _every_window),
  itemsize=1,
)
BERNOULLI = Fact(
  'level',
  lambda stored, _: _levels(stored, _known_bernoulli, _every_bernoulli),
  itemsize=1,
)


# -- what makes up for what was dropped


def _l1(stored: Stored, found: Mapping[str, np.ndarray]) -> np.ndarray:
  table = np.ones((len(stored.stack), DENSITIES + 1), np.float32)
  if not stored.settings['rescale']:
    return table
  for row, levels, deltas in zip(
    table, found['level'], stored.stack, strict=True
  ):
    sums = np.zeros(1 if levels.dtype == bool else DENSITIES + 1)
    total = 0.0
    levels, deltas = levels.reshape(-1), deltas.reshape(-1)
    for start in range(0, deltas.size, _PART):  # in the cache
      magnitude = np.abs(deltas[start : start + _PART]).astype(np.float64)
      level = levels[start : start + _PART]
      total += magnitude.sum()
      if level.dtype == bool:
        sums += magnitude @ level.astype(np.float64)
      else:
        of_level = np.bincount(np.minimum(level, DENSITIES), magnitude)
        sums[1 : 1 + len(of_level)] += of_level[:DENSITIES]  # without NEVER
    kept = np.cumsum(sums)
    row[:] = np.where(kept > 0, total / np.where(kept > 0, kept, 1.0), 1.0)
  return table


def _inverse(stored: Stored, _) -> np.ndarray:
  if not stored.settings['rescale']:
    density = np.float64(1)
  elif 'density' in stored.settings:
    density = np.asarray(stored.settings['density'], np.float64)[:, None]
  else:
    density = np.arange(DENSITIES + 1) / DENSITIES
  factor = np.where(density > 0, 1 / np.where(density > 0, density, 1), 1)
  shape = (len(stored.stack), DENSITIES + 1)
  return np.array(np.broadcast_to(factor, shape), np.float32)


# Factors at each density, float32 [K, 1001]. mergekit's keeps Σ|τ| of a tensor,
# the papers' its expectation.
L1_SCALE = Fact('scale', _l1, elementwise=False)
INVERSE_DENSITY = Fact('scale', _inverse, elementwise=False)
