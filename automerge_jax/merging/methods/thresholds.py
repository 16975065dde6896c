"""The k-th largest magnitude of a whole model, without its weights in memory.

Float32 magnitudes sort as their bits do, so two histograms, of the upper and
then of the lower half of the bits, find it exactly in two passes.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from automerge_jax.merging.facts import DENSITIES, kept

_LOW = 15  # a magnitude has 31 bits: 16 upper ones and these
_PART = 1 << 20

# Gives (stored name, deltas [K, ...]) of each tensor; may be called again.
Stacks = Callable[[], Iterator[tuple[str, np.ndarray]]]


def of_densities(
  stacks: Stacks, settings: Mapping[str, Sequence[float]]
) -> dict[str, np.ndarray]:
  """Magnitudes from which on an expert's entries are kept.

  Args:
    stacks: all tensors.
    settings: `density` [K] where it is known, else every density is meant.

  Returns:
    `thresholds`: float32 [K, 1] or, for each density in thousandths, [K, 1001];
    infinite where nothing is kept.
  """
  upper = None
  for _, stack in stacks():
    if upper is None:
      upper = np.zeros((len(stack), 1 << 16), np.int64)
    for row, bits in _bits(stack):
      upper[row] += np.bincount(bits >> _LOW, minlength=1 << 16)
  assert upper is not None, 'a model without tensors'
  size = int(upper[0].sum())
  known = settings.get('density')
  wanted = [
    [known[k]] if known is not None else np.arange(DENSITIES + 1) / DENSITIES
    for k in range(len(upper))
  ]
  counts = np.array([[kept(d, size) for d in row] for row in wanted])
  # Entries in a bin or above it, and the bin that the k-th largest is in.
  above = np.cumsum(upper[:, ::-1], axis=1)[:, ::-1]
  bins = np.array(
    [
      (1 << 16) - 1 - np.searchsorted(row[::-1], count)
      for row, count in zip(above, counts, strict=True)
    ]
  ).clip(0)
  lower = [_Lower(np.unique(row)) for row in bins]
  for _, stack in stacks():
    for k, bits in _bits(stack):
      lower[k].add(bits)
  thresholds = np.full(counts.shape, np.inf, np.float32)
  for (k, i), count in np.ndenumerate(counts):
    if count > 0:
      at = int(bins[k, i])
      left = count - (int(above[k, at + 1]) if at + 1 < 1 << 16 else 0)
      thresholds[k, i] = lower[k].largest(at, left)
  return {'thresholds': thresholds}


class _Lower:
  """Histograms of the lower bits within some bins of the upper ones."""

  def __init__(self, bins: np.ndarray):
    self._row = np.full(1 << 16, -1)
    self._row[bins] = np.arange(len(bins))
    self._counts = np.zeros(len(bins) << _LOW, np.int64)

  def add(self, bits: np.ndarray) -> None:
    row = self._row[bits >> _LOW]
    inside = row >= 0
    place = (row[inside] << _LOW) + (bits[inside] & ((1 << _LOW) - 1))
    self._counts += np.bincount(place, minlength=len(self._counts))

  def largest(self, at: int, count: int) -> np.float32:
    """The `count`-th largest magnitude whose upper bits are `at`."""
    start = self._row[at] << _LOW
    counts = self._counts[start : start + (1 << _LOW)]
    low = (1 << _LOW) - 1 - int(np.searchsorted(counts[::-1].cumsum(), count))
    return np.uint32((at << _LOW) | low).view(np.float32)


def _bits(stack: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
  """(expert, magnitudes as integers) in parts."""
  for k, deltas in enumerate(stack):
    flat = deltas.reshape(-1)
    for start in range(0, flat.size, _PART):
      part = np.abs(flat[start : start + _PART], dtype=np.float32)
      yield k, part.view(np.uint32).astype(np.int64)
