"""The difference of two models as a PEFT LoRA adapter of a given rank."""

import json
import pathlib
import re
from typing import Any

import numpy as np

from automerge_jax import trees
from automerge_jax.io import atomic, lora, safetensors
from automerge_jax.io.tensors import Checkpoint, check_finite, is_floating

REPORT = 'reconstruction.json'
_TABLES = re.compile(r'(^|\.)(\w*embed\w*|wte|wpe|shared|lm_head)\.(.*\.)?')
_LAYER = re.compile(r'(.*?\.\d+)\.')
_ROWS = 4096


def extract(
  base: Checkpoint,
  merged: Checkpoint,
  rank: int,
  out: str | pathlib.Path,
  base_name: str = '',
) -> dict[str, Any]:
  """Writes an adapter that brings the base near the merged model.

  The best of its rank for each matrix of a linear layer (Eckart and Young,
  1936), made one matrix at a time. Other tensors cannot be part of it; those
  that differ are listed. Module names are those of the stored tensors.

  Args:
    base: what the adapter will be added to.
    merged: what it shall come near to.
    rank: most columns of B; fewer where a matrix is smaller.
    out: new folder: adapter and `reconstruction.json`.
    base_name: where PEFT finds the base; by default the path of `base`.

  Returns:
    The report: `tensors`, `layers` and `total` with relative errors (Frobenius
    norm of what is missing over that of the difference, for the total over all
    tensors), and `left_out` with the norms of differences that are not in it.

  Raises:
    FileExistsError: if `out` exists.
    ValueError: if the models differ in tensors, hold NaN, or do not differ.
  """
  if rank < 1:
    raise ValueError(f'an adapter needs a rank of 1 or more, got {rank}')
  trees.check_same(
    {name: merged.info(name) for name in merged.names()},
    {name: base.info(name) for name in base.names()},
    f'{merged.path} against {base.path}',
  )
  conv1d = lora.conv1d_modules(base)
  tensors: dict[str, np.ndarray] = {}
  ranks: dict[str, int] = {}
  missing: dict[str, float] = {}  # squared norms
  wholes: dict[str, float] = {}
  for name in base.names():
    delta = _difference(base, merged, name)
    whole = _squared(delta)
    if not whole:
      continue
    wholes[name] = missing[name] = whole
    module = name.removesuffix('.weight')
    if delta.ndim != 2 or module == name or _TABLES.search(name):
      continue
    if conv1d.get(module.rpartition('.')[2], False):
      delta = delta.T
    a, b = truncated(delta, rank)
    missing[name] = _squared(delta - b @ a)
    tensors[f'{lora.PREFIX}{module}.lora_A.weight'] = a
    tensors[f'{lora.PREFIX}{module}.lora_B.weight'] = b
    ranks[module] = len(a)
  if not ranks:
    raise ValueError(
      f'no matrix of a linear layer differs between {base.path} and '
      f'{merged.path}; there is nothing to extract'
    )
  report = _report(rank, ranks, wholes, missing)
  fewer = {module: r for module, r in ranks.items() if r < rank}
  config = {
    'peft_type': 'LORA',
    'base_model_name_or_path': base_name or base.path,
    'r': rank,
    'lora_alpha': rank,
    'rank_pattern': fewer,
    'alpha_pattern': fewer,
    'target_modules': sorted(ranks),
    'fan_in_fan_out': any(conv1d.get(m.rpartition('.')[2]) for m in ranks),
    'bias': 'none',
    'lora_dropout': 0.0,
    'use_rslora': False,
    'inference_mode': True,
    'task_type': None,
  }
  needed = sum(tensor.nbytes for tensor in tensors.values())
  with atomic.folder(out, needed) as folder:
    safetensors.write(folder, tensors, lora.WEIGHTS)
    for filename, content in ((lora.CONFIG, config), (REPORT, report)):
      (folder / filename).write_text(json.dumps(content, indent=2) + '\n')
  return report


def truncated(delta: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray]:
  """A [r, in] and B [out, r], float32, whose product is nearest to `delta`.

  From the leading eigenvectors of the smaller Gram matrix in float64, where
  singular values below 1e-8 of the largest are lost: less than float32 holds.
  """
  if delta.shape[0] > delta.shape[1]:
    a, b = truncated(delta.T, rank)
    return np.ascontiguousarray(b.T), np.ascontiguousarray(a.T)
  size = len(delta)
  gram = np.zeros((size, size))
  for start in range(0, delta.shape[1], _ROWS):
    part = delta[:, start : start + _ROWS].astype(np.float64)
    gram += part @ part.T
  rank = min(rank, size)
  import scipy.linalg  # a tenth of a second, which few merges need

  leading = scipy.linalg.eigh(gram, subset_by_index=[size - rank, size - 1])[1]
  b = np.flip(leading, 1).astype(np.float32)
  return b.T @ delta, b


def _difference(base: Checkpoint, merged: Checkpoint, name: str) -> np.ndarray:
  if not is_floating(base.info(name).dtype):
    return np.zeros(0, np.float32)
  pair = [model.get(name).astype(np.float32) for model in (merged, base)]
  for array, model in zip(pair, (merged, base), strict=True):
    check_finite(array, model.path, name)
  return pair[0] - pair[1]


def _squared(array: np.ndarray) -> float:
  return float(np.sum(np.square(array, dtype=np.float64)))


def _report(
  rank: int,
  ranks: dict[str, int],
  wholes: dict[str, float],
  missing: dict[str, float],
) -> dict[str, Any]:
  """Relative errors by tensor, by layer and over all."""

  def error(names: list[str]) -> float:
    whole = sum(wholes[name] for name in names)
    return (sum(missing[name] for name in names) / whole) ** 0.5

  kept = [f'{module}.weight' for module in ranks]
  layers: dict[str, list[str]] = {}
  for name in kept:
    match = _LAYER.match(name)
    layers.setdefault(match[1] if match else name, []).append(name)
  return {
    'rank': rank,
    'total': error(list(wholes)),
    'layers': {layer: error(names) for layer, names in layers.items()},
    'tensors': {name: error([name]) for name in kept},
    'left_out': {n: wholes[n] ** 0.5 for n in wholes if n not in set(kept)},
  }
