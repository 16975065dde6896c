"""Safetensors folders: single or sharded files, read lazily, written whole.

Only data are ever read from a checkpoint; nothing is unpickled.
"""

import hashlib
import json
import os
import pathlib
from collections.abc import Iterator, Mapping

import numpy as np
import safetensors
import safetensors.numpy

SINGLE = 'model.safetensors'
INDEX = 'model.safetensors.index.json'


def files(folder: str | pathlib.Path) -> dict[str, pathlib.Path]:
  """File of each tensor, by stored name.

  Args:
    folder: holds `model.safetensors` or its sharded index.

  Raises:
    FileNotFoundError: if there is neither.
  """
  folder = pathlib.Path(folder)
  index = folder / INDEX
  if index.is_file():
    weight_map = json.loads(index.read_text())['weight_map']
    return {name: folder / shard for name, shard in weight_map.items()}
  single = folder / SINGLE
  if not single.is_file():
    raise FileNotFoundError(
      f'{folder} has neither {SINGLE} nor {INDEX}; expected a Hugging Face '
      'model folder with safetensors weights'
    )
  with safetensors.safe_open(single, 'numpy') as handle:
    return {name: single for name in handle.keys()}


def stream(
  folder: str | pathlib.Path, names: list[str] | None = None
) -> Iterator[tuple[str, np.ndarray]]:
  """Tensors one at a time, in the given order (default: as listed)."""
  where = files(folder)
  for name in where if names is None else names:
    if name not in where:
      raise KeyError(f'{folder} has no tensor {name!r}')
    with safetensors.safe_open(where[name], 'numpy') as handle:
      yield name, handle.get_tensor(name)


def read(folder: str | pathlib.Path) -> dict[str, np.ndarray]:
  """All tensors by stored name."""
  return dict(stream(folder))


def write(
  folder: str | pathlib.Path, tensors: Mapping[str, np.ndarray]
) -> None:
  """Writes `model.safetensors`, whole or not at all."""
  folder = pathlib.Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  partial = folder / (SINGLE + '.partial')
  contiguous = {k: np.ascontiguousarray(v) for k, v in tensors.items()}
  safetensors.numpy.save_file(contiguous, partial, metadata={'format': 'pt'})
  with open(partial, 'rb') as handle:
    os.fsync(handle.fileno())
  partial.rename(folder / SINGLE)


def fingerprint(folder: str | pathlib.Path) -> str:
  """SHA-256 over the weight files, which is what a recipe pins."""
  digest = hashlib.sha256()
  for path in sorted(set(files(folder).values())):
    with open(path, 'rb') as handle:
      digest.update(hashlib.file_digest(handle, 'sha256').digest())
  return digest.hexdigest()
