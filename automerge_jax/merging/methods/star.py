"""STAR: spectral truncation and rescale: https://arxiv.org/abs/2502.10339."""

from collections.abc import Mapping

import numpy as np

from automerge_jax.merging.methods import spectral, task_arithmetic
from automerge_jax.types import Array, Fact, MergeMethod, Parameter, Stored


def truncated(delta: np.ndarray, eta: float) -> np.ndarray:
  """The fewest triplets that hold a share `eta` of Σ σ, scaled to all of it."""
  left, values, right = spectral.svd(delta)
  held = np.cumsum(values, dtype=np.float64)
  if held[-1] == 0:
    return delta
  count = int(np.searchsorted(held, held[-1] * eta)) + 1
  kept = values[:count] * (held[-1] / held[count - 1])
  return (left[:, :count] * kept.astype(np.float32)) @ right[:count]


def _denoised(stored: Stored, _: Mapping[str, np.ndarray]) -> np.ndarray:
  eta = stored.settings['eta']
  if not 0 < eta <= 1:
    raise ValueError(f'eta is {eta}; expected a share, above 0 and up to 1')
  if stored.stack.ndim != 3:
    return stored.stack
  return np.stack([truncated(delta, eta) for delta in stored.stack])


def merge(
  coefficients: Mapping[str, Array],
  facts: Mapping[str, Array],
  base: Array,
  stack: Array,
) -> Array:
  """θ₀ + λ Σ w τ̂, the sum divided by Σ w with `normalize`."""
  del stack
  return task_arithmetic.merge(coefficients, {}, base, facts['denoised'])


METHODS = (
  MergeMethod(
    name='star',
    merge=merge,
    parameters=(
      Parameter('weight', 1.0, True, 0.0, 1.5),
      Parameter('eta', 0.4, False, setting=True),
      Parameter('lambda', 1.0, False),
      Parameter('normalize', 1.0, False),
    ),
    stack='deltas',
    facts=(Fact('denoised', _denoised),),
    semantics='paper',
  ),
)
