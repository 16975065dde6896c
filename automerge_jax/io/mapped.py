"""Safetensors mapped into memory: nothing is read before it is looked at."""

import json
import mmap
import pathlib
from typing import NamedTuple

import ml_dtypes
import numpy as np

from automerge_jax.io import safetensors
from automerge_jax.io.tensors import Checkpoint, TensorInfo

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


def open_mapped(path: str | pathlib.Path) -> Checkpoint:
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
    else safetensors.files(path)
  )
  for file in dict.fromkeys(where.values()):
    unlisted = set(_table(file, tables, maps)) - set(where)
    if unlisted:
      raise ValueError(
        f'{file} holds tensors that {path / safetensors.INDEX} does not list: '
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
  with safetensors.open_file(path):  # the library checks lengths and offsets
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
