"""DARE: drop at random and rescale: https://arxiv.org/abs/2311.03099.

mergekit 0.1.5 rescales so that Σ|τ| of each tensor stays what it was, the paper
by 1 / density. Masks come from `draws.py` and the recipe's seed; mergekit's own
cannot be had again, so the two agree in law only.
"""

from automerge_jax.merging.methods import masks, sparse

METHODS = tuple(
  sparse.method(
    f'dare_{mix}',
    masks.BERNOULLI,
    scale,
    consensus=mix == 'ties',
    normalize=False,
    rescale=True,
    densities=(0.05, 1.0),
    semantics=semantics,
  )
  for semantics, scale in (
    ('mergekit-0.1.5', masks.L1_SCALE),
    ('paper', masks.INVERSE_DENSITY),
  )
  for mix in ('linear', 'ties')
)
