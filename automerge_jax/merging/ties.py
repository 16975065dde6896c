"""TIES: trim, elect sign, disjoint merge: https://arxiv.org/abs/2306.01708.

mergekit 0.1.5 trims per stored tensor to exactly ⌊density n⌋ entries (at least
one unless the density is 0), elects on weighted deltas and counts a zero sum as
+. Which of equal magnitudes stay its unstable sort leaves open; here the lowest
index comes first.
"""

from automerge_jax.merging import masks, sparse

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
)
