"""Fisher merging: https://arxiv.org/abs/2111.09832.

Each entry is an average of the experts', weighted with how sure each expert's
predictions make it: the diagonal of its Fisher information, measured at its own
parameters.
"""

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np

from automerge_jax.merging.methods import linear
from automerge_jax.types import Array, Fact, MergeMethod, Parameter, Stored


def _information(stored: Stored, _: Mapping[str, np.ndarray]) -> np.ndarray:
  if 'fisher' not in stored.statistics:
    raise ValueError(
      f'no Fisher information of {stored.name!r}; measure the experts that '
      'hold this tensor with experiments.statistics'
    )
  fisher = checked(stored)
  if stored.settings['unit_norm']:
    norm = np.asarray(stored.statistics['fisher_norm'], np.float64)
    axes = (slice(None),) + (None,) * (fisher.ndim - 1)
    scale = 1 / np.where(norm > 0, norm, 1.0)
    fisher = fisher * scale.astype(np.float32)[axes]
  return np.maximum(fisher, np.float32(stored.settings['floor']))


def checked(stored: Stored) -> np.ndarray:
  """Information [K, ...] of a tensor that has it.

  Raises:
    ValueError: if it is of another shape.
  """
  fisher = np.asarray(stored.statistics['fisher'], np.float32)
  if fisher.shape != stored.stack.shape:
    raise ValueError(
      f'Fisher information of {stored.name!r} has shape {fisher.shape[1:]}, '
      f'the tensor {stored.stack.shape[1:]}; measure the experts again'
    )
  return fisher


def merge(
  coefficients: Mapping[str, Array],
  facts: Mapping[str, Array],
  base: Array,
  stack: Array,
) -> Array:
  """θ₀ + λ Σ w F τ / Σ w F; the weighted mean of τ where Σ w F is 0.

  Without a base, θ₀ is 0 and τ the weights. Where Σ w is 0 too, θ₀.
  """
  weights = coefficients['weight']
  scaled = (
    weights[(slice(None),) + (None,) * (stack.ndim - 1)] * facts['fisher']
  )
  mass, total = linear.total_weight(scaled), linear.total_weight(weights)
  informed = linear.weighted_sum(scaled, stack) / jnp.where(mass > 0, mass, 1.0)
  plain = linear.weighted_sum(weights, stack) / jnp.where(total > 0, total, 1.0)
  return base + coefficients['lambda'] * jnp.where(mass > 0, informed, plain)


METHODS = (
  MergeMethod(
    name='fisher',
    merge=merge,
    parameters=(
      Parameter('weight', 1.0, True, 0.0, 1.0),
      Parameter('lambda', 1.0, False),
      # Whether each expert's information has norm 1 over the whole model.
      Parameter('unit_norm', 1.0, False, setting=True),
      Parameter('floor', 1e-6, False, setting=True),
    ),
    stack='either',
    facts=(Fact('fisher', _information),),
    semantics='paper',
    statistics=('fisher', 'fisher_norm'),
  ),
)
