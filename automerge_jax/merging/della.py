"""DELLA: drop at random, small entries rather: https://arxiv.org/abs/2406.11617.

An entry of rank ρ (0 the smallest of its row, n - 1 the largest) is kept with
probability q = density - ε + 2 ε ρ / (n - 1); rows run along the last axis, a
vector is one row. Rows of one entry are left as they are. mergekit 0.1.5
rescales so that Σ|τ| of a tensor stays what it was, the paper each survivor by
its own 1 / q. Densities 0 and 1 keep nothing and everything.
"""

from collections.abc import Mapping

import numpy as np

from automerge_jax.merging import draws, masks, sparse
from automerge_jax.merging.facts import DENSITIES, descending
from automerge_jax.types import Fact, Parameter, Stored

_PART = 1 << 18  # entries at a time


def _shift(rows: np.ndarray, epsilon: float) -> np.ndarray:
  """ε - 2 ε ρ / (n - 1), how much q is below the density; like rows [r, n]."""
  size = rows.shape[1]
  if size == 1:
    return np.full(rows.shape, -1.0, np.float32)  # kept at any density
  shift = np.empty(rows.shape, np.float32)
  steps = epsilon - 2 * epsilon * np.arange(size)[::-1] / (size - 1)
  order = descending(np.abs(rows))
  np.put_along_axis(shift, order, steps[None].astype(np.float32), axis=1)
  return shift


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
    epsilon = stored.settings['epsilon'][k]
    if known is not None and not 0 < known[k] < 1:
      levels[k] = known[k] >= 1
      continue
    if known is not None:
      _check(known[k], epsilon)
    drawn = draws.uniform(stored.seed, k, stored.name, deltas.size)
    length = deltas.shape[-1] if deltas.ndim else 1
    deltas, drawn = deltas.reshape(-1, length), drawn.reshape(-1, length)
    found = levels[k : k + 1].reshape(-1, length)  # a view
    step = max(1, _PART // length)
    for start in range(0, len(deltas), step):
      part = slice(start, start + step)
      # An entry is kept where this is less than the density.
      least = drawn[part] * np.float32(2.0**-draws.BITS)
      least += _shift(deltas[part], epsilon)
      if known is None:
        found[part] = np.clip(np.floor(least * DENSITIES), 0, DENSITIES - 1)
      else:
        found[part] = least < known[k]
  return masks.without_zeros(levels, stored.stack)


def _shifts(stored: Stored, _: Mapping[str, np.ndarray]) -> np.ndarray:
  """How much less than the density each entry's probability is, [K, ...]."""
  shifts = np.empty(stored.stack.shape, np.float32)
  for k, deltas in enumerate(stored.stack):
    length = deltas.shape[-1] if deltas.ndim else 1
    rows, found = deltas.reshape(-1, length), shifts[k : k + 1]
    epsilon = stored.settings['epsilon'][k]
    found = found.reshape(-1, length)  # a view
    step = max(1, _PART // length)
    for start in range(0, len(rows), step):
      part = slice(start, start + step)
      found[part] = _shift(rows[part], epsilon)
  return shifts


LEVEL = Fact('level', _levels, itemsize=1)
SHIFT = Fact('shift', _shifts)
METHODS = tuple(
  sparse.method(
    name,
    LEVEL,
    masks.L1_SCALE,
    consensus=name == 'della',
    normalize=name == 'della',
    rescale=True,
    densities=(0.16, 0.84),
    further=(Parameter('epsilon', 0.15, True, setting=True),),
  )
  for name in ('della_linear', 'della')
) + tuple(
  sparse.method(
    name,
    LEVEL,
    masks.INVERSE_DENSITY,
    consensus=name == 'della',
    normalize=name == 'della',
    rescale=False,
    densities=(0.16, 0.84),
    further=(Parameter('epsilon', 0.15, True, setting=True),),
    semantics='paper',
    of_entry=SHIFT,
  )
  for name in ('della_linear', 'della')
)
