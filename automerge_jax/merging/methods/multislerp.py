"""Spherical mean of many models or task vectors (Multi-SLERP).

Source: https://goddard.blog/posts/multislerp-wow-what-a-cool-idea, as in
mergekit 0.1.5. Its step in the tangent space is zero for every input (the
weighted tangents sum to zero where they are taken), which leaves the direction
of the weighted mean of unit vectors, the weighted mean of the norms and, as
mergekit adds `eps` to the step's length, a factor of cos(eps).
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from automerge_jax.merging.facts import gram
from automerge_jax.merging.methods import linear
from automerge_jax.types import Array, Fact, MergeMethod, Parameter, Stored

_ROUNDING = 1e-6  # of the weights: what float32 cannot tell from balance


def merge(
  coefficients: Mapping[str, Array],
  facts: Mapping[str, Array],
  base: Array,
  stack: Array,
) -> Array:
  """θ₀ + cos(eps) Σ w‖v‖ · m / ‖m‖ where m = Σ w v / (‖v‖ + eps).

  A single vector comes back as it is, whatever its weight. Where unit vectors
  balance out (‖m‖ < eps; also where all are zero), the merge is Σ w v:
  mergekit does so for two and refuses more. Weights that sum to zero under
  `normalize_weights` give no finite result, as there.
  """
  if len(stack) == 1:
    return base + stack[0]
  weights, eps = coefficients['weight'], coefficients['eps']
  weights = linear.normalised(
    weights, linear.total_weight(weights), coefficients['normalize_weights']
  )
  mean = linear.weighted_sum(weights, facts['factor'].T)  # m, rotated
  length = jnp.sqrt(linear.total_weight(mean * mean))
  size = linear.total_weight(jnp.abs(weights))
  balanced = length < jnp.maximum(eps, _ROUNDING * size)
  radius = linear.total_weight(weights * facts['norm']) * jnp.cos(eps)
  scale = radius / jnp.where(balanced, 1.0, length)
  factors = weights * (scale / (facts['norm'] + eps))
  # Computed apart from the sum, or compilations differ in the last bit.
  factors = jax.lax.optimization_barrier(jnp.where(balanced, weights, factors))
  return base + linear.weighted_sum(factors, stack)


def _norm(stored: Stored, _: Mapping[str, np.ndarray]) -> np.ndarray:
  return np.sqrt(np.diag(gram(stored.stack))).astype(np.float32)


def _factor(stored: Stored, _: Mapping[str, np.ndarray]) -> np.ndarray:
  """R [K, K] with RᵀR the unit vectors' products: ‖R w‖ is ‖Σ w u‖.

  Without the cancellation of wᵀRᵀR w, which float32 would not survive.
  """
  products = gram(stored.stack)
  norms = np.sqrt(np.diag(products)) + stored.settings['eps']
  units = products / np.where(norms > 0, norms[:, None] * norms, 1.0)
  values, vectors = np.linalg.eigh(units)
  return (np.sqrt(np.maximum(values, 0))[:, None] * vectors.T).astype('f4')


METHODS = (
  MergeMethod(
    name='multislerp',
    merge=merge,
    parameters=(
      Parameter('weight', None, True, 0.0, 1.0),
      Parameter('normalize_weights', 1.0, False),
      Parameter('eps', 1e-8, False, setting=True),
    ),
    stack='either',
    facts=(
      Fact('norm', _norm, elementwise=False),
      Fact('factor', _factor, elementwise=False),
    ),
  ),
)
