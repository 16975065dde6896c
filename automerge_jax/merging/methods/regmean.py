"""RegMean: the least-squares merge of linear layers.

The merged layer's outputs are as near as possible to each expert's on that
expert's own inputs: https://arxiv.org/abs/2212.09849. All other tensors are
averaged.
"""

from collections.abc import Mapping

import numpy as np

from automerge_jax.merging.methods import orientation, spectral
from automerge_jax.types import Fact, MergeMethod, Parameter, Stored


def solve(
  stack: np.ndarray,
  grams: np.ndarray,
  weights: np.ndarray,
  reduction: float,
  ridge: float,
) -> np.ndarray:
  """(Σ w W G̃) (Σ w G̃)⁻¹ for W [K, out, in] and Gram matrices [K, in, in].

  G̃ is the Gram matrix with its off-diagonal entries times `reduction`. A ridge,
  in mean diagonal entries of Σ w G̃, pulls towards the weighted mean of W.

  Returns:
    float32 [out, in].
  """
  mean = np.tensordot(weights / weights.sum(), stack.astype(np.float64), 1)
  total = np.zeros(grams.shape[1:])
  pull = np.zeros(mean.shape)
  for weight, matrix, gram in zip(weights, stack, grams, strict=True):
    reduced = gram.astype(np.float64) * (weight * reduction)
    np.fill_diagonal(reduced, np.diag(gram) * weight)
    total += reduced
    pull += (matrix - mean) @ reduced
  scale = np.trace(total) / len(total)
  if scale == 0:
    return mean.astype(np.float32)
  total[np.diag_indices_from(total)] += ridge * scale
  import scipy.linalg  # a tenth of a second, which few merges need

  moved = scipy.linalg.solve(total, pull.T, assume_a='pos').T
  return (mean + moved).astype(np.float32)


def _merged(stored: Stored, _: Mapping[str, np.ndarray]) -> np.ndarray:
  settings, stack = stored.settings, stored.stack
  weights = np.asarray(settings['weight'], np.float64)
  if weights.sum() <= 0 or weights.min() < 0:
    raise ValueError(
      f'weights are {weights.tolist()}; expected 0 or more, and not all 0'
    )
  if not 0 <= settings['reduction'] <= 1 or settings['ridge'] < 0:
    raise ValueError(
      f'reduction is {settings["reduction"]}, ridge {settings["ridge"]}; '
      'expected a reduction from 0 to 1 and a ridge of 0 or more'
    )
  if 'gram' not in stored.statistics:
    shares = (weights / weights.sum()).astype(np.float32)
    return np.tensordot(shares, stack, 1)
  axis = orientation.in_axis(stored.name, stack.shape[1:], settings['in_axis'])
  grams = np.asarray(stored.statistics['gram'])
  if stack.ndim != 3 or grams.shape[1:] != (stack.shape[axis],) * 2:
    raise ValueError(
      f'Gram matrices of {stored.name!r} are {grams.shape[1:]}, but the tensor '
      f'{stack.shape[1:]} has its inputs on axis {axis}; measure the experts '
      'again or set in_axis'
    )
  if axis == -2:
    stack = stack.swapaxes(1, 2)
  try:
    merged = solve(
      stack, grams, weights, settings['reduction'], settings['ridge']
    )
  except np.linalg.LinAlgError as error:
    raise ValueError(
      f'Gram matrices of {stored.name!r} add up to a singular one; set ridge '
      'above 0 or reduction below 1'
    ) from error
  return np.ascontiguousarray(merged.T) if axis == -2 else merged


METHODS = (
  MergeMethod(
    name='regmean',
    merge=spectral.merge,
    parameters=(
      Parameter('lambda', 1.0, False, 0.0, 1.5),
      Parameter('weight', 1.0, True, setting=True),
      Parameter('reduction', 0.9, False, setting=True),
      Parameter('ridge', 1e-6, False, setting=True),
      orientation.IN_AXIS,
    ),
    stack='either',
    facts=(Fact('delta', _merged, lead=0),),
    semantics='paper',
    statistics=('gram',),
  ),
)
