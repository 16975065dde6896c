"""Task arithmetic: https://arxiv.org/abs/2212.04089."""

from collections.abc import Mapping

import jax.numpy as jnp

from automerge_jax.merging.methods import linear
from automerge_jax.types import Array, MergeMethod, Parameter


def merge(
  coefficients: Mapping[str, Array],
  facts: Mapping[str, Array],
  base: Array,
  stack: Array,
) -> Array:
  """θ₀ + λ Σ w τ, the sum divided by Σ w with `normalize`.

  A Σ w below 1e-8 divides nothing, as in mergekit.
  """
  del facts
  weights = coefficients['weight']
  total = linear.total_weight(weights)
  mixed = linear.normalised(
    linear.weighted_sum(weights, stack),
    jnp.where(jnp.abs(total) < 1e-8, 1.0, total),
    coefficients['normalize'],
  )
  return base + coefficients['lambda'] * mixed


METHODS = (
  MergeMethod(
    name='task_arithmetic',
    merge=merge,
    parameters=(
      Parameter('weight', None, True, 0.0, 1.5),
      Parameter('lambda', 1.0, False),
      Parameter('normalize', 0.0, False),
    ),
    stack='deltas',
  ),
)
