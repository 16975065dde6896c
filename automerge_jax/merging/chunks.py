"""One stored tensor, merged in chunks.

Chunks have few fixed sizes, so that every tensor of every model runs in the
same handful of compiled functions, whatever its shape.
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import ml_dtypes
import numpy as np

from automerge_jax.merging import facts as facts_lib
from automerge_jax.merging import resident
from automerge_jax.recipes.document import Scale
from automerge_jax.types import MergeMethod, Stored

CHUNK = 1 << 18  # entries, at most: what is merged stays in the cache
_SIZES = tuple(CHUNK >> shift for shift in (0, 3, 6))  # to 4,096

Parameters = Mapping[str, float | tuple[float, ...]]


def merge_tensor(
  method: MergeMethod,
  parameters: Parameters,
  base: np.ndarray | None,
  experts: list[np.ndarray],
  name: str = '',
  seed: int = 0,
  statistics: Mapping[str, np.ndarray] | None = None,
  whole: Mapping[str, Any] | None = None,
) -> np.ndarray:
  """One stored tensor, merged in float32.

  Args:
    method: the merge method.
    parameters: every parameter, a tuple [K] where it is per expert.
    base: [...], None where the recipe has none.
    experts: K arrays [...].
    name: stored name, which random masks depend on.
    seed: of random masks.
    statistics: what was measured of this tensor, `{statistic: [K, ...]}`.
    whole: what the method found on whole models.
  """
  merged = np.empty(experts[0].size, np.float32)
  parts = merge(
    method, parameters, base, experts, name, seed, statistics, whole
  )
  for start, part in parts:
    merged[start : start + part.size] = part
  return merged.reshape(experts[0].shape)


def merge(
  method: MergeMethod,
  parameters: Parameters,
  base: np.ndarray | None,
  experts: list[np.ndarray],
  name: str,
  seed: int,
  statistics: Mapping[str, np.ndarray] | None = None,
  whole: Mapping[str, Any] | None = None,
  checked: Callable[[int, int], None] = lambda start, stop: None,
) -> Iterator[tuple[int, np.ndarray]]:
  """Merged chunks, float32 [n], with the position of their first entry.

  Args:
    method, parameters, base, experts, name, seed, statistics, whole: as for
      `merge_tensor`.
    checked: is called with ranges of entries before they are used.
  """
  shape, size = experts[0].shape, experts[0].size
  if not size:  # of nothing there are no facts
    return
  coefficients = {k: np.asarray(v, np.float32) for k, v in parameters.items()}
  stack, facts = None, {}
  if method.facts:
    checked(0, size)
    stack = resident.tensor_stack(method, base, experts)
    settings = facts_lib.known(method, parameters, len(experts))
    whole_base = np.zeros(shape, np.float32) if base is None else base
    facts = facts_lib.compute(
      method,
      Stored(
        name,
        _float32(whole_base),
        stack,
        settings,
        seed,
        statistics or {},
        whole or {},
      ),
    )
    stack = stack.reshape(len(experts), -1)
  tables = {f.name: facts[f.name] for f in method.facts if not f.elementwise}
  flat = {
    f.name: _flat(facts[f.name], f.lead, shape)
    for f in method.facts
    if f.elementwise
  }
  experts = [expert.reshape(-1) for expert in experts]
  base = None if base is None else base.reshape(-1)
  compiled = _compiled(method)
  for start, stop, padded in _pieces(size):
    if stack is None:
      checked(start, stop)
    theirs = np.zeros((len(experts), padded), np.float32)
    ours = np.zeros(padded, np.float32)
    if base is not None:
      ours[: stop - start] = base[start:stop]
    if stack is not None:
      theirs[:, : stop - start] = stack[:, start:stop]
    else:
      for row, expert in zip(theirs, experts, strict=True):
        row[: stop - start] = expert[start:stop]
      if method.stack != 'weights' and base is not None:
        theirs -= ours
    elementwise = {
      key: _padded(array[..., start:stop], padded)
      for key, array in flat.items()
    }
    merged = compiled(coefficients, tables | elementwise, ours, theirs)
    yield start, np.asarray(merged)[: stop - start]


def scaled(part: np.ndarray, scale: Scale | None) -> np.ndarray:
  """Merged float32 values w as value (w + offset) - offset."""
  if scale is None or scale.value == 1:
    return part
  value, offset = np.float32(scale.value), np.float32(scale.offset)
  if not offset:
    return value * part
  return value * (part + offset) - offset


def cast(
  part: np.ndarray,
  dtype: np.dtype,
  method: MergeMethod,
  name: str,
  parameters: Parameters,
) -> np.ndarray:
  """Merged float32 values as they are stored.

  Raises:
    ValueError: for NaN and infinity that finite inputs were merged to, and for
      values beyond the type's; naming tensor, method and numbers.
  """
  low, high = part.min(), part.max()  # NaN if there is one
  if not np.isfinite([low, high]).all():
    raise ValueError(
      f'{method.name} of tensor {name!r} is not finite, though its inputs are; '
      f'with {dict(parameters)}: do weights sum to zero under `normalize`, or '
      'is a number far too large?'
    )
  with np.errstate(over='ignore'):
    stored = part.astype(dtype, copy=False)
  largest = max(-low, high)
  if largest > ml_dtypes.finfo(dtype).max and not np.isfinite(stored).all():
    raise ValueError(
      f'{method.name} of tensor {name!r} gives values up to {largest:g}, which '
      f'{dtype} does not hold; state a wider `out_dtype`, such as bfloat16 or '
      'float32'
    )
  return stored


def _pieces(size: int) -> Iterator[tuple[int, int, int]]:
  """(start, stop, padded length) that cover a flat tensor in known sizes."""
  start = 0
  while start < size:
    left = size - start
    padded = next((s for s in _SIZES if s <= left), _SIZES[-1])
    yield start, min(start + padded, size), padded
    start += padded


def _flat(fact: np.ndarray, lead: int, shape: tuple[int, ...]) -> np.ndarray:
  """An elementwise fact as [*lead, n], broadcast axes filled in."""
  front = fact.shape[:lead]
  return np.broadcast_to(fact, (*front, *shape)).reshape(*front, -1)


def _padded(part: np.ndarray, length: int) -> np.ndarray:
  if part.shape[-1] == length:
    return part
  padding = [(0, 0)] * (part.ndim - 1) + [(0, length - part.shape[-1])]
  return np.pad(part, padding)


def _float32(array: np.ndarray) -> np.ndarray:
  return np.asarray(array, np.float32)


@functools.cache
def _compiled(method: MergeMethod):
  return jax.jit(method.merge)
