"""MagMax: of each entry the largest change: https://arxiv.org/abs/2407.06322."""

from collections.abc import Mapping

import jax.numpy as jnp

from automerge_jax.types import Array, MergeMethod, Parameter


def merge(
  coefficients: Mapping[str, Array],
  facts: Mapping[str, Array],
  base: Array,
  stack: Array,
) -> Array:
  """θ₀ + λ τ of the expert whose |τ| is largest; the first of equal ones."""
  del facts
  largest = stack[0]
  for delta in stack[1:]:
    largest = jnp.where(jnp.abs(delta) > jnp.abs(largest), delta, largest)
  return base + coefficients['lambda'] * largest


METHODS = (
  MergeMethod(
    name='magmax',
    merge=merge,
    parameters=(Parameter('lambda', 1.0, False, 0.0, 1.5),),
    stack='deltas',
    semantics='paper',
  ),
)
