"""Safetensors written in any order, in parts, by several threads.

All tensors are known in advance, so every file gets its full size at once and
each part goes straight to its place: memory does not grow with the model, and
a full disk is found at the start.
"""

import json
import os
import pathlib
import re
import threading
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from automerge_jax import trees
from automerge_jax.io import disk, mapped, safetensors
from automerge_jax.io.tensors import TensorInfo

_STORED = {dtype: name for name, dtype in mapped.DTYPES.items()}
_UNITS = {'B': 1} | {
  f'{prefix}{unit}': base**power
  for power, prefix in enumerate('KMGT', 1)
  for unit, base in (('B', 1000), ('iB', 1024))
}


class _Place(NamedTuple):
  """A tensor, its open file and the byte where it starts."""

  info: TensorInfo
  handle: int
  start: int


def size_in_bytes(size: int | str) -> int:
  """Bytes of `5GB` (10^9), `2GiB` (2^30), `500MB` or a plain number.

  Raises:
    ValueError: for anything else, or less than one byte.
  """
  match = re.fullmatch(r'(\d+(?:\.\d+)?) ?(\w*)', str(size))
  unit = match and (match[2] or 'B')
  if not match or unit not in _UNITS:
    raise ValueError(
      f'{size!r} is no size; expected a number and one of {list(_UNITS)}, '
      'such as 5GB'
    )
  value = int(float(match[1]) * _UNITS[unit])
  if value < 1:
    raise ValueError(f'a shard of {size!r} holds nothing; use at least 1B')
  return value


def shards(
  infos: Mapping[str, TensorInfo], max_shard_size: int | str
) -> dict[str, list[str]]:
  """Names of the tensors in each file: filled in order, none above the size.

  A tensor that is larger than a shard gets a file of its own.
  """
  most = size_in_bytes(max_shard_size)
  groups: list[list[str]] = [[]]
  filled = 0
  for name, info in infos.items():
    if groups[-1] and filled + info.nbytes > most:
      groups.append([])
      filled = 0
    groups[-1].append(name)
    filled += info.nbytes
  if len(groups) == 1:
    return {safetensors.SINGLE: groups[0]}
  return {
    f'model-{i:05}-of-{len(groups):05}.safetensors': group
    for i, group in enumerate(groups, 1)
  }


class Writer:
  """Writes the weights of a Hugging Face folder; a context manager.

  Args (of the constructor):
    folder: existing folder without weights.
    infos: every tensor that will be written, in order.
    max_shard_size: most bytes of tensors in a file, such as '5GB'.
    metadata: texts for the header of each file.

  Raises:
    FileExistsError: if the folder has such files.
    OSError: if they do not fit on the disk, or it cannot be written to.
    ValueError: for a type of numbers that safetensors does not have.
  """

  def __init__(
    self,
    folder: str | pathlib.Path,
    infos: Mapping[str, TensorInfo],
    max_shard_size: int | str = '5GB',
    metadata: Mapping[str, str] | None = None,
  ):
    self._folder = pathlib.Path(folder)
    self._metadata = dict(metadata or {'format': 'pt'})
    self._places: dict[str, _Place] = {}
    self._written: dict[str, list[tuple[int, int]]] = {n: [] for n in infos}
    self._lock = threading.Lock()
    self._handles: list[int] = []
    self._bytes = sum(info.nbytes for info in infos.values())
    self._shards = shards(infos, max_shard_size)
    disk.require_space(self._folder, self._bytes)
    try:
      for filename, names in self._shards.items():
        with disk.explained(self._folder / filename, self._bytes):
          self._lay_out(filename, {name: infos[name] for name in names})
    except BaseException:
      self._release()
      raise

  def __enter__(self) -> 'Writer':
    return self

  def __exit__(self, kind, *error) -> None:
    if kind is None:
      self.close()
    else:
      self._release()

  def write(self, name: str, array: np.ndarray, start: int = 0) -> None:
    """Writes a tensor, or a part of it; from any thread.

    Args:
      name: of the tensor.
      array: the whole tensor, or consecutive elements of it in any shape.
      start: position of the first element in the flat tensor.

    Raises:
      KeyError: for a tensor that was not declared.
      ValueError: if type or size are not what was declared.
      OSError: if the disk does not take it.
    """
    if name not in self._places:
      raise KeyError(
        f'{name!r} was not declared{trees.nearest(name, self._places)}'
      )
    info, handle, offset = self._places[name]
    if array.dtype != info.dtype:
      raise ValueError(
        f'{name!r} was declared as {info.dtype}, got {array.dtype}; cast it '
        'first'
      )
    stop = start + array.size
    if start < 0 or stop > info.size:
      raise ValueError(
        f'{name!r} has {info.size} elements {info.shape}, got {start} to {stop}'
      )
    data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    offset += start * info.dtype.itemsize
    with disk.explained(self._folder, self._bytes):
      done = 0
      while done < data.nbytes:
        done += os.pwrite(handle, data[done:].data, offset + done)
    with self._lock:
      self._written[name].append((start, stop))

  def close(self) -> None:
    """Checks that nothing is missing and waits for the disk.

    Raises:
      ValueError: listing the tensors that were not completely written.
    """
    try:
      missing = [
        f'{name}: {left} of {self._places[name].info.size} elements'
        for name, parts in self._written.items()
        if (left := self._places[name].info.size - _covered(parts))
      ]
      if missing:
        raise ValueError(
          f'{self._folder}: {len(missing)} tensors were not completely '
          f'written:{trees.listing(missing)}'
        )
      with disk.explained(self._folder, self._bytes):
        for handle in self._handles:
          os.fsync(handle)
        if len(self._shards) > 1:
          self._write_index()
        disk.sync(self._folder)
    finally:
      self._release()

  def _lay_out(self, filename: str, infos: Mapping[str, TensorInfo]) -> None:
    """Makes one file at its full size, with its header."""
    # Wide types first, so that every tensor is aligned.
    order = sorted(infos, key=lambda name: -infos[name].dtype.itemsize)
    header: dict[str, dict] = {'__metadata__': self._metadata}
    end = 0
    for name in order:
      info = infos[name]
      if info.dtype not in _STORED:
        raise ValueError(
          f'{name!r} is {info.dtype}, which safetensors does not store; '
          f'expected one of {[str(dtype) for dtype in _STORED]}'
        )
      header[name] = {
        'dtype': _STORED[info.dtype],
        'shape': list(info.shape),
        'data_offsets': [end, end + info.nbytes],
      }
      end += info.nbytes
    text = json.dumps(header, separators=(',', ':')).encode()
    text += b' ' * (-len(text) % 8)
    handle = os.open(
      self._folder / filename, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666
    )
    self._handles.append(handle)
    data = 8 + len(text)
    if hasattr(os, 'posix_fallocate'):
      os.posix_fallocate(handle, 0, data + end)
    else:
      os.truncate(handle, data + end)
    os.pwrite(handle, len(text).to_bytes(8, 'little') + text, 0)
    for name in order:
      start = data + header[name]['data_offsets'][0]
      self._places[name] = _Place(infos[name], handle, start)

  def _write_index(self) -> None:
    index = {
      'metadata': {'total_size': self._bytes},
      'weight_map': {
        name: filename
        for filename, names in self._shards.items()
        for name in names
      },
    }
    path = self._folder / safetensors.INDEX
    with open(path, 'x') as handle:
      json.dump(index, handle, indent=2, sort_keys=True)
      handle.write('\n')
      handle.flush()
      os.fsync(handle.fileno())

  def _release(self) -> None:
    while self._handles:
      os.close(self._handles.pop())


def _covered(parts: list[tuple[int, int]]) -> int:
  """Elements in the union of ranges."""
  total = end = 0
  for start, stop in sorted(parts):
    total += max(0, stop - max(start, end))
    end = max(end, stop)
  return total
