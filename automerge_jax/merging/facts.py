"""Facts of one stored tensor: what many methods share.

Selection and order among magnitudes have one tie rule: of equal magnitudes the
lowest index comes first.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from automerge_jax.types import Fact, MergeMethod, Stored

DENSITIES = 1000  # searches move densities in thousandths


def compute(method: MergeMethod, stored: Stored) -> dict[str, np.ndarray]:
  """Everything that the method wants precomputed of one tensor."""
  found: dict[str, np.ndarray] = {}
  for fact in method.facts:
    found[fact.name] = fact.compute(stored, found)
  return found


def settings(
  method: MergeMethod, values: Mapping[str, Any], count: int
) -> dict[str, Any]:
  """The values that facts may depend on: tuples [K] where per expert.

  Args:
    method: declares which parameters are settings.
    values: values by parameter; a parameter that is not there has its default.
    count: K.
  """
  found = {}
  for p in method.parameters:
    if p.setting:
      value = values.get(p.name, p.default)
      if p.per_expert and not isinstance(value, tuple | list | np.ndarray):
        value = (value,) * count
      found[p.name] = value
  return found


def known(
  method: MergeMethod, values: Mapping[str, Any], count: int
) -> dict[str, Any]:
  """The settings of one merge, whose densities are known."""
  found = settings(method, values, count)
  if 'density' in values:
    found['density'] = values['density']
  return found


def kept(density: float, size: int) -> int:
  """Entries that a density keeps of a tensor: mergekit 0.1.5's count."""
  if density >= 1:
    return size
  if density <= 0 or size == 0:
    return 0
  return max(1, int(density * size))


def descending(magnitude: np.ndarray) -> np.ndarray:
  """Indices of non-negative float32 values, largest first, int64 [n]."""
  return _order(magnitude[None])[0]


def by_rank(rows: np.ndarray, values: np.ndarray) -> np.ndarray:
  """For each entry of rows [r, n] the value [n] of its magnitude's rank.

  Ranks count from the largest magnitude of a row.
  """
  found = np.empty(rows.size, values.dtype)
  order = _order(np.abs(rows)).reshape(-1)
  found[order] = np.broadcast_to(values, rows.shape).reshape(-1)
  return found.reshape(rows.shape)


def _order(magnitude: np.ndarray) -> np.ndarray:
  """Flat indices of each row's entries [r, n], the largest first, int64.

  Sorts keys that hold value and index in one integer, which is stable and, with
  vectorised integer sorts, several times faster than sorting indices.
  """
  assert magnitude.dtype == np.float32, magnitude.dtype
  keys = (~magnitude.view(np.uint32)).astype(np.uint64) << np.uint64(32)
  keys |= np.arange(keys.size, dtype=np.uint64).reshape(keys.shape)
  keys.sort(axis=-1)
  keys &= np.uint64(0xFFFFFFFF)
  return keys.view(np.int64)


def largest(values: np.ndarray, count: int) -> np.ndarray:
  """Whether each entry is among the `count` of largest magnitude, bool [n].

  Linear time, and memory for one more copy.
  """
  size = len(values)
  if count <= 0 or count >= size:
    return np.full(size, count > 0)
  magnitude = np.abs(values)
  magnitude.partition(size - count)
  threshold = magnitude[size - count]
  np.abs(values, out=magnitude)
  chosen = magnitude >= threshold
  extra = int(np.count_nonzero(chosen)) - count
  if extra:
    chosen[np.flatnonzero(magnitude == threshold)[-extra:]] = False
  return chosen


def gram(stack: np.ndarray) -> np.ndarray:
  """Inner products of experts over the whole tensor, float64 [K, K].

  Accumulated in float64: float32 (let alone float16) loses enough of a large,
  nearly parallel pair to inflate a spherical merge.
  """
  flat = stack.reshape(len(stack), -1)
  total = np.zeros((len(stack), len(stack)))
  for start in range(0, flat.shape[1], 1 << 20):
    part = flat[:, start : start + (1 << 20)].astype(np.float64)
    total += part @ part.T
  return total


def inner(first: np.ndarray, second: np.ndarray, axis: int) -> np.ndarray:
  """Inner products along one axis, which stays with size 1; float64 [...]."""
  rows = np.moveaxis(first, axis, -1), np.moveaxis(second, axis, -1)
  products = np.einsum('...i,...i->...', *rows, dtype=np.float64)
  return np.expand_dims(products, axis)


def _cosine(stored: Stored, _) -> np.ndarray:
  products = gram(stored.stack)
  norms = np.sqrt(np.diag(products))
  norms = np.where(norms > 1e-8, norms, 1.0)
  return (products / norms[:, None] / norms).astype(np.float32)


# Cosines between experts, float32 [K, K]; vectors shorter than 1e-8 are not
# normalised, as in mergekit.
COSINE = Fact('cosine', _cosine, elementwise=False)
