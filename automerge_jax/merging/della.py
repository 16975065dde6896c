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


def _shift(stored: Stored, k: int) -> np.ndarray:
  """ε - 2 ε ρ / (n - 1), how much less than the density q is, float64 [...]."""
  deltas = stored.stack[k]
  rows = np.abs(deltas).reshape(-1, deltas.shape[-1] if deltas.ndim else 1)
  size = rows.shape[1]
  epsilon = stored.settings['epsilon'][k]
  if size == 1:
    return np.full(deltas.shape, -1.0)  # kept at any density
  shift = np.empty(rows.shape, np.float32)
  steps = epsilon - 2 * epsilon * np.arange(size) / (size - 1)
  np.put_along_axis(
    shift, descending(rows), steps[None, ::-1].astype(np.float32), axis=1
  )
  return shift.reshape(deltas.shape)


def _check(stored: Stored, k: int, density: float) -> None:
  epsilon = stored.settings['epsilon'][k]
  if not (0 < density - epsilon and density + epsilon < 1):
    raise ValueError(
      f'density {density}, epsilon {epsilon}: della needs density - epsilon '
      'and density + epsilon between 0 and 1 (or density 0 or 1)'
    )


def _levels(stored: Stored, _: Mapping[str, np.ndarray]) -> np.ndarray:
  levels = np.empty(stored.stack.shape, np.uint16)
  known = stored.settings.get('density')
  for k in range(len(levels)):
    if known is not None and not 0 < known[k] < 1:
      levels[k] = 0 if known[k] >= 1 else masks.NEVER
      continue
    deltas = stored.stack[k]
    drawn = draws.uniform(stored.seed, k, stored.name, deltas.size)
    drawn = drawn.reshape(deltas.shape) * np.float32(2.0**-draws.BITS)
    least = drawn + _shift(stored, k)  # kept where less than the density
    if known is not None:
      _check(stored, k, known[k])
      levels[k] = np.where(least < known[k], 0, masks.NEVER)
    else:
      levels[k] = np.clip(np.floor(least * DENSITIES), 0, DENSITIES - 1)
  return levels


LEVEL = Fact('level', _levels)
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
)
