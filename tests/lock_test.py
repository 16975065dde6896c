"""The lock of a workdir: one process, however the last one ended."""

import errno
import os
import signal
import subprocess
import sys

import pytest

from automerge_jax.search import lock

_HOLD = """
import sys
from automerge_jax.search import lock
with lock.held(sys.argv[1]):
  print('held', flush=True)
  sys.stdin.read()
"""


def _hold(workdir):
  """Another process that holds the lock until its input ends."""
  process = subprocess.Popen(
    [sys.executable, '-c', _HOLD, str(workdir)],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
  )
  assert process.stdout.readline() == 'held\n'
  return process


def test_a_second_process_is_refused_with_the_first_ones_name(tmp_path):
  process = _hold(tmp_path / 'new')
  try:
    with pytest.raises(lock.InUseError) as caught:
      with lock.held(tmp_path / 'new'):
        pass
    assert f'in use by process {process.pid} on ' in str(caught.value)
    assert 'another --workdir' in str(caught.value)
    with lock.held(tmp_path / 'other'):
      pass
  finally:
    process.communicate()
  with lock.held(tmp_path / 'new'):
    pass


def test_a_killed_process_holds_nothing(tmp_path):
  process = _hold(tmp_path)
  process.send_signal(signal.SIGKILL)
  assert process.wait() == -signal.SIGKILL
  process.stdin.close()
  process.stdout.close()
  assert str(process.pid) in (tmp_path / lock.NAME).read_text()
  with lock.held(tmp_path):
    assert str(os.getpid()) in (tmp_path / lock.NAME).read_text()


def test_the_lock_is_free_after_an_error_and_not_held_twice(tmp_path):
  with pytest.raises(KeyError), lock.held(tmp_path):
    with pytest.raises(lock.InUseError, match=f'process {os.getpid()} on'):
      with lock.held(tmp_path):
        pass
    raise KeyError
  assert (tmp_path / lock.NAME).read_text() == ''
  with lock.held(tmp_path):
    pass


def test_a_file_system_without_locks_is_refused_in_words(tmp_path, monkeypatch):
  def flock(handle, how):
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

  monkeypatch.setattr(lock.fcntl, 'flock', flock)
  with pytest.raises(OSError, match='keeps no locks; use a --workdir on'):
    with lock.held(tmp_path):
      pass
