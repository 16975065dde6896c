"""Safetensors folders: single or sharded files, read lazily, written whole.

Only data are ever read from a checkpoint; nothing is unpickled.
"""

import concurrent.futures
import contextlib
import hashlib
import json
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from automerge_jax.io import hashes

SINGLE = 'model.safetensors'
INDEX = 'model.safetensors.index.json'


def files(folder: str | pathlib.Path) -> dict[str, pathlib.Path]:
  """File of each tensor, by stored name.

  A single file goes before an index, as in Hugging Face's own loading.

  Args:
    folder: holds `model.safetensors` or its sharded index.

  Raises:
    FileNotFoundError: if there is neither, or a shard is missing.
    ValueError: for a damaged file or index.
  """
  folder = pathlib.Path(folder)
  single, index = folder / SINGLE, folder / INDEX
  if single.is_file():
    with open_file(single) as handle:
      return {name: single for name in handle.keys()}
  if not index.is_file():
    raise FileNotFoundError(
      f'{folder} has neither {SINGLE} nor {INDEX}; expected a Hugging Face '
      'model folder with safetensors weights'
    )
  weight_map = _weight_map(index)
  missing = sorted(
    shard
    for shard in set(weight_map.values())
    if not (folder / shard).is_file()
  )
  if missing:
    raise FileNotFoundError(
      f'{index} names files that are not there: {missing}; fetch them again'
    )
  return {name: folder / shard for name, shard in weight_map.items()}


def stream(
  folder: str | pathlib.Path, names: list[str] | None = None
) -> Iterator[tuple[str, np.ndarray]]:
  """Tensors one at a time, in the given order (default: as listed).

  Raises:
    KeyError: for a tensor that the folder does not have.
    ValueError: for a damaged file.
  """
  with Reader({'': folder}) as reader:
    for name in reader.names('') if names is None else names:
      yield name, reader.get('', name)


def read(folder: str | pathlib.Path) -> dict[str, np.ndarray]:
  """All tensors by stored name."""
  return dict(stream(folder))


def write(
  folder: str | pathlib.Path,
  tensors: Mapping[str, np.ndarray],
  filename: str = SINGLE,
) -> None:
  """Writes one safetensors file, whole or not at all."""
  folder = pathlib.Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  partial = folder / (filename + '.partial')
  contiguous = {k: np.asarray(v, order='C') for k, v in tensors.items()}
  try:
    safetensors.numpy.save_file(contiguous, partial, metadata={'format': 'pt'})
    with open(partial, 'rb') as handle:
      os.fsync(handle.fileno())
    mask = os.umask(0)  # the library writes for the owner alone
    os.umask(mask)
    partial.chmod(0o666 & ~mask)
    partial.replace(folder / filename)
  finally:
    partial.unlink(missing_ok=True)


def fingerprint(folder: str | pathlib.Path) -> str:
  """SHA-256 over the weight files, which is what a recipe pins."""
  return combined_sha256(sorted(set(files(folder).values())))


def combined_sha256(paths: list[pathlib.Path]) -> str:
  """SHA-256 over the SHA-256 of each file, several files at a time."""
  digest = hashlib.sha256()
  with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
    for part in pool.map(hashes.sha256, paths):
      digest.update(part)
  return digest.hexdigest()


class Reader:
  """Random access to the tensors of several folders, each file opened once.

  A context manager: the files are closed at its end.
  """

  def __init__(self, folders: Mapping[str, str | pathlib.Path]):
    self._folders = dict(folders)
    self._files = {model: files(folder) for model, folder in folders.items()}
    self._open: dict[pathlib.Path, Any] = {}
    self._stack = contextlib.ExitStack()

  def __enter__(self) -> 'Reader':
    return self

  def __exit__(self, *error) -> None:
    self._stack.close()

  def names(self, model: str) -> list[str]:
    """Stored names of one folder, as listed."""
    return list(self._files[model])

  def get(self, model: str, name: str) -> np.ndarray:
    """One tensor of one folder.

    Raises:
      KeyError: if the folder has no such tensor.
      ValueError: if the file that should hold it is damaged or does not.
    """
    if name not in self._files[model]:
      raise KeyError(f'{self._folders[model]} has no tensor {name!r}')
    path = self._files[model][name]
    if path not in self._open:
      self._open[path] = self._stack.enter_context(open_file(path))
    try:
      return self._open[path].get_tensor(name)
    except safetensors.SafetensorError as error:
      raise ValueError(
        f'{path} does not hold the tensor {name!r} as its folder says: {error}'
      ) from error


def open_file(path: pathlib.Path) -> Any:
  """The library's handle of one file, whose header it has checked.

  Raises:
    ValueError: for a damaged file.
  """
  try:
    return safetensors.safe_open(path, 'numpy')
  except safetensors.SafetensorError as error:
    raise ValueError(
      f'{path} is damaged or no safetensors file ({path.stat().st_size} bytes; '
      f'{error}); fetch or write it again'
    ) from error


def _weight_map(index: pathlib.Path) -> dict[str, str]:
  try:
    weight_map = dict(json.loads(index.read_text())['weight_map'])
  except (KeyError, TypeError, ValueError) as error:
    raise ValueError(
      f'{index} is damaged: expected JSON with an entry "weight_map" '
      f'({type(error).__name__}: {error})'
    ) from error
  outside = sorted(s for s in weight_map.values() if pathlib.Path(s).name != s)
  if outside:
    raise ValueError(
      f'{index} names files outside its folder: {outside}; shards lie beside '
      'the index'
    )
  return weight_map
