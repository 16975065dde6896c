"""Weighted average of weights (model soups): https://arxiv.org/abs/2203.05482."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from automerge_jax.types import Array, MergeMethod, Parameter


def weighted_sum(weights: Array, stack: Array) -> Array:
  """Sum over K of weights [K] times stack [K, ...], in the order of K.

  Written out so that every compilation adds in the same order: a merge by
  tensor and a merge of stacked layers then agree bit for bit.
  """
  total = weights[0] * stack[0]
  for k in range(1, stack.shape[0]):
    total = total + weights[k] * stack[k]
  return total


def total_weight(weights: Array) -> Array:
  """Sum over K in order, [] or [...]."""
  total = weights[0]
  for k in range(1, weights.shape[0]):
    total = total + weights[k]
  return total


def merge(
  coefficients: Mapping[str, Array],
  facts: Mapping[str, Array],
  base: Array,
  stack: Array,
) -> Array:
  """Σ w θ / Σ w, or Σ w θ without `normalize`; the base is no term."""
  del facts, base
  weights = coefficients['weight']
  mixed = weighted_sum(weights, stack)
  return normalised(mixed, total_weight(weights), coefficients['normalize'])


def normalised(mixed: Array, divisor: Array, normalize: Array) -> Array:
  """`mixed / divisor` where `normalize` is not 0, else `mixed`.

  Multiplies by the reciprocal: XLA does so by itself for a divisor of one
  element, but not for a tensor of one element too.
  """
  return mixed * jnp.where(normalize > 0, 1.0 / divisor, 1.0)


def spread(factors: Array, tensor: Array) -> Array:
  """Factors [..., 1] of rows or columns, one for each entry of the tensor.

  Apart from what follows: inside one loop, rows of few entries are compiled
  with other roundings than the same entries in a chunk.
  """
  if factors.size == 1:
    return factors
  return jax.lax.optimization_barrier(jnp.broadcast_to(factors, tensor.shape))


METHODS = (
  MergeMethod(
    name='linear',
    merge=merge,
    parameters=(
      Parameter('weight', None, True, 0.0, 1.0),
      Parameter('normalize', 1.0, False),
    ),
    stack='weights',
  ),
)
