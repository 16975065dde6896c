"""TIES: trim, elect sign, disjoint merge: https://arxiv.org/abs/2306.01708.

Named semantics: mergekit 0.1.5. Trimming is per stored tensor and keeps exactly
⌊density n⌋ entries (at least one unless the density is 0), the lowest index
first where magnitudes tie (mergekit's unstable sort leaves that open); the sign
is elected on weighted deltas and a zero sum counts as +.
"""

from collections.abc import Mapping

import jax.numpy as jnp

from automerge_jax.merging import linear
from automerge_jax.merging.facts import DENSITIES
from automerge_jax.types import Array, MergeMethod, Parameter


def merge(
  coefficients: Mapping[str, Array],
  facts: Mapping[str, Array],
  base: Array,
  stack: Array,
) -> Array:
  """θ₀ + λ Σ w τ̂ over the entries that agree with the elected sign.

  With `normalize` the sum is divided by the weights that agree. The fact `rank`
  orders each |τ| from 0, the largest; `counts` says how many a density keeps.
  """
  axes = (slice(None),) + (None,) * (stack.ndim - 1)
  index = jnp.rint(coefficients['density'] * DENSITIES).astype(jnp.int32)
  count = jnp.take_along_axis(facts['counts'], index[:, None], 1)[:, 0]
  trimmed = jnp.where(facts['rank'] < count[axes], stack, 0.0)
  weights = coefficients['weight'][axes]
  weighted = weights * trimmed
  elected = jnp.where(linear.total_weight(weighted) >= 0, 1.0, -1.0)
  agrees = jnp.sign(weighted) == elected[None]
  mixed = linear.total_weight(jnp.where(agrees, weighted, 0.0))
  divisor = linear.total_weight(jnp.where(agrees, weights, 0.0))
  divisor = jnp.where(divisor == 0, 1.0, divisor)
  mixed = linear.normalised(mixed, divisor, coefficients['normalize'])
  return base + coefficients['lambda'] * mixed


METHOD = MergeMethod(
  name='ties',
  merge=merge,
  parameters=(
    Parameter('weight', None, True, 0.0, 1.0),
    Parameter('density', 1.0, True, 0.05, 1.0),
    Parameter('lambda', 1.0, False),
    Parameter('normalize', 1.0, False),
  ),
  stack='deltas',
  facts=('rank', 'counts'),
)
