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


def svd(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """U [m, r], singular values [r] in descending order, V transposed [r, n]."""
  return np.linalg.svd(matrix, full_matrices=False)


def polar(matrix: np.ndarray) -> np.ndarray:
  """The nearest partial isometry, [m, n].

  Directions that the matrix does not have are left out: completed at random, as
  a plain polar factor does, they would enter a merge as noise.
  """
  left, values, right = svd(matrix)
  return (left * (values > RTOL * values[0])) @ right


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
