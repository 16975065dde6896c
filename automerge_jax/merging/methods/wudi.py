"""WUDI-Merging, in closed form: https://arxiv.org/abs/2503.08099.

The rows of an expert's change span the inputs that it was trained on, so the
merged change M shall do to them what the expert's does: it minimises
Σ ‖(M - τ) τᵀ‖² / ‖τ‖² over matrices (out, in). The published method takes some
steps of Adam from Σ τ and stops early; here is the minimum itself, with a pull
towards Σ τ. Without it, directions that experts hardly changed are amplified
until they dominate: accuracies of merged encoders fell to chance.
"""

from collections.abc import Mapping

import numpy as np

from automerge_jax.merging.methods import orientation, spectral
from automerge_jax.types import Fact, Parameter, Stored

_ROUNDING = 1e-12  # share of the largest eigenvalue, in float64


def closed_form(deltas: np.ndarray, ridge: float) -> np.ndarray:
  """The minimum for deltas [K, out, in], float32 [out, in].

  Args:
    deltas: changes of the experts; those that are zero have no term.
    ridge: strength of ‖M - Σ τ‖², in mean eigenvalues of Σ τᵀτ / ‖τ‖².
  """
  start = deltas.sum(0, dtype=np.float64)
  curvature = np.zeros((deltas.shape[2], deltas.shape[2]))
  pull = np.zeros(start.shape)
  for delta in deltas.astype(np.float64):
    norm = np.square(delta).sum()
    if norm > 0:
      term = delta.T @ delta / norm
      curvature += term
      pull += (delta - start) @ term
  values, vectors = np.linalg.eigh(curvature)
  reached = values > _ROUNDING * values[-1]
  inverse = np.where(
    reached, 1 / np.where(reached, values + ridge * values.mean(), 1), 0
  )
  moved = (pull @ vectors * inverse) @ vectors.T
  return (start + moved).astype(np.float32)


def _delta(stored: Stored, _: Mapping[str, np.ndarray]) -> np.ndarray:
  settings, stack = stored.settings, stored.stack
  if settings['ridge'] < 0:
    raise ValueError(f'ridge is {settings["ridge"]}; expected 0 or more')
  shape = stack.shape[1:]
  if not stack.any() or not orientation.is_linear(stored.name, shape):
    return stack.mean(0) * np.float32(settings['others'])
  if orientation.in_axis(stored.name, shape, settings['in_axis']) == -1:
    return closed_form(stack, settings['ridge'])
  merged = closed_form(stack.swapaxes(1, 2), settings['ridge'])
  return np.ascontiguousarray(merged.T)


METHODS = (
  spectral.method(
    'wudi',
    Fact('delta', _delta, lead=0),
    (
      Parameter('ridge', 0.1, False, setting=True),
      # Factor of the mean change of all that is no linear layer; the published
      # code leaves these at the base.
      Parameter('others', 1.0, False, setting=True),
      orientation.IN_AXIS,
    ),
  ),
)
