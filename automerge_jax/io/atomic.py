"""Output folders that are whole or not there.

A folder is made under another name beside its final one, written to the disk,
and renamed. Whoever makes it holds a lock on it; what is found without a lock
is of a killed process, and removed.
"""

import contextlib
import ctypes
import fcntl
import glob
import os
import pathlib
import secrets
import shutil
from collections.abc import Iterator

from absl import logging

from automerge_jax.io import disk

_SUFFIX = '.partial'
_HERE = -100  # AT_FDCWD of fcntl.h: paths relative to the working directory
_EXCHANGE = 2  # RENAME_EXCHANGE of stdio.h


@contextlib.contextmanager
def folder(out: str | pathlib.Path, needed: int = 0) -> Iterator[pathlib.Path]:
  """A folder to write to, which becomes `out` when all went well.

  After an exception, an interruption too, nothing is left of it. What killed
  processes left of the same `out` is removed first.

  Args:
    out: must not exist; its parents are made.
    needed: bytes that will be written, which must be free at the start.

  Raises:
    FileExistsError: if `out` exists, at the start or at the end.
    OSError: if the disk is full or cannot be written to, in words.
  """
  out = pathlib.Path(os.path.abspath(out))
  _refuse_existing(out)
  with disk.explained(out, needed):
    out.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(out)
    disk.require_space(out.parent, needed)
    partial, lock = _claim(out)
  try:
    with disk.explained(out, needed):
      yield partial
      for parent, _, names in os.walk(partial):
        for name in [*names, '.']:
          disk.sync(os.path.join(parent, name))
      _refuse_existing(out)
      partial.rename(out)
      disk.sync(out.parent)
  except BaseException:
    shutil.rmtree(partial, ignore_errors=True)
    raise
  finally:
    os.close(lock)


def replace(new: pathlib.Path, out: pathlib.Path) -> None:
  """Puts a finished folder in the place of `out`, which is removed if there.

  A kill at any moment leaves a whole `out`, the one or the other; what is then
  left under the name `new` is to be removed. On systems that cannot exchange
  two names in one step (other than Linux), there is no `out` for a moment.

  Args:
    new: the finished folder, in the parent of `out`.
    out: what it is to be called.
  """
  if not os.path.lexists(out):
    new.rename(out)
  elif _exchange(new, out):
    shutil.rmtree(new)
  else:
    old = out.with_name(f'.{out.name}.old')
    shutil.rmtree(old, ignore_errors=True)
    out.rename(old)
    new.rename(out)
    shutil.rmtree(old)
  disk.sync(out.parent)


def _exchange(one: pathlib.Path, other: pathlib.Path) -> bool:
  """Exchanges two names in one step, if system and file system can."""
  rename = getattr(ctypes.CDLL(None, use_errno=True), 'renameat2', None)
  return rename is not None and not rename(
    _HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE
  )


def remove_leftovers(out: pathlib.Path) -> list[pathlib.Path]:
  """Removes the unfinished folders of `out` whose processes are gone."""
  removed = []
  for path in out.parent.glob(f'.{glob.escape(out.name)}.*{_SUFFIX}'):
    lock = _lock(path)
    if lock is not None:
      try:
        shutil.rmtree(path)
      finally:
        os.close(lock)
      logging.warning('removed %s, left by a run that was killed', path)
      removed.append(path)
  return removed


def _claim(out: pathlib.Path) -> tuple[pathlib.Path, int]:
  """A new locked folder beside `out`."""
  while True:
    path = out.with_name(f'.{out.name}.{secrets.token_hex(4)}{_SUFFIX}')
    path.mkdir()
    lock = _lock(path)
    # Another run may take it for a leftover until it is locked.
    if lock is not None and path.exists():
      return path, lock
    if lock is not None:
      os.close(lock)


def _lock(path: pathlib.Path) -> int | None:
  """Locks a folder; None if another process holds it, or it is gone."""
  try:
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
  except (FileNotFoundError, NotADirectoryError):
    return None
  try:
    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    os.close(handle)
    return None
  return handle


def _refuse_existing(out: pathlib.Path) -> None:
  if os.path.lexists(out):
    raise FileExistsError(f'{out} exists; choose another folder or remove it')
