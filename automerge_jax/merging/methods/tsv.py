"""TSV-Merge: task singular vectors: https://arxiv.org/abs/2412.00081."""

from collections.abc import Mapping

import numpy as np

from automerge_jax.merging.methods import linear, spectral
from automerge_jax.merging.remembered import remembered
from automerge_jax.types import Array, Fact, MergeMethod, Parameter


@remembered
def parts(stack: np.ndarray) -> np.ndarray:
  """U⊥ₖ Σₖ V⊥ₖᵀ of the first ⌊r / K⌋ triplets of each expert, [K, m, n].

  U⊥ and V⊥ are the polar factors of all experts' singular vectors side by side,
  which takes away how the experts interfere; the published merge is the sum.
  What is no matrix, or has fewer rows or columns than there are experts, is
  averaged.

  Args:
    stack: deltas [K, ...].
  """
  experts = len(stack)
  count = min(stack.shape[1:]) // experts if stack.ndim == 3 else 0
  if count == 0 or not stack.any():
    return stack / np.float32(experts)
  left, values, right = zip(*map(spectral.svd, stack), strict=True)
  u = spectral.polar(np.concatenate([part[:, :count] for part in left], 1))
  v = spectral.polar(np.concatenate([part[:count] for part in right], 0))
  u = u.reshape(len(u), experts, count).swapaxes(0, 1)
  v = v.reshape(experts, count, -1)
  return np.stack([(u[k] * values[k][:count]) @ v[k] for k in range(experts)])


def merge(
  coefficients: Mapping[str, Array],
  facts: Mapping[str, Array],
  base: Array,
  stack: Array,
) -> Array:
  """θ₀ + λ Σ w U⊥ Σ V⊥ᵀ; weights other than 1 are an extension."""
  del stack
  added = linear.weighted_sum(coefficients['weight'], facts['parts'])
  return base + coefficients['lambda'] * added


METHODS = (
  MergeMethod(
    name='tsv_m',
    merge=merge,
    parameters=(
      Parameter('weight', 1.0, True, 0.0, 2.0),
      Parameter('lambda', 1.0, False),
    ),
    stack='deltas',
    facts=(Fact('parts', lambda stored, _: parts(stored.stack)),),
    semantics='paper',
  ),
)
