"""Safetensors folders: single or sharded files, read lazily, written whole.

Only data are ever read from a checkpoint; nothing is unpickled.
"""

import concurrent.futures
import contextlib
import hashlib
import json
import mmap
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy

from automerge_jax.io.tensors import Checkpoint, TensorInfo

SINGLE = 'model.safetensors'
INDEX = 'model.safetensors.index.json'

DTYPES: dict[str, np.dtype] = {
  name: np.dtype(dtype)
  for name, dtype in (
    ('F64', np.float64),
    ('F32', np.float32),
    ('F16', np.float16),
    ('BF16', ml_dtypes.bfloat16),
    ('F8_E4M3', ml_dtypes.float8_e4m3fn),
    ('F8_E5M2', ml_dtypes.float8_e5m2),
    ('I64', np.int64),
    ('I32', np.int32),
    ('I16', np.int16),
    ('I8', np.int8),
    ('U64', np.uint64),
    ('U32', np.uint32),
    ('U16', np.uint16),
    ('U8', np.uint8),
    ('BOOL', np.bool_),
    ('C64', np.complex64),
  )
}


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
    with _open(single) as handle:
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
    for part in pool.map(_sha256, paths):
      digest.update(part)
  return digest.hexdigest()


def mapped(path: str | pathlib.Path) -> Checkpoint:
  """A folder, or one `.safetensors` file, mapped into memory.

  Nothing is read before it is looked at, and only the part that is.

  Raises:
    FileNotFoundError: if weights or a shard are missing.
    ValueError: for a damaged file, an index that does not fit its shards, or a
      type of numbers that is not supported.
  """
  path = pathlib.Path(path)
  tables: dict[pathlib.Path, dict[str, _Place]] = {}
  maps: dict[pathlib.Path, mmap.mmap] = {}
  where = (
    dict.fromkeys(_table(path, tables, maps), path)
    if path.is_file()
    else files(path)
  )
  for file in dict.fromkeys(where.values()):
    unlisted = set(_table(file, tables, maps)) - set(where)
    if unlisted:
      raise ValueError(
        f'{file} holds tensors that {path / INDEX} does not list: '
        f'{sorted(unlisted)[:10]}; fetch the index again or add its entries'
      )
  places = {}
  for name, file in where.items():
    if name not in tables[file]:
      raise ValueError(
        f'{file} does not hold the tensor {name!r} as its folder says; fetch '
        'file and index again'
      )
    places[name] = tables[file][name]

  def read(name: str) -> np.ndarray:
    (shape, dtype), start = info = places[name]
    flat = np.frombuffer(maps[where[name]], dtype, info.info.size, start)
    return np.require(flat.reshape(shape), requirements='A')

  return Checkpoint(
    str(path), {n: place.info for n, place in places.items()}, read, maps.clear
  )


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
      self._open[path] = self._stack.enter_context(_open(path))
    try:
      return self._open[path].get_tensor(name)
    except safetensors.SafetensorError as error:
      raise ValueError(
        f'{path} does not hold the tensor {name!r} as its folder says: {error}'
      ) from error


class _Place(NamedTuple):
  """A tensor and the byte of its file where it starts."""

  info: TensorInfo
  start: int


def _table(
  path: pathlib.Path,
  tables: dict[pathlib.Path, dict[str, _Place]],
  maps: dict[pathlib.Path, mmap.mmap],
) -> dict[str, _Place]:
  """Header of a file, which is mapped at the first call."""
  if path in tables:
    return tables[path]
  with _open(path):  # the library checks lengths and offsets
    pass
  with open(path, 'rb') as handle:
    maps[path] = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
  length = int.from_bytes(maps[path][:8], 'little')
  header = json.loads(maps[path][8 : 8 + length])
  header.pop('__metadata__', None)
  tables[path] = {}
  for name, entry in header.items():
    if entry['dtype'] not in DTYPES:
      raise ValueError(
        f'{path} stores {name!r} as {entry["dtype"]}, which is not supported; '
        f'convert it to one of {sorted(DTYPES)}'
      )
    info = TensorInfo(tuple(entry['shape']), DTYPES[entry['dtype']])
    start = 8 + length + entry['data_offsets'][0]
    tables[path][name] = _Place(info, start)
  return tables[path]


def _sha256(path: pathlib.Path) -> bytes:
  with open(path, 'rb') as handle:
    return hashlib.file_digest(handle, 'sha256').digest()


def _open(path: pathlib.Path) -> Any:
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
