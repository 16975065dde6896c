"""One process at a time in a workdir.

The lock is the kernel's (`flock`), so that it goes with its process however
that ends; what the file says is for people only. On network file systems:
NFS passes it on to the server, so it holds between hosts if the server keeps
locks; others refuse it, as Lustre without its `flock` option, and then a
workdir is refused too. The ledger (SQLite with a write-ahead log) needs its
processes on one host anyway.
"""

import contextlib
import fcntl
import os
import pathlib
import socket
from collections.abc import Iterator

NAME = 'lock'


class InUseError(OSError):
  """Another process works in the same folder."""


@contextlib.contextmanager
def held(workdir: str | pathlib.Path) -> Iterator[None]:
  """Holds the lock of a workdir, which is made if it is not there.

  Raises:
    InUseError: naming the process and host that hold it.
    OSError: if the file system keeps no locks.
  """
  path = pathlib.Path(workdir) / NAME
  path.parent.mkdir(parents=True, exist_ok=True)
  handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
  try:
    try:
      fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
      holder = os.pread(handle, 200, 0).decode(errors='replace').strip()
      raise InUseError(
        f'{path.parent} is in use by {holder or "another process"}; wait until '
        'it ends, end it, or use another --workdir'
      ) from error
    except OSError as error:
      raise OSError(
        f'{path} cannot be locked ({error.strerror}): its file system keeps no '
        'locks; use a --workdir on a local disk'
      ) from error
    os.ftruncate(handle, 0)
    os.pwrite(handle, f'process {os.getpid()} on {_host()}\n'.encode(), 0)
    try:
      yield
    finally:
      # The file stays: removed, two processes could hold two of one name.
      os.ftruncate(handle, 0)
  finally:
    os.close(handle)


def _host() -> str:
  return socket.gethostname() or 'an unnamed host'
