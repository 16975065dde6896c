"""Compares `search.fronts` with what pymoo and moocore made of random sets."""

import itertools

import numpy as np

from automerge_jax.search import fronts


def compare(recorded) -> int:
  """Number of sets that agree; see tests/oracle/fronts_peer.py."""
  for i in itertools.count():
    if f'values{i}' not in recorded:
      return i
    values = recorded[f'values{i}']
    level = fronts.fronts(values)
    np.testing.assert_array_equal(level, recorded[f'front{i}'])
    for number in range(level.max() + 1):
      mine = level == number
      np.testing.assert_allclose(
        fronts.crowding(values[mine]),
        recorded[f'crowding{i}'][mine],
        rtol=1e-12,
      )
    np.testing.assert_array_equal(
      fronts.fronts(values, recorded[f'violation{i}']),
      _levels(recorded[f'relation{i}'] == 1),
    )
    np.testing.assert_allclose(
      fronts.hypervolume(values, recorded[f'reference{i}']),
      recorded[f'volume{i}'],
      rtol=1e-9,
      atol=1e-15,
    )


def _levels(dominates: np.ndarray) -> np.ndarray:
  """Length of the longest chain above each row."""
  levels = np.zeros(len(dominates), int)
  for _ in levels:
    above = np.where(dominates, levels[:, None] + 1, 0)
    levels = above.max(0, initial=0)
  return levels
