"""Faults while writing: full or forbidden disks, interruption, kill -9."""

import errno
import json
import os
import pathlib
import re
import signal
import subprocess
import sys

import numpy as np
import pytest

from automerge_jax.io import atomic, sharded
from automerge_jax.io import safetensors as st_io
from automerge_jax.io.tensors import TensorInfo

INFOS = {
  f'layer.{i}': TensorInfo((64, 1024), np.dtype(np.float32)) for i in range(4)
}
_BYTES = sum(info.nbytes for info in INFOS.values())

# Writes a model slowly, saying where it is.
_WRITE = """
import sys, time
import numpy as np
from automerge_jax.io import atomic, sharded
from automerge_jax.io.tensors import TensorInfo
info = TensorInfo((64, 1024), np.dtype(np.float32))
names = [f'layer.{i}' for i in range(4)]
with atomic.folder(sys.argv[1]) as folder:
  with sharded.Writer(folder, dict.fromkeys(names, info), '300KB') as writer:
    for name in names:
      writer.write(name, np.full(info.shape, 1, info.dtype))
      print(name, flush=True)
      if name == 'layer.1':
        time.sleep(float(sys.argv[2]))
"""


def _merge(out, needed=0):
  with atomic.folder(out, needed) as folder:
    with sharded.Writer(folder, INFOS, '300KB') as writer:
      for name, info in INFOS.items():
        writer.write(name, np.full(info.shape, 2, info.dtype))


def _assert_whole(out, value):
  tensors = st_io.read(out)
  assert set(tensors) == set(INFOS)
  assert all((t == value).all() for t in tensors.values())


def _start(out, seconds):
  process = subprocess.Popen(
    [sys.executable, '-c', _WRITE, str(out), str(seconds)],
    stdout=subprocess.PIPE,
    text=True,
  )
  for line in process.stdout:
    if line.strip() == 'layer.1':
      break
  return process


def test_the_folder_appears_when_it_is_whole(tmp_path):
  out = tmp_path / 'deep' / 'er' / 'out'
  with atomic.folder(out) as folder:
    (folder / 'sub').mkdir()
    (folder / 'sub' / 'x').write_text('x')
    assert not out.exists()
    assert folder.parent == out.parent
  assert (out / 'sub' / 'x').read_text() == 'x'
  assert os.listdir(out.parent) == ['out']


@pytest.mark.parametrize('error', [ValueError, KeyboardInterrupt, SystemExit])
def test_nothing_is_left_after_a_failure(tmp_path, error):
  with pytest.raises(error):
    with atomic.folder(tmp_path / 'out') as folder:
      (folder / 'x').write_text('x')
      raise error
  assert os.listdir(tmp_path) == []


def test_what_exists_is_refused(tmp_path):
  (tmp_path / 'out').mkdir()
  with pytest.raises(FileExistsError, match='out exists; choose another'):
    _merge(tmp_path / 'out')
  (tmp_path / 'link').symlink_to(tmp_path / 'nowhere')
  with pytest.raises(FileExistsError, match='link exists'):
    _merge(tmp_path / 'link')


def test_what_appears_meanwhile_is_kept(tmp_path):
  out = tmp_path / 'out'
  with pytest.raises(FileExistsError, match='out exists'):
    with atomic.folder(out) as folder:
      (folder / 'x').write_text('mine')
      out.mkdir()
  assert os.listdir(tmp_path) == ['out']
  assert os.listdir(out) == []


def test_kill_leaves_no_output_and_the_next_run_cleans_up(tmp_path):
  out = tmp_path / 'out'
  process = _start(out, 60)
  process.send_signal(signal.SIGKILL)
  process.wait()
  left = os.listdir(tmp_path)
  assert len(left) == 1
  assert left[0].startswith('.out.')
  _merge(out)
  assert os.listdir(tmp_path) == ['out']
  _assert_whole(out, 2)


def test_interrupt_removes_what_was_written(tmp_path):
  process = _start(tmp_path / 'out', 60)
  process.send_signal(signal.SIGINT)
  assert process.wait() != 0
  assert os.listdir(tmp_path) == []


def test_a_living_run_is_left_alone(tmp_path):
  process = _start(tmp_path / 'out', 1)
  assert atomic.remove_leftovers(tmp_path / 'out') == []
  _merge(tmp_path / 'other')
  assert process.wait() == 0
  _assert_whole(tmp_path / 'out', 1)
  _assert_whole(tmp_path / 'other', 2)
  assert sorted(os.listdir(tmp_path)) == ['other', 'out']


def test_other_names_are_not_leftovers(tmp_path):
  for name in ('.out.abc.partial', '.out*.abc.partial', '.xout.abc.partial'):
    (tmp_path / name).mkdir()
  removed = atomic.remove_leftovers(tmp_path / 'out*')
  assert [path.name for path in removed] == ['.out*.abc.partial']
  removed = atomic.remove_leftovers(tmp_path / 'out')
  assert [path.name for path in removed] == ['.out.abc.partial']


def test_permissions_follow_the_umask(tmp_path):
  old = os.umask(0o027)
  try:
    _merge(tmp_path / 'out')
  finally:
    os.umask(old)
  assert (tmp_path / 'out').stat().st_mode & 0o777 == 0o750


def test_too_little_space_is_said_in_advance(tmp_path):
  with pytest.raises(OSError, match=r'only [0-9,]+ are free; free') as caught:
    _merge(tmp_path / 'out', 10**18)
  assert caught.value.errno == errno.ENOSPC
  assert '1,000,000,000,000,000,000 bytes' in str(caught.value)
  assert os.listdir(tmp_path) == []


def test_a_limit_on_files_leaves_nothing(tmp_path):
  """As a disk that fills up: writing beyond it fails in the middle."""
  limit = (
    'import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (2**16,)*2)'
  )
  done = subprocess.run(
    [sys.executable, '-c', limit + _WRITE, str(tmp_path / 'out'), '0'],
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 1
  assert f'cannot write {_BYTES:,} bytes: a file would grow' in done.stderr
  assert 'ulimit -f' in done.stderr
  assert os.listdir(tmp_path) == []


# Mounts a small file system at argv[1], seen by this process alone; before
# other imports, since threads forbid it.
_SMALL_DISK = """
import ctypes, os, pathlib, sys
path, options = os.fsencode(sys.argv[1]), sys.argv[3]
libc = ctypes.CDLL(None, use_errno=True)
user, group = os.getuid(), os.getgid()
new_user, new_mounts, private, read_only = 0x10000000, 0x20000, 0x44000, 0x21
def check(failed):
  if failed:
    print('cannot mount:', os.strerror(ctypes.get_errno()))
    sys.exit(77)
check(libc.unshare(new_user | new_mounts))
for file, text in (
  ('setgroups', 'deny'),
  ('uid_map', f'0 {user} 1'),
  ('gid_map', f'0 {group} 1'),
):
  pathlib.Path('/proc/self', file).write_text(text)
check(libc.mount(b'none', b'/', None, private, None))
check(libc.mount(b'tmpfs', path, b'tmpfs', 0, b'size=900k'))
if options == 'read-only':
  check(libc.mount(None, path, None, read_only, None))
"""
_NOBODY = """
import os
from tests import atomic_test
if os.getuid() == 0:
  os.setuid(65534)
"""
_ACT = """
import json, pathlib, sys
from tests import atomic_test
folder = pathlib.Path(sys.argv[1])
try:
  getattr(atomic_test, sys.argv[2])(folder / 'out')
  print(json.dumps([0, 'wrote it', []]))
except OSError as error:
  left = os.listdir(folder) if os.access(folder, os.R_OK) else []
  print(json.dumps([error.errno, str(error), left]))
"""


def _attempt(first, folder, act, *options):
  """Runs `act` in a process of its own: (errno, message, what is left)."""
  done = subprocess.run(
    [sys.executable, '-c', first + _ACT, str(folder), act, *options],
    cwd=pathlib.Path(__file__).parents[1],
    capture_output=True,
    text=True,
    check=False,
  )
  if done.returncode == 77:
    pytest.skip(done.stdout)
  assert done.returncode == 0, done.stderr
  return json.loads(done.stdout.splitlines()[-1])


def _fill(out):
  """Writes past the end of the disk although it looked free."""
  with atomic.folder(out) as folder:
    with sharded.Writer(folder, dict(list(INFOS.items())[:2])) as writer:
      for name, info in list(INFOS.items())[:2]:
        writer.write(name, np.zeros(info.shape, info.dtype))
    (folder / 'more').write_bytes(b'x' * 600_000)


@pytest.mark.parametrize(
  'options, act, number, words',
  [
    ('full', '_merge', errno.ENOSPC, 'only [0-9,]+ are free'),
    ('full', '_fill', errno.ENOSPC, 'the disk is full; free space'),
    ('read-only', '_merge', errno.EROFS, 'read-only; choose another folder'),
  ],
)
def test_full_and_read_only_disks(tmp_path, options, act, number, words):
  have, message, left = _attempt(_SMALL_DISK, tmp_path, act, options)
  assert have == number, message
  assert re.search(words, message), message
  assert left == []


def test_a_forbidden_folder_is_explained(tmp_path):
  tmp_path.chmod(0o500)
  number, message, _ = _attempt(_NOBODY, tmp_path, '_merge')
  tmp_path.chmod(0o700)
  assert number == errno.EACCES, message
  assert 'no permission to write; choose another folder' in message
  assert os.listdir(tmp_path) == []


def test_inputs_that_may_not_be_read_are_no_matter_of_the_output(tmp_path):
  denied = PermissionError(errno.EACCES, 'Permission denied', '/elsewhere/x')
  with pytest.raises(PermissionError) as caught:
    with atomic.folder(tmp_path / 'out'):
      raise denied
  assert caught.value is denied


@pytest.mark.parametrize('exchange', [True, False])
def test_a_folder_takes_the_place_of_another(tmp_path, monkeypatch, exchange):
  if not exchange:  # as a system without that call
    monkeypatch.setattr(atomic, '_exchange', lambda one, other: False)
  out, new = tmp_path / 'out', tmp_path / '.out.next'
  for content in ('first', 'second', 'third'):
    new.mkdir()
    (new / content).write_text(content)
    atomic.replace(new, out)
    assert [p.name for p in tmp_path.iterdir()] == ['out']
    assert [p.name for p in out.iterdir()] == [content]


def test_two_names_are_exchanged_in_one_step(tmp_path):
  for name in ('a', 'b'):
    (tmp_path / name).mkdir()
    (tmp_path / name / name).touch()
  assert atomic._exchange(tmp_path / 'a', tmp_path / 'b')
  assert (tmp_path / 'a' / 'b').is_file()
  assert (tmp_path / 'b' / 'a').is_file()
  assert not atomic._exchange(tmp_path / 'a', tmp_path / 'nowhere')
