"""Digests are those of the bytes, and taken anew when a file is touched."""

import hashlib
import os
import time

import pytest

from automerge_jax.io import hashes


@pytest.fixture
def counted(monkeypatch, tmp_path):
  """Paths that were really hashed; every file counts as large and settled."""
  monkeypatch.setenv('AUTOMERGE_CACHE', str(tmp_path / 'cache'))
  monkeypatch.setattr(hashes, '_LARGE', 0)
  monkeypatch.setattr(hashes, '_SETTLED', 0)
  seen, real = [], hashes._hashed
  monkeypatch.setattr(
    hashes, '_hashed', lambda path: seen.append(path) or real(path)
  )
  return seen


def _digest(path):
  return hashlib.sha256(path.read_bytes()).digest()


def test_a_file_is_hashed_once(counted, tmp_path):
  path = tmp_path / 'a'
  path.write_bytes(b'one')
  time.sleep(0.01)
  assert hashes.sha256(path) == hashes.sha256(path) == _digest(path)
  assert len(counted) == 1


def test_a_changed_file_is_hashed_again(counted, tmp_path):
  path = tmp_path / 'a'
  path.write_bytes(b'one')
  time.sleep(0.01)
  hashes.sha256(path)
  path.write_bytes(b'two')  # of the same size
  about = os.stat(path)
  time.sleep(0.01)
  assert hashes.sha256(path) == _digest(path)
  # Setting the time of modification back does not hide a change.
  path.write_bytes(b'six')
  os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))
  assert hashes.sha256(path) == _digest(path)
  other = tmp_path / 'b'
  other.write_bytes(b'ten')
  other.replace(path)
  assert hashes.sha256(path) == _digest(path)


def test_what_was_written_just_now_is_not_kept(counted, monkeypatch, tmp_path):
  monkeypatch.setattr(hashes, '_SETTLED', 10**12)
  path = tmp_path / 'a'
  path.write_bytes(b'one')
  hashes.sha256(path)
  hashes.sha256(path)
  assert len(counted) == 2


def test_a_damaged_cache_is_none(counted, tmp_path):
  path = tmp_path / 'a'
  path.write_bytes(b'one')
  time.sleep(0.01)
  hashes.sha256(path)
  (entry,) = (tmp_path / 'cache' / 'sha256').iterdir()
  for damage in ('', '{}', '[]', '{"file": 3, "sha256": "x"}'):
    entry.write_text(damage)
    assert hashes.sha256(path) == _digest(path)


def test_a_cache_that_cannot_be_written_is_none(counted, tmp_path):
  (tmp_path / 'cache').write_text('a file where a folder should be')
  path = tmp_path / 'a'
  path.write_bytes(b'one')
  time.sleep(0.01)
  assert hashes.sha256(path) == hashes.sha256(path) == _digest(path)
