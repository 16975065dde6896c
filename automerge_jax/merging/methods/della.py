"""DELLA: drop at random, small entries rather: https://arxiv.org/abs/2406.11617.

An entry of rank ρ (0 the smallest of its row, n - 1 the largest) is kept with
probability q = density - ε + 2 ε ρ / (n - 1); rows run along the last axis, a
vector is one row. Rows of one entry are left as they are. mergekit 0.1.5
rescales so that Σ|τ| of a tensor stays what it was, the paper each survivor by
its own 1 / q. Densities 0 and 1 keep nothing and everything.
"""

from collections.abc import Iterator, Mapping

import numpy as np

from automerge_jax.merging.facts import DENSITIES, by_rank
from automerge_jax.merging.methods import draws, masks, sparse
from automerge_jax.types import Fact, Parameter, Stored

_PART = 1 << 18  # entries at a time
_UNIT = DENSITIES << draws.BITS  # of probability: draws and densities are whole


def _shifts(size: int, epsilon: float) -> np.ndarray:
  """ε - 2 ε ρ / (n - 1), how much q is below the density, by rank, float64."""
  if size == 1:
    return np.full(1, -1.0)  # kept at any density
  return epsilon - 2 * epsilon * np.arange(size)[::-1] / (size - 1)


def _parts(*arrays: np.ndarray) -> Iterator[list[np.ndarray]]:
  """Some rows at a time of tensors of one shape; views."""
  length = arrays[0].shape[-1] if arrays[0].ndim else 1
  rows = [array.reshape(-1, length) for array in arrays]
  step = max(1, _PART // max(1, length))
  for start in range(0, len(rows[0]), step):
    yield [array[start : start + step] for array in rows]


def _check(density: float, epsilon: float) -> None:
  if not (0 < density - epsilon and density + epsilon < 1):
    raise ValueError(
      f'density {density}, epsilon {epsilon}: della needs density - epsilon '
      'and density + epsilon between 0 and 1 (or density 0 or 1)'
    )


def _levels(stored: Stored, _: Mapping[str, np.ndarray]) -> np.ndarray:
  known = stored.settings.get('density')
  levels = np.empty(stored.stack.shape, masks.LEVEL if known is None else bool)
  for k, deltas in enumerate(stored.stack):
    epsilon, limit = stored.settings['epsilon'][k], 0
    if known is not None:
      if not 0 < known[k] < 1:
        levels[k] = known[k] >= 1
        continue
      _check(known[k], epsilon)
      limit = np.ceil(known[k] * _UNIT - 1e-6)
    shape = deltas.shape
    shifts = _shifts(shape[-1] if shape else 1, epsilon) * _UNIT
    shifts = np.rint(shifts).astype(np.int32)
    drawn = draws.uniform(stored.seed, k, stored.name, deltas.size)
    for rows, draw, level in _parts(
      deltas, drawn.reshape(shape), levels[k, ...]
    ):
      # An entry is kept where this is less than the density.
      least = draw.astype(np.int32) * np.int32(DENSITIES)
      least += by_rank(rows, shifts)
      if known is None:
        level[:] = (least >> draws.BITS).clip(0, DENSITIES - 1)
      else:
        level[:] = least < limit
  return masks.without_zeros(levels, stored.stack)


def _of_entries(stored: Stored, _: Mapping[str, np.ndarray]) -> np.ndarray:
  """How much less than the density each entry's probability is, [K, ...]."""
  found = np.empty(stored.stack.shape, np.float32)
  for k, deltas in enumerate(stored.stack):
    length = deltas.shape[-1] if deltas.ndim else 1
    shifts = _shifts(length, stored.settings['epsilon'][k]).astype(np.float32)
    for rows, part in _parts(deltas, found[k, ...]):
      part[:] = by_rank(rows, shifts)
  return found


LEVEL = Fact('level', _levels, itemsize=1)
SHIFT = Fact('shift', _of_entries)
METHODS = tuple(
  sparse.method(
    name,
    LEVEL,
    masks.L1_SCALE,
    consensus=name == 'della',
    normalize=name == 'della',
    rescale=semantics != 'paper',  # the paper divides each entry by itself
    densities=(0.16, 0.84),
    further=(Parameter('epsilon', 0.15, True, setting=True),),
    semantics=semantics,
    of_entry=SHIFT if semantics == 'paper' else None,
  )
  for semantics in ('mergekit-0.1.5', 'paper')
  for name in ('della_linear', 'della')
)
