"""A disk that is full or read-only, said in words before and while writing."""

import contextlib
import errno
import os
import pathlib
import shutil
from collections.abc import Iterator

_ADVICE = {
  errno.ENOSPC: 'the disk is full; free space or choose another folder',
  errno.EDQUOT: 'the quota is used up; free space or choose another folder',
  errno.EFBIG: (
    'a file would grow beyond what is permitted (`ulimit -f` or the file '
    'system); raise the limit or write smaller shards'
  ),
  errno.EROFS: 'the disk is read-only; choose another folder',
  errno.EACCES: 'there is no permission to write; choose another folder',
  errno.EPERM: 'there is no permission to write; choose another folder',
}


@contextlib.contextmanager
def explained(path: str | pathlib.Path, needed: int) -> Iterator[None]:
  """Errors of writing `path`, which needs `needed` bytes, in words.

  Those about files in other folders, such as an input that may not be read,
  pass as they are.
  """
  try:
    yield
  except OSError as error:
    number = error.errno or 0
    told = number not in _ADVICE or hasattr(error, 'needed')
    if told or _elsewhere(error, path):
      raise
    raise _told(number, _ADVICE[number], path, needed) from error


def require_space(folder: str | pathlib.Path, needed: int) -> None:
  """Refuses to begin what cannot be finished.

  Raises:
    OSError: ENOSPC, if fewer than `needed` bytes are free where `folder` is.
  """
  free = shutil.disk_usage(folder).free
  if free < needed:
    what = f'only {free:,} are free; free space or choose another folder'
    raise _told(errno.ENOSPC, what, folder, needed)


def _elsewhere(error: OSError, path: str | pathlib.Path) -> bool:
  """Whether an error names a file that is not beside or below `path`."""
  if error.filename is None:
    return False
  parent = pathlib.Path(os.path.abspath(path)).parent
  named = pathlib.Path(os.path.abspath(os.fsdecode(error.filename)))
  # A parent is named when it cannot be made.
  return not (named.is_relative_to(parent) or parent.is_relative_to(named))


def _told(
  number: int, what: str, path: str | pathlib.Path, needed: int
) -> OSError:
  """An error with its explanation, marked as explained by `needed`."""
  size = f' {needed:,} bytes' if needed else ''
  error = OSError(number, f'cannot write{size}: {what}', str(path))
  error.needed = needed  # type: ignore[attr-defined]
  return error


def sync(path: str | pathlib.Path) -> None:
  """Waits until a file or folder is on the disk."""
  handle = os.open(path, os.O_RDONLY)
  try:
    os.fsync(handle)
  finally:
    os.close(handle)
