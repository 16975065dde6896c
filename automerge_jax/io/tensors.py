"""What every checkpoint format offers: named tensors, described, then read."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import ml_dtypes
import numpy as np

from automerge_jax import trees


class TensorInfo(NamedTuple):
  """Shape and type of a stored tensor, known without reading it."""

  shape: tuple[int, ...]
  dtype: np.dtype

  @property
  def size(self) -> int:
    """Number of elements."""
    return int(np.prod(self.shape, dtype=np.int64))

  @property
  def nbytes(self) -> int:
    """Bytes of its data."""
    return self.size * self.dtype.itemsize


class Checkpoint:
  """Tensors of one model by stored name; a context manager.

  Tensors may be read from several threads at once. An array that was handed
  out stays valid after the checkpoint is closed.
  """

  def __init__(
    self,
    path: str,
    infos: Mapping[str, TensorInfo],
    read: Callable[[str], np.ndarray],
    close: Callable[[], None] = lambda: None,
  ):
    """Wraps what a format knows.

    Args:
      path: what errors call the checkpoint.
      infos: every tensor, in the order of the checkpoint.
      read: gives the tensor of a name that is in `infos`.
      close: lets go of files.
    """
    self.path = path
    self._infos = dict(infos)
    self._read = read
    self._close = close

  def __enter__(self) -> 'Checkpoint':
    return self

  def __exit__(self, *error) -> None:
    self._close()

  def names(self) -> list[str]:
    """Stored names, as listed."""
    return list(self._infos)

  def info(self, name: str) -> TensorInfo:
    """Shape and type of one tensor.

    Raises:
      KeyError: if there is no such tensor.
    """
    if name not in self._infos:
      hint = trees.nearest(name, self._infos) if len(self._infos) < 20 else ''
      raise KeyError(f'{self.path} has no tensor {name!r}{hint}')
    return self._infos[name]

  def get(self, name: str) -> np.ndarray:
    """One tensor, read-only; mapped into memory where the format allows.

    Raises:
      KeyError: if there is no such tensor.
      ValueError: if what is stored is not what `info` says.
    """
    info = self.info(name)
    array = self._read(name)
    if array.shape != info.shape or array.dtype != info.dtype:
      raise ValueError(
        f'{self.path} gives {name!r} as {array.dtype} {array.shape}, expected '
        f'{info.dtype} {info.shape}; write the checkpoint again'
      )
    return array


def check_finite(array: np.ndarray, model: str, name: str) -> None:
  """Refuses NaN and infinity in a tensor or a chunk of one.

  One pass at the speed of memory for float32 and float64.

  Raises:
    ValueError: naming model, tensor, and how many values are not finite.
  """
  if array.dtype in (np.float32, np.float64):
    with np.errstate(over='ignore', invalid='ignore'):
      if np.isfinite(np.sum(array)):
        return
  elif not is_floating(array.dtype):
    return
  finite = np.isfinite(array)  # a sum may overflow where no value does
  if finite.all():
    return
  nan = int(np.isnan(array).sum())
  infinite = int(finite.size - finite.sum()) - nan
  raise ValueError(
    f'{model} has {nan} NaN and {infinite} infinite values in the tensor '
    f'{name!r}; a merge would spread them: repair or leave out this model'
  )


def is_floating(dtype: np.dtype) -> bool:
  """Whether a type holds real floating point numbers, bfloat16 and F8 too."""
  if np.issubdtype(dtype, np.complexfloating):
    return False
  try:
    ml_dtypes.finfo(dtype)
  except ValueError:
    return False
  return True
