"""Dynamic Fisher-weighted merging: https://arxiv.org/abs/2504.18992.

Each expert's task vector is scaled, and entries are weighted with the Fisher
information at the scaled parameters. A search measures it anew for every
candidate; a recipe names the folders in which it was kept.
"""

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np

from automerge_jax.merging.methods import fisher, linear
from automerge_jax.types import Array, Fact, MergeMethod, Parameter, Stored


def _information(stored: Stored, _: Mapping[str, np.ndarray]) -> np.ndarray:
  if 'fisher' not in stored.statistics:  # tensors that all models share
    return np.ones(stored.stack.shape, np.float32)
  return fisher.checked(stored)


def merge(
  coefficients: Mapping[str, Array],
  facts: Mapping[str, Array],
  base: Array,
  stack: Array,
) -> Array:
  """θ₀ + K Σ F λ τ / Σ F; θ₀ + Σ λ τ where Σ F is 0."""
  weights = coefficients['weight']
  scaled = weights[(slice(None),) + (None,) * (stack.ndim - 1)] * stack
  mass = linear.total_weight(facts['fisher'])
  # Shares first: information may be as small as squares of float32 allow.
  shares = facts['fisher'] / jnp.where(mass > 0, mass, 1.0)[None]
  informed = linear.total_weight(shares * scaled) * len(stack)
  return base + jnp.where(mass > 0, informed, linear.total_weight(scaled))


METHODS = (
  MergeMethod(
    name='df_merge',
    merge=merge,
    parameters=(Parameter('weight', None, True, 0.0, 1.0),),
    stack='deltas',
    facts=(Fact('fisher', _information),),
    semantics='paper',
    statistics=('fisher',),
    dynamic=True,
  ),
)
