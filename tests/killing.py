"""Kills the tiny job with SIGKILL and compares what comes of it.

  python -m tests.killing KILLS [SEED [OTHER]]

runs it as often as it takes for so many kills at random times, each time to
its end, and compares every end with that of an undisturbed run. OTHER is JSON
of other settings.
"""

import contextlib
import json
import pathlib
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time

from tests import tiny_job

KEYS = {
  'run': 'kind, key',
  'grown': 'key, value',
  'items': 'setting, task',
  'candidates': 'generation, slot',
  'scores': 'recipe, setting, task, attempt',
  'finals': 'number',
}
_TURN = 0.005  # seconds between two looks


def start(folder, workdir, other=None):
  """A process that runs the job; what it says is left beside the workdir."""
  told = json.dumps(other or {})
  command = [sys.executable, '-m', 'tests.tiny_job', folder, workdir, told]
  with open(_log(workdir), 'a') as log:
    return subprocess.Popen(list(map(str, command)), stdout=log, stderr=log)


def _log(workdir):
  return workdir.with_name(workdir.name + '.log')


def finish(folder, workdir, other=None):
  """Runs the job to its end."""
  process = start(folder, workdir, other)
  assert process.wait() == 0, _log(workdir).read_text()[-3000:]


def kill(process, reached, seconds=0.0, most=200):
  """Kills a process so long after `reached()`; False if it ended before."""
  deadline = time.monotonic() + most
  while process.poll() is None and not reached():
    assert time.monotonic() < deadline, f'{reached} was not reached'
    time.sleep(_TURN)
  with contextlib.suppress(subprocess.TimeoutExpired):
    process.wait(seconds)
  process.kill()
  return process.wait() == -signal.SIGKILL


def count(workdir, query):
  """What a query counts in a ledger that another process writes."""
  try:
    with sqlite3.connect(
      f'file:{workdir}/ledger.sqlite?mode=ro', uri=True
    ) as db:
      return db.execute(f'SELECT count(*) FROM {query}').fetchone()[0]
  except sqlite3.OperationalError:  # not there yet
    return 0


def rows(workdir):
  """Every row of every table of a ledger, in key order."""
  with sqlite3.connect(f'file:{workdir}/ledger.sqlite?mode=ro', uri=True) as db:
    found = db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
    assert {name for (name,) in found} == set(KEYS)
    return {
      table: db.execute(f'SELECT * FROM {table} ORDER BY {key}').fetchall()
      for table, key in KEYS.items()
    }


def summary(workdir):
  """What does not depend on time."""
  told = json.loads((workdir / 'summary.json').read_text())
  return {key: value for key, value in told.items() if key != 'environment'}


def exported(workdir):
  """Bytes of the merge, its heads and recipes, and of a front's recipes."""
  files = [
    path
    for folder in ('merged_hf', 'front')
    for path in (workdir / folder).rglob('*')
    if path.is_file()
  ]
  assert files
  return {str(p.relative_to(workdir)): p.read_bytes() for p in files}


def assert_same(have, want):
  """Two workdirs came to the same end, and nothing is left over in `have`."""
  ours, theirs = rows(have), rows(want)
  for table, wanted in theirs.items():
    assert ours[table] == wanted, table
  assert summary(have) == summary(want)
  ours, theirs = exported(have), exported(want)
  assert set(ours) == set(theirs)
  for name, content in theirs.items():
    assert ours[name] == content, name
  left = {p.name for p in have.iterdir()} ^ {p.name for p in want.iterdir()}
  assert not {n for n in left if not n.startswith('ledger.sqlite-')}, left


def main(kills, seed='0', other='{}'):
  """Random kills; prints the phase that each fell into."""
  draw, told, done, turn = random.Random(int(seed)), json.loads(other), 0, 0
  root = pathlib.Path(tempfile.mkdtemp(prefix='automerge_killing_'))
  tiny_job.suite(root)
  finish(root, root / 'warm', told)
  begin = time.monotonic()
  finish(root, root / 'want', told)
  whole = time.monotonic() - begin
  while done < int(kills):
    workdir, turn = root / f'run_{turn}', turn + 1
    killed = True
    for _ in range(12):
      process = start(root, workdir, told)
      # More of them early in what this start does: much of it is new.
      delay = whole * draw.random() ** 2
      killed = kill(process, lambda: True, delay)
      if not killed:
        assert process.returncode == 0, _log(workdir).read_text()[-3000:]
        break
      done += 1
      print(f'{done}: run {turn}, {_phase(workdir)}', flush=True)
    if killed:
      finish(root, workdir, told)
    assert_same(workdir, root / 'want')
    print(f'run {turn}: the same end', flush=True)


def _phase(workdir):
  """What a killed run had come to."""
  for name, there in (
    ('done', (workdir / 'summary.json').exists()),
    ('report', (workdir / 'report.html').exists()),
    ('held-out', count(workdir, "scores WHERE setting LIKE 'heldout/%'")),
    ('exported', (workdir / 'merged_hf').exists()),
    ('choose', count(workdir, "scores WHERE setting LIKE 'select/%'")),
    ('search', count(workdir, "candidates WHERE origin = 'search'")),
    ('climb', count(workdir, "candidates WHERE origin LIKE 'gradient%'")),
    ('start', count(workdir, 'candidates')),
    ('gate', count(workdir, 'run')),
  ):
    if there:
      return name
  return 'load'


if __name__ == '__main__':
  main(*sys.argv[1:])
