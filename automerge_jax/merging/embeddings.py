"""Vocabulary tensors of a model, brought to the merged vocabulary's rows."""

from collections.abc import Mapping

import numpy as np

from automerge_jax.merging.alignment import Alignment

_CHUNK = 4096  # rows


def take(
  alignment: Alignment,
  model: str,
  tensors: Mapping[str, np.ndarray],
  start: int = 0,
  stop: int | None = None,
) -> np.ndarray:
  """Rows [start, stop) of a model's vocabulary tensor, aligned, in float32.

  Args:
    alignment: of all models.
    model: whose tensor.
    tensors: [V of the model, ...] of every model; only rows are read.
    start: first row.
    stop: end of the rows, by default all.

  Raises:
    ValueError: if a model is missing of which a row is needed.
  """
  stop = alignment.size if stop is None else stop
  out = np.zeros((stop - start, *tensors[model].shape[1:]), np.float32)
  for first in range(start, stop, _CHUNK):
    last = min(first + _CHUNK, stop)
    _fill(out[first - start : last - start], alignment, model, tensors, first)
  end = max(alignment.num_tokens - start, 0)
  if end < len(out):
    total = np.zeros(out.shape[1:], np.float64)
    chunk = np.empty((_CHUNK, *out.shape[1:]), np.float32)
    for first in range(0, alignment.num_tokens, _CHUNK):
      part = chunk[: min(_CHUNK, alignment.num_tokens - first)]
      part[...] = 0
      _fill(part, alignment, model, tensors, first)
      total += part.sum(0, dtype=np.float64)
    out[end:] = total / alignment.num_tokens
  return out


def _fill(
  out: np.ndarray,
  alignment: Alignment,
  model: str,
  tensors: Mapping[str, np.ndarray],
  first: int,
) -> None:
  """Writes the rows from `first` on into `out`, which is zero."""
  span = slice(first, first + len(out))
  own = alignment.rows[model][span]
  has = own >= 0
  out[has] = tensors[model][own[has]]
  if has.all():
    return
  count = np.zeros(len(out), np.float32)
  for other, default in alignment.defaults.items():
    at = ~has & (default[span] >= 0)
    if not at.any():
      continue
    if other not in tensors:
      raise ValueError(
        f'{other} has no such vocabulary tensor, but {int(at.sum())} tokens '
        f'that {model} lacks take its embeddings'
      )
    out[at] += np.asarray(tensors[other][default[span][at]], np.float32)
    count[at] += 1
  many = count > 1
  out[many] /= count[many].reshape(-1, *[1] * (out.ndim - 1))
