"""kill -9 in the phases of a search for a front, and what comes after.

`pipeline_test` kills a search with one objective, at other moments; `killing`
is for many kills at random times, by hand.
"""

import functools
import random
import shutil
import signal
import time

import pytest

from automerge_jax import pipeline
from automerge_jax.search import lock
from automerge_jax.search.ledger import Ledger
from tests import killing, tiny_job

# Small enough for many starts: two objectives, two rungs, two members or more.
SMALL = {
  'objectives': ['tiny_colour', 'tiny_number'],
  'candidates': 30,
  'gradient_steps': 8,
  'finalists': 4,
  'ties_scales': [],
  'weights': [0.4, 0.8],
  'select': 24,
  'heldout': 30,
}


@pytest.fixture(scope='module')
def want(tiny):
  """The workdir of an undisturbed run."""
  killing.finish(tiny, tiny / 'want', SMALL)
  return tiny / 'want'


def _rows(query):
  return lambda workdir: killing.count(workdir, query)


def _there(*patterns):
  return lambda workdir: any(any(workdir.glob(p)) for p in patterns)


# What can be seen of a phase from outside once it has begun.
PHASES = {
  'load': _there('lock'),
  'climb': _rows("candidates WHERE origin LIKE 'gradient%'"),
  'search': _rows("candidates WHERE origin = 'search'"),
  'export': _there('.front.next', '.merged_hf.*', '.merged.next', 'merged_hf'),
}


def test_killed_in_any_phase_it_comes_to_the_same_end(tiny, want):
  workdir, draw = tiny / 'killed', random.Random(0)
  for name, reached in PHASES.items():
    process = killing.start(tiny, workdir, SMALL)
    if name == 'load':
      _second_process_is_refused(tiny, workdir, process)
    reached = functools.partial(reached, workdir)
    assert killing.kill(process, reached, draw.uniform(0, 0.05)), name
    assert not (workdir / 'summary.json').exists()
  killing.finish(tiny, workdir, SMALL)
  killing.assert_same(workdir, want)
  members = {p.name for p in (want / 'front').glob('*.yaml')}
  assert members == {
    f'{n}.yaml' for n in range(len(killing.summary(want)['front']['members']))
  }


def _second_process_is_refused(tiny, workdir, first):
  """While the first one loads."""
  path = workdir / lock.NAME
  while first.poll() is None and not (path.exists() and path.read_text()):
    time.sleep(0.001)
  first.send_signal(signal.SIGSTOP)  # it shall not be through too early
  with pytest.raises(lock.InUseError, match=f'by process {first.pid} on '):
    pipeline.run(tiny_job.settings(tiny, SMALL), workdir, '')
  first.send_signal(signal.SIGCONT)


def test_a_raised_budget_goes_on_from_a_finished_run(tiny, want):
  workdir = tiny / 'raised'
  shutil.copytree(want, workdir)
  before = killing.rows(want)
  more = SMALL | {'candidates': 42}
  process = killing.start(tiny, workdir, more)
  added = f'candidates WHERE generation > {before["candidates"][-1][0]}'
  assert killing.kill(process, lambda: killing.count(workdir, added))
  killing.finish(tiny, workdir, more)
  after = killing.rows(workdir)
  count = len(before['candidates'])
  assert after['candidates'][:count] == before['candidates']
  assert count + 6 <= len(after['candidates']) <= 42
  assert set(before['scores']) < set(after['scores'])
  with Ledger(workdir / 'ledger.sqlite', read_only=True) as ledger:
    assert ledger.grown('candidates') == [30, 42]
    looks = ledger.looks()
  old, new = (
    killing.summary(w)['models']['merged']['recipe_hash']
    for w in (want, workdir)
  )
  assert looks == list(dict.fromkeys([old, new]))
  members = killing.summary(workdir)['front']['members']
  assert len(list((workdir / 'front').glob('*.yaml'))) == len(members)
  with pytest.raises(
    ValueError, match='candidates = 42, now it is 30, and may'
  ):
    pipeline.run(tiny_job.settings(tiny, SMALL), workdir, '')
  assert killing.rows(workdir) == after
