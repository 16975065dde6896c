"""Karcher mean on the sphere: https://arxiv.org/abs/2603.04972.

As in mergekit 0.1.5: the point with the least sum of squared angles to the
unit vectors of all models, found by gradient steps, times the mean norm. It
lies in the models' span, so its steps run on their inner products, and the
merge is a weighted sum.
"""

from collections.abc import Mapping

import numpy as np

from automerge_jax.merging.facts import gram
from automerge_jax.merging.methods import linear
from automerge_jax.types import Array, Fact, MergeMethod, Parameter, Stored

_OPPOSITE = 1e-6  # sine of an angle near π, which no direction leads along


def merge(
  coefficients: Mapping[str, Array],
  facts: Mapping[str, Array],
  base: Array,
  stack: Array,
) -> Array:
  """Σ a θ with the weights a of the mean; see `mean`."""
  del coefficients, base
  return linear.weighted_sum(facts['mean'], stack)


def mean(products: np.ndarray, iterations: int, tolerance: float) -> np.ndarray:
  """Weights [K] of vectors that give their Karcher mean, float64.

  Vectors shorter than `tolerance` have no direction; their norms count in the
  mean norm. Starts at the normalised mean (at the first vector if that is
  shorter than `tolerance`), ends when a step is. A vector opposite to the
  current point does not move it: mergekit's float32 follows rounding there.

  Args:
    products: inner products of the vectors, [K, K].
    iterations: steps, at most.
    tolerance: on norms, angles and steps.
  """
  norms = np.sqrt(np.diag(products))
  weights = np.zeros(len(norms))
  long = norms > tolerance
  if not long.any():
    return weights
  cosines = products[np.ix_(long, long)] / np.outer(norms[long], norms[long])
  count = len(cosines)

  def length(vector: np.ndarray) -> float:
    return float(np.sqrt(max(vector @ cosines @ vector, 0.0)))

  point = np.full(count, 1 / count)
  if length(point) < tolerance:
    point = np.eye(count)[0]
  point = point / length(point)
  for _ in range(iterations):
    to = np.clip(cosines @ point, -1.0, 1.0)
    angles = np.arccos(to)
    sines = np.sin(angles)
    still = (angles < tolerance) | (sines < _OPPOSITE)
    pull = np.where(still, 0.0, angles / np.where(still, 1.0, sines)) / count
    step = pull - (pull @ to) * point
    size = length(step)
    if size <= tolerance:
      break
    point = np.cos(size) * point + np.sin(size) / size * step
    point = point / length(point)
  weights[long] = norms.mean() * point / norms[long]
  return weights


def _mean(stored: Stored, _: Mapping[str, np.ndarray]) -> np.ndarray:
  settings = stored.settings
  iterations, tolerance = int(settings['max_iter']), settings['tol']
  found = mean(gram(stored.stack), iterations, tolerance)
  return found.astype(np.float32)


METHODS = (
  MergeMethod(
    name='karcher',
    merge=merge,
    parameters=(
      Parameter('max_iter', 10.0, False, setting=True),
      Parameter('tol', 1e-5, False, setting=True),
    ),
    stack='weights',
    facts=(Fact('mean', _mean, elementwise=False),),
  ),
)
