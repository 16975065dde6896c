"""Arcee Fusion: takes over the entries that matter most, https://arcee.ai.

As in mergekit 0.1.5: an entry of importance |τ| · KL(row) is copied from the
expert where it reaches the median plus 1.5 interquartile ranges. The
divergence is that of a row's softmax in the expert from its softmax in the
base, with 1e-8 added to probabilities.

Here all is exact in float64. mergekit draws 10⁶ entries at random for the
quantiles of larger tensors; and its float32 divergence is rounding for task
vectors below about 1e-3 of the weights, which then decides what is copied.
"""

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np

from automerge_jax.types import Array, Fact, MergeMethod, Stored

_PART = 1 << 18
_SMALL = 1e-8


def merge(
  coefficients: Mapping[str, Array],
  facts: Mapping[str, Array],
  base: Array,
  stack: Array,
) -> Array:
  """θ₀ + τ where copied."""
  del coefficients
  return base + jnp.where(facts['copied'], stack[0], 0.0)


def importance(base: np.ndarray, delta: np.ndarray) -> np.ndarray:
  """|τ| times its row's divergence, float32 like both [rows, columns]."""
  found = np.empty(delta.shape, np.float32)
  rows = max(1, _PART // max(1, delta.shape[1]))
  for start in range(0, len(delta), rows):
    part = slice(start, start + rows)
    ours = base[part].astype(np.float64)
    moved = delta[part].astype(np.float64)
    p, q = _softmax(ours + moved), _softmax(ours)
    gain = p * (np.log(p + _SMALL) - np.log(q + _SMALL))
    found[part] = np.abs(moved) * gain.sum(axis=1, keepdims=True)
  return found


def threshold(values: np.ndarray) -> float:
  """Median plus 1.5 interquartile ranges; quantiles are the entries below."""
  last = values.size - 1
  at = [last // 4, last // 2, 3 * last // 4]
  ordered = np.partition(values.reshape(-1), at)
  first, median, third = (float(ordered[i]) for i in at)
  return median + 1.5 * (third - first)


def _copied(stored: Stored, _: Mapping[str, np.ndarray]) -> np.ndarray:
  delta = stored.stack[0]
  columns = delta.shape[-1] if delta.ndim else 1
  found = importance(
    stored.base.reshape(-1, columns), delta.reshape(-1, columns)
  )
  return (found >= threshold(found)).reshape(delta.shape)


def _softmax(rows: np.ndarray) -> np.ndarray:
  exponents = np.exp(rows - rows.max(axis=1, keepdims=True))
  return exponents / exponents.sum(axis=1, keepdims=True)


METHODS = (
  MergeMethod(
    name='arcee_fusion',
    merge=merge,
    parameters=(),
    stack='deltas',
    facts=(Fact('copied', _copied, lead=0),),
    sources=(1, 1),
  ),
)
