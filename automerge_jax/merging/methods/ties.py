"""TIES: trim, elect sign, disjoint merge: https://arxiv.org/abs/2306.01708.

mergekit 0.1.5 trims per stored tensor to exactly ⌊density n⌋ entries (at least
one unless the density is 0), elects on weighted deltas and counts a zero sum as
+. Which of equal magnitudes stay its unstable sort leaves open; here the lowest
index comes first.

The paper trims over the whole model: what is as large as the ⌊density n⌋-th
largest entry stays, equal ones too (its code keeps one more). Weights are 1
unless stated. Its code gives entries whose sum is exactly zero the sign of the
model's majority; here they count as +.
"""

import numpy as np

from automerge_jax.merging.methods import masks, sparse, thresholds
from automerge_jax.types import Fact, Stored


def _over_the_model(stored: Stored, _) -> np.ndarray:
  limits = stored.whole['thresholds']  # [K, 1] or [K, 1001]
  magnitude = np.abs(stored.stack)
  if 'density' in stored.settings:
    shape = (-1, *(1,) * (magnitude.ndim - 1))
    mask = magnitude >= limits[:, 0].reshape(shape)
    return masks.without_zeros(mask, stored.stack)
  # Thresholds fall as densities rise: the first that an entry reaches.
  levels = [
    np.searchsorted(-row[1:], -entries)
    for row, entries in zip(limits, magnitude, strict=True)
  ]
  found = np.stack(levels).astype(masks.LEVEL)
  return masks.without_zeros(found, stored.stack)


METHODS = (
  sparse.method(
    'ties',
    masks.MAGNITUDE,
    masks.L1_SCALE,
    consensus=True,
    normalize=True,
    rescale=False,
    densities=(0.05, 1.0),
  ),
  sparse.method(
    'ties',
    Fact('level', _over_the_model, itemsize=1),
    masks.INVERSE_DENSITY,
    consensus=True,
    normalize=True,
    rescale=False,
    densities=(0.05, 1.0),
    semantics='paper',
    weight=1.0,
    whole=thresholds.of_densities,
  ),
)
