"""TSV-Merge: task singular vectors: https://arxiv.org/abs/2412.00081."""

import numpy as np

from automerge_jax.merging.methods import spectral
from automerge_jax.types import Stored


def delta(stored: Stored) -> np.ndarray:
  """U⊥ Σ V⊥ᵀ of the first ⌊r / K⌋ triplets of each expert, [m, n].

  U⊥ and V⊥ are the polar factors of all experts' singular vectors side by side,
  which takes away how the experts interfere. Matrices of fewer rows or columns
  than experts are averaged.
  """
  stack = stored.stack
  count = min(stack.shape[1:]) // len(stack)
  if count == 0:
    return stack.mean(0)
  left, values, right = zip(*map(spectral.svd, stack), strict=True)
  u = spectral.polar(np.concatenate([part[:, :count] for part in left], 1))
  v = spectral.polar(np.concatenate([part[:count] for part in right], 0))
  return (u * np.concatenate([part[:count] for part in values])) @ v


METHODS = (spectral.method('tsv_m', spectral.of_matrix(delta)),)
