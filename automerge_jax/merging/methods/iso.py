"""Isotropic merging, Iso-C and Iso-CTS: https://arxiv.org/abs/2502.04959.

Every direction of the merged delta gets the same singular value, the mean. Of
deltas without full rank, as of LoRA adapters, only the directions count that
are there, in the mean, too: published for full rank, where that is the same, it
would else fill the others with noise, or shrink the merged delta to nothing.
"""

import numpy as np

from automerge_jax.merging.methods import spectral
from automerge_jax.types import Parameter, Stored


def common(stored: Stored) -> np.ndarray:
  """Iso-C: the mean singular value times U Vᵀ of Σ τ, [m, n]."""
  left, values, right = spectral.svd(stored.stack.sum(0))
  there = _there(values)
  return (left * there) @ right * _mean(values, there)


def _there(values: np.ndarray) -> np.ndarray:
  """Which singular values are more than rounding errors."""
  return values > spectral.RTOL * values.max()


def _mean(values: np.ndarray, there: np.ndarray) -> np.floating:
  """Of those that are there, 0 of none."""
  return values.sum() / max(1, there.sum())


def ranks(size: int, experts: int, fraction: float) -> tuple[int, int]:
  """Common directions, and those of each expert, that fill `size` together."""
  each = round((size - int(size * fraction)) / experts)
  each = min(each, size // experts)
  return size - each * experts, each


def common_and_specific(stored: Stored) -> np.ndarray:
  """Iso-CTS: common directions of Σ τ, the others each expert's own, [m, n].

  An expert's own are the first singular triplets of what the common left
  singular vectors do not span.
  """
  stack = stored.stack
  fraction = stored.settings['common']
  if not 0 <= fraction <= 1:
    raise ValueError(f'common is {fraction}; expected a fraction, 0 to 1')
  shared, each = ranks(min(stack.shape[1:]), len(stack), fraction)
  if each == 0:
    return common(stored)
  left, values, right = spectral.svd(stack.sum(0))
  shared = min(shared, int(_there(values).sum()))
  span = left[:, :shared]
  parts = [(span, values[:shared], right[:shared])]
  for delta in stack:
    u, s, v = spectral.svd(delta - span @ (span.T @ delta))
    parts.append((u[:, :each], s[:each], v[:each]))
  us, ss, vs = zip(*parts, strict=True)
  values = np.concatenate(ss)
  there = _there(values)
  isotropic = spectral.polar(np.concatenate(us, 1)[:, there]) @ spectral.polar(
    np.concatenate(vs, 0)[there]
  )
  return isotropic * _mean(values, there)


METHODS = (
  spectral.method('iso_c', spectral.of_matrix(common)),
  spectral.method(
    'iso_cts',
    spectral.of_matrix(common_and_specific),
    (Parameter('common', 0.8, False, setting=True),),
  ),
)
