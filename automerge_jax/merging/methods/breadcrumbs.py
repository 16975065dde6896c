"""Model Breadcrumbs: drop both tails: https://arxiv.org/abs/2312.06795.

mergekit 0.1.5's rule, per stored tensor: the ⌊γ n⌋ entries of largest magnitude
go, and of the smallest so many that ⌊density n⌋ stay. `breadcrumbs_ties` elects
a sign besides.

The paper's code goes by rows of n along the last axis (a vector is one row): it
drops the ⌊γ n⌋ largest, then keeps the ⌊density n⌋ largest of what is left.
Scalars stay.
"""

import numpy as np

from automerge_jax.merging.facts import DENSITIES, by_rank
from automerge_jax.merging.methods import masks, sparse
from automerge_jax.types import Fact, Parameter, Stored

_PART = 1 << 18  # entries at a time


def _by_rows(stored: Stored, _) -> np.ndarray:
  known = stored.settings.get('density')
  levels = np.empty(stored.stack.shape, masks.LEVEL if known is None else bool)
  if stored.stack.ndim == 1:  # scalars
    levels[:] = known is not None
    return levels
  size = stored.stack.shape[-1]
  grid = np.arange(1, DENSITIES + 1) / DENSITIES
  for k, deltas in enumerate(stored.stack):
    start = int(stored.settings['gamma'][k] * size)
    of_rank = np.full(size, masks.NEVER if known is None else False)
    if known is None:
      # The first density in thousandths whose count exceeds a rank's place.
      counts = (grid * size).astype(np.int64)
      of_rank[start:] = np.searchsorted(
        counts, np.arange(size - start), 'right'
      )
      of_rank[of_rank >= DENSITIES] = masks.NEVER
    else:
      of_rank[start : start + int(known[k] * size)] = True
    rows, found = deltas.reshape(-1, size), levels[k].reshape(-1, size)
    step = max(1, _PART // size)
    for first in range(0, len(rows), step):
      part = slice(first, first + step)
      found[part] = by_rank(rows[part], of_rank)
  return masks.without_zeros(levels, stored.stack)


METHODS = tuple(
  sparse.method(
    name,
    level,
    masks.L1_SCALE,
    consensus=name == 'breadcrumbs_ties',
    normalize=False,
    rescale=False,
    densities=(0.05, 0.99),
    further=(Parameter('gamma', 0.01, True, setting=True),),
    semantics=semantics,
  )
  for semantics, level in (
    ('mergekit-0.1.5', masks.MAGNITUDE),
    ('paper', Fact('level', _by_rows, itemsize=1)),
  )
  for name in ('breadcrumbs', 'breadcrumbs_ties')
)
