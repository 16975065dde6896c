"""Model Stock: https://arxiv.org/abs/2403.19522.

The closer the task vectors point together, the further from the base: with the
mean cosine c of their pairs, t = K c / (1 + (K - 1) c) of their mean is added.
Per tensor, or with `filter_wise` per row (last axis).

mergekit 0.1.5 takes products of norms as at least 1e-6, so that small task
vectors count as orthogonal and the base comes back, and lets t be negative,
beyond the base, as far as 1 + (K - 1) c stays above 1e-6. `paper` does neither:
norms have no floor and c is at least 0.
"""

import functools
from collections.abc import Mapping

import numpy as np

from automerge_jax.merging.facts import gram, inner
from automerge_jax.types import Array, Fact, MergeMethod, Parameter, Stored


def merge(
  coefficients: Mapping[str, Array],
  facts: Mapping[str, Array],
  base: Array,
  stack: Array,
) -> Array:
  """θ₀ + t mean(τ)."""
  del coefficients, stack
  return base + facts['step']


def ratio(cosines: np.ndarray, count: int, paper: bool) -> np.ndarray:
  """t of mean cosines."""
  if paper:
    cosines = np.maximum(cosines, 0.0)
  divisor = 1 + (count - 1) * cosines
  small = np.abs(divisor) < 1e-6
  return np.where(small, 0, count * cosines / np.where(small, 1, divisor))


def _step(
  stored: Stored, _: Mapping[str, np.ndarray], paper: bool
) -> np.ndarray:
  """t mean(τ), float32 [...]; a compiler cannot fuse it with the last sum."""
  stack = stored.stack
  count, tensor = len(stack), stack[0]
  if stored.settings['filter_wise'] and tensor.ndim:
    products = {
      (i, j): inner(stack[i], stack[j], -1)
      for i in range(count)
      for j in range(i, count)
    }
    shape = (*tensor.shape[:-1], 1)
  else:
    table = gram(stack)
    products = {(i, j): table[i, j] for i in range(count) for j in range(count)}
    shape = (1,) * tensor.ndim
  total = np.zeros(shape)
  for i in range(count):
    for j in range(i + 1, count):
      norms = np.sqrt(products[i, i] * products[j, j])
      norms = np.where(norms > 0, norms, 1.0) if paper else norms.clip(1e-6)
      total += np.clip(products[i, j] / norms, -1, 1).reshape(shape)
  cosines = total / (count * (count - 1) / 2)
  share = ratio(cosines, count, paper).astype(np.float32)
  return share * (stack.sum(0) / np.float32(count))


METHODS = tuple(
  MergeMethod(
    name='model_stock',
    merge=merge,
    parameters=(Parameter('filter_wise', 0.0, False, setting=True),),
    stack='deltas',
    facts=(Fact('step', functools.partial(_step, paper=paper), lead=0),),
    sources=(2, None),
    semantics='paper' if paper else 'mergekit-0.1.5',
  )
  for paper in (False, True)
)
