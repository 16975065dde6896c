"""What depends on checkpoints alone, computed once per stored tensor.

Facts are numpy on the host and defined on the tensor as it is stored, so that a
merge by tensor and a merge of stacked leaves see the same values. A fact of a
stack [K, ...] is [K, ...] of the same shape, or [K, small].
"""

from collections.abc import Callable, Sequence

import numpy as np

DENSITIES = 1000  # searches move densities in thousandths


def rank(stack: np.ndarray) -> np.ndarray:
  """Rank of each |entry| among its expert's, int32 [K, ...]; 0 is the largest.

  Equal magnitudes rank by position, lowest index first.
  """
  flat = np.abs(stack.reshape(len(stack), -1))
  ranks = np.empty(flat.shape, np.int32)
  positions = np.arange(flat.shape[1], dtype=np.int32)
  for row, order in zip(ranks, flat, strict=True):
    row[np.argsort(-order, kind='stable')] = positions
  return ranks.reshape(stack.shape)


def selection(stack: np.ndarray, keep: Sequence[int]) -> np.ndarray:
  """A rank that is right for one count an expert: 0 where kept, else n.

  Selects in linear time where `rank` sorts; same entries, same tie order.

  Args:
    stack: [K, ...].
    keep: number of entries to keep of each expert, [K].
  """
  flat = np.abs(stack.reshape(len(stack), -1))
  size = flat.shape[1]
  ranks = np.full(flat.shape, size, np.int32)
  for row, magnitude, count in zip(ranks, flat, keep, strict=True):
    if count == 0:
      continue
    threshold = np.partition(magnitude, size - count)[size - count]
    row[magnitude > threshold] = 0
    missing = count - int((row == 0).sum())
    row[np.flatnonzero(magnitude == threshold)[:missing]] = 0
  return ranks.reshape(stack.shape)


def kept(density: float, size: int) -> int:
  """Entries that a density keeps of a tensor: mergekit 0.1.5's count."""
  if density >= 1:
    return size
  if density <= 0 or size == 0:
    return 0
  return max(1, int(density * size))


def counts(stack: np.ndarray) -> np.ndarray:
  """Entries kept at each density in thousandths, int32 [K, 1001]."""
  row = [kept(i / DENSITIES, stack[0].size) for i in range(DENSITIES + 1)]
  return np.tile(np.asarray(row, np.int32), (len(stack), 1))


def cosine(stack: np.ndarray) -> np.ndarray:
  """Cosines between experts, float32 [K, K].

  Accumulated in float64: float32 (let alone float16) loses enough of a large,
  nearly parallel pair to inflate a spherical merge. Vectors shorter than 1e-8
  are not normalised, as in mergekit.
  """
  flat = stack.reshape(len(stack), -1).astype(np.float64)
  norms = np.linalg.norm(flat, axis=1)
  unit = flat / np.where(norms > 1e-8, norms, 1.0)[:, None]
  return (unit @ unit.T).astype(np.float32)


FACTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
  'rank': rank,
  'counts': counts,
  'cosine': cosine,
}
ELEMENTWISE = frozenset({'rank'})  # shaped as the tensor, transposed with it


def compute(names: Sequence[str], stack: np.ndarray) -> dict[str, np.ndarray]:
  """The named facts of one stored tensor's stack [K, ...]."""
  return {name: FACTS[name](stack) for name in names}
