"""TALL masks and Consensus task arithmetic: https://arxiv.org/abs/2405.07813.

An entry matters to an expert where its own change outweighs what the others add
to the sum of all: m = [ |τ| > threshold |Σ τ - τ| ]. Consensus keeps entries of
the sum that matter to at least `k` experts; k = 2 drops what matters to none
and what matters to one alone. A TALL mask keeps what matters to one task.
"""

from collections.abc import Mapping

import jax.numpy as jnp

from automerge_jax.merging.methods import linear
from automerge_jax.types import Array, MergeMethod, Parameter


def matters(threshold: Array, delta: Array, total: Array) -> Array:
  """Mask [...] of one expert, of its change and the sum of all."""
  return jnp.abs(delta) > threshold * jnp.abs(total - delta)


def merge(
  coefficients: Mapping[str, Array],
  facts: Mapping[str, Array],
  base: Array,
  stack: Array,
) -> Array:
  """θ₀ + λ [Σ m ≥ k] ⊙ Σ τ."""
  del facts
  total = linear.total_weight(stack)
  count = sum(
    matters(threshold, delta, total).astype(jnp.float32)
    for threshold, delta in zip(coefficients['threshold'], stack, strict=True)
  )
  kept = jnp.where(count >= coefficients['k'], total, 0.0)
  return base + coefficients['lambda'] * kept


def merge_for_task(
  coefficients: Mapping[str, Array],
  facts: Mapping[str, Array],
  base: Array,
  stack: Array,
) -> Array:
  """θ₀ + λ m ⊙ Σ τ, with m the mask of the expert at index `task`."""
  del facts
  total = linear.total_weight(stack)
  task = coefficients['task'].astype(jnp.int32)
  mask = matters(coefficients['threshold'][task], stack[task], total)
  return base + coefficients['lambda'] * jnp.where(mask, total, 0.0)


_THRESHOLD = Parameter('threshold', 0.4, True, 0.2, 0.6)
_LAMBDA = Parameter('lambda', 1.0, False, 0.0, 1.5)

METHODS = (
  MergeMethod(
    name='consensus',
    merge=merge,
    parameters=(_THRESHOLD, Parameter('k', 2.0, False), _LAMBDA),
    stack='deltas',
    semantics='paper',
  ),
  MergeMethod(
    name='tall_mask',
    merge=merge_for_task,
    parameters=(_THRESHOLD, Parameter('task', 0.0, False), _LAMBDA),
    stack='deltas',
    semantics='paper',
  ),
)
