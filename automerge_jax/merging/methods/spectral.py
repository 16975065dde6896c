"""Merging by singular vectors: what TSV, Iso and STAR share.

They treat matrices, tensors with two axes, by their singular values; all other
tensors are averaged. What they make of a tensor depends on checkpoints and
settings alone, so it is a fact; a search moves how much of it is added.
"""

from collections.abc import Callable, Mapping

import numpy as np

from automerge_jax.types import Array, Fact, MergeMethod, Parameter, Stored

# Singular values below this share of the largest are rounding errors of float32
# and their vectors arbitrary.
RTOL = 1e-5

_ROWS = 1 << 13  # rows that are held in float64 at once
_TALL = 4  # from this many times as many rows as columns, by the Gram matrix


def svd(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """U [m, r], singular values [r] in descending order, V transposed [r, n].

  All float32. Of a much longer than wide matrix, as an embedding, the Gram
  matrix in float64 gives them several times faster; vectors of singular values
  that it cannot tell from zero are zero.
  """
  rows, columns = matrix.shape
  if rows < columns:
    right, values, left = svd(matrix.T)
    return left.T, values, right.T
  if rows < _TALL * columns:
    return np.linalg.svd(matrix, full_matrices=False)
  squares, vectors = np.linalg.eigh(_gram(matrix))
  values = np.sqrt(np.maximum(squares[::-1], 0))
  vectors = vectors[:, ::-1]
  there = values > 1e-7 * values[0]
  left = _times(matrix, vectors * _inverse(values, there))
  return left, values.astype(np.float32), vectors.T.astype(np.float32)


def polar(matrix: np.ndarray) -> np.ndarray:
  """The nearest partial isometry, X (XᵀX)^-½, float32 [m, n].

  Directions that the matrix does not have are left out: completed at random, as
  a plain polar factor does, they would enter a merge as noise.
  """
  if matrix.shape[0] < matrix.shape[1]:
    return polar(matrix.T).T
  squares, vectors = np.linalg.eigh(_gram(matrix))
  values = np.sqrt(np.maximum(squares, 0))
  there = values > RTOL * values[-1]
  return _times(matrix, (vectors * _inverse(values, there)) @ vectors.T)


def _gram(matrix: np.ndarray) -> np.ndarray:
  """XᵀX of X [m, n], float64 [n, n]."""
  total = np.zeros((matrix.shape[1],) * 2)
  for start in range(0, len(matrix), _ROWS):
    part = matrix[start : start + _ROWS].astype(np.float64)
    total += part.T @ part
  return total


def _times(matrix: np.ndarray, factor: np.ndarray) -> np.ndarray:
  """The product with a float64 factor, float32."""
  product = np.empty((len(matrix), factor.shape[1]), np.float32)
  for start in range(0, len(matrix), _ROWS):
    product[start : start + _ROWS] = matrix[start : start + _ROWS] @ factor
  return product


def _inverse(values: np.ndarray, there: np.ndarray) -> np.ndarray:
  return np.where(there, 1 / np.where(there, values, 1), 0)


def of_matrix(rule: Callable[[Stored], np.ndarray]) -> Fact:
  """The merged delta [...]: by the rule for matrices, else the mean."""

  def compute(stored: Stored, _: Mapping[str, np.ndarray]) -> np.ndarray:
    deltas = stored.stack
    if deltas.ndim != 3 or not deltas.any():
      return deltas.mean(0)
    return np.ascontiguousarray(rule(stored), np.float32)

  return Fact('delta', compute, lead=0)


def merge(
  coefficients: Mapping[str, Array],
  facts: Mapping[str, Array],
  base: Array,
  stack: Array,
) -> Array:
  """θ₀ + λ times the merged delta."""
  del stack
  return base + coefficients['lambda'] * facts['delta']


def method(
  name: str,
  delta: Fact,
  settings: tuple[Parameter, ...] = (),
) -> MergeMethod:
  """Declares a method whose merged delta is a fact."""
  return MergeMethod(
    name=name,
    merge=merge,
    parameters=(Parameter('lambda', 1.0, False, 0.0, 2.0), *settings),
    stack='deltas',
    facts=(delta,),
    semantics='paper',
  )
