"""Reinforced agent merging, RAM and RAM+: https://arxiv.org/abs/2601.13572.

For sparse task vectors, as mergekit 0.1.5's `ram` and `ramplus_tl`: what one
expert alone changed is kept in full, what several changed is averaged among
them. RAM+ strengthens an expert's own entries where many of its changes are
shared, counted within the tensor.
"""

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np

from automerge_jax.merging.methods import linear
from automerge_jax.types import Array, Fact, MergeMethod, Parameter, Stored

_PART = 1 << 20


def merge(
  coefficients: Mapping[str, Array],
  facts: Mapping[str, Array],
  base: Array,
  stack: Array,
) -> Array:
  """θ₀ + Σ λ τ where one |τ| exceeds epsilon, mean of those that do elsewhere.

  λ = 1 + r min(shared / own entries, alpha) of an expert in RAM+, 1 in RAM.
  """
  active = jnp.abs(stack) > coefficients['epsilon']
  count = linear.total_weight(jnp.where(active, 1.0, 0.0))
  changed = jnp.where(active, stack, 0.0)
  total = linear.total_weight(changed)
  alone = total
  if 'r' in coefficients:
    share = jnp.minimum(facts['overlap'], coefficients['alpha'])
    alone = linear.weighted_sum(1.0 + coefficients['r'] * share, changed)
  averaged = total / jnp.maximum(count, 1.0)
  return base + jnp.where(count == 1, alone, averaged)


def _overlap(stored: Stored, _: Mapping[str, np.ndarray]) -> np.ndarray:
  """Shared entries by own entries of each expert, float32 [K].

  Where an expert has no entries of its own mergekit divides by epsilon.
  """
  epsilon = stored.settings['epsilon']
  flat = stored.stack.reshape(len(stored.stack), -1)
  shared, own = np.zeros((2, len(flat)))
  for start in range(0, flat.shape[1], _PART):
    active = np.abs(flat[:, start : start + _PART]) > np.float32(epsilon)
    count = active.sum(axis=0)
    shared += (active & (count > 1)).sum(axis=1)
    own += (active & (count == 1)).sum(axis=1)
  least = max(epsilon, np.finfo(np.float32).tiny)
  return (shared / np.maximum(own, least)).clip(max=1e30).astype(np.float32)


_EPSILON = Parameter('epsilon', 1e-5, False, setting=True)
METHODS = (
  MergeMethod(name='ram', merge=merge, parameters=(_EPSILON,), stack='deltas'),
  MergeMethod(
    name='ramplus_tl',
    merge=merge,
    parameters=(
      Parameter('r', 0.1, False, 0.0, 1.0),
      Parameter('alpha', 0.2, False, 0.0, 1.0),
      _EPSILON,
    ),
    stack='deltas',
    facts=(Fact('overlap', _overlap, elementwise=False),),
  ),
)
