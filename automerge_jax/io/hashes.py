"""SHA-256 of large files, taken once as long as a file is not touched.

Hashing a model takes longer than merging it. As version control does, a file
is known again by its place, size, inode and times of change; the kernel sets
the last of these (ctime) at every write, and no program can set it back.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import time

from automerge_jax.io import assets

_LARGE = 32 << 20  # bytes; hashing less takes no time
# A file that was changed just now may change again within a tick of the clock.
_SETTLED = 2_000_000_000  # ns


def sha256(path: str | pathlib.Path) -> bytes:
  """Digest of a file's bytes."""
  path = pathlib.Path(path).resolve()
  before = os.stat(path)
  if before.st_size < _LARGE:
    return _hashed(path)
  told = [before.st_size, before.st_ino, before.st_mtime_ns, before.st_ctime_ns]
  name = hashlib.sha256(os.fsencode(path)).hexdigest()
  entry = assets.cache_folder() / 'sha256' / f'{name}.json'
  with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
    kept = json.loads(entry.read_text())
    if kept['file'] == told:
      return bytes.fromhex(kept['sha256'])
  digest = _hashed(path)
  after = os.stat(path)
  settled = time.time_ns() - max(told[2:]) > _SETTLED
  if settled and after.st_ctime_ns == before.st_ctime_ns:
    with contextlib.suppress(OSError):  # a cache that cannot be kept is none
      entry.parent.mkdir(parents=True, exist_ok=True)
      partial = entry.with_suffix(f'.{os.getpid()}.partial')
      partial.write_text(json.dumps({'file': told, 'sha256': digest.hex()}))
      partial.replace(entry)
  return digest


def _hashed(path: pathlib.Path) -> bytes:
  with open(path, 'rb') as handle:
    return hashlib.file_digest(handle, 'sha256').digest()
