"""Model Breadcrumbs: drop both tails: https://arxiv.org/abs/2312.06795.

mergekit 0.1.5's rule, per stored tensor: the ⌊γ n⌋ entries of largest magnitude
go, and of the smallest so many that ⌊density n⌋ stay. `breadcrumbs_ties` elects
a sign besides.
"""

from automerge_jax.merging import masks, sparse
from automerge_jax.types import Parameter

METHODS = tuple(
  sparse.method(
    name,
    masks.MAGNITUDE,
    masks.L1_SCALE,
    consensus=name == 'breadcrumbs_ties',
    normalize=False,
    rescale=False,
    densities=(0.05, 0.99),
    further=(Parameter('gamma', 0.01, True, setting=True),),
  )
  for name in ('breadcrumbs', 'breadcrumbs_ties')
)
