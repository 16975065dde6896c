"""The ledger: round trips, all-or-none, refusals, retries, durability."""

import sqlite3
import threading

import numpy as np
import pytest

from automerge_jax.search import failures, tables
from automerge_jax.search.ledger import Candidate, Ledger, Scores
from tests import tiny_items

TASKS = ('a', 'b')
TASK = np.asarray([0, 1, 0, 1, 1])


@pytest.fixture
def ledger(tmp_path):
  with Ledger(tmp_path / 'ledger.sqlite') as opened:
    yield opened


def _scores(seed):
  rng = np.random.default_rng(seed)
  return Scores(
    rng.integers(0, 2, 5).astype(np.float32),
    rng.normal(size=5).astype(np.float32),
  )


def test_proposals_come_back_by_slot(ledger):
  made = [
    Candidate(f'o{i}', f'r{i}', np.float32([0.1 * i, -1e-7])) for i in range(12)
  ]
  ledger.propose(3, made)
  assert ledger.proposals(2) == []
  for have, want in zip(ledger.proposals(3), made, strict=True):
    assert have[:2] == want[:2]
    np.testing.assert_array_equal(have.coefficients, want.coefficients)


def test_scores_come_back_bit_for_bit_in_item_order(ledger):
  made = {'r': _scores(0), 's': _scores(1)}
  ledger.record('search/0', TASKS, TASK, made)
  for recipe, want in made.items():
    have = ledger.scores(recipe, 'search/0', TASKS, TASK)
    np.testing.assert_array_equal(have.score, want.score)
    np.testing.assert_array_equal(have.log_likelihood, want.log_likelihood)
    assert have.failure is None
  assert ledger.scores('r', 'search/1', TASKS, TASK) is None
  assert ledger.scores('t', 'search/0', TASKS, TASK) is None


def test_what_was_asked_and_foreseen_comes_back(ledger):
  made = [
    Candidate(
      'search', 'r', np.float32([1, 2]), np.float32([0.1, 1 / 3]), -0.1
    ),
    Candidate('uniform', 's', np.float32([1, 2])),
  ]
  ledger.propose(0, made)
  first, second = ledger.proposals(0)
  assert first.asked.tobytes() == made[0].asked.tobytes()
  assert first.predicted == -0.1
  assert second.asked is second.predicted is None


def test_items_that_a_race_did_not_reach_stay_bit_for_bit(ledger):
  """NaN of any payload, negative zero, and flags beside them."""
  odd = np.uint32([0x7FC00001, 0xFFC00000, 0x7F800001, 0x80000000, 0x3F800000])
  want = Scores(
    odd.view(np.float32),
    odd[::-1].view(np.float32),
    flags=np.uint8([0, 3, 0, 1, 2]),
  )
  ledger.record('s', TASKS, TASK, {'r': want})
  have = ledger.scores('r', 's', TASKS, TASK)
  assert have.score.tobytes() == want.score.tobytes()
  assert have.log_likelihood.tobytes() == want.log_likelihood.tobytes()
  np.testing.assert_array_equal(have.flags, want.flags)
  assert have.flags.dtype == np.uint8
  assert have.stopped


def test_a_failure_is_a_reason_and_no_score(ledger):
  ledger.record('s', TASKS, TASK, {'r': Scores(None, None, 'not finite')})
  assert ledger.scores('r', 's', TASKS, TASK) == Scores(
    None, None, 'not finite', kind=failures.NOT_FINITE
  )
  assert ledger.failed('r', 's') == [(failures.NOT_FINITE, 'not finite')]


@pytest.mark.parametrize('kind', [failures.GATE, failures.NOT_FINITE])
def test_what_fails_by_its_own_numbers_is_not_tried_again(tmp_path, kind):
  failed = Scores(None, None, 'too large', kind=kind)
  with Ledger(tmp_path / 'ledger.sqlite') as ledger:
    ledger.record('s', TASKS, TASK, {'r': failed})
  with Ledger(tmp_path / 'ledger.sqlite') as ledger:
    assert ledger.scores('r', 's', TASKS, TASK) == failed
    with pytest.raises(sqlite3.IntegrityError):
      ledger.record('s', TASKS, TASK, {'r': _scores(0)})


@pytest.mark.parametrize('kind', failures.RETRIED)
@pytest.mark.parametrize('at_last', ['scores', 'failure'])
def test_other_failures_are_tried_again_by_each_start(tmp_path, kind, at_last):
  path = tmp_path / 'ledger.sqlite'
  for attempt in range(1, failures.ATTEMPTS + 1):
    with Ledger(path) as ledger:
      assert ledger.scores('r', 's', TASKS, TASK) is None
      made = Scores(None, None, f'reason {attempt}', kind=kind)
      if attempt == failures.ATTEMPTS and at_last == 'scores':
        made = _scores(0)
      ledger.record('s', TASKS, TASK, {'r': made})
      have = ledger.scores('r', 's', TASKS, TASK)  # not again by this start
      assert have.failure == made.failure
  with Ledger(path) as ledger:
    have = ledger.scores('r', 's', TASKS, TASK)
    assert have.failure == made.failure
    assert (have.score is None) == (at_last == 'failure')
    kept = failures.ATTEMPTS - (at_last == 'scores')
    assert ledger.failed('r', 's') == [
      (kind, f'reason {n + 1}') for n in range(kept)
    ]
    if at_last == 'scores':  # for good
      with pytest.raises(sqlite3.IntegrityError):
        ledger.record('s', TASKS, TASK, {'r': _scores(1)})


@pytest.mark.parametrize('what', ['proposals', 'scores'])
def test_all_or_none(ledger, what):
  """A row that is there already undoes those that came with it."""
  one = Candidate('o', 'r', np.zeros(2, np.float32))
  if what == 'proposals':
    ledger.propose(0, [one])
    with pytest.raises(sqlite3.IntegrityError):
      ledger.propose(0, [one._replace(origin='new'), one])
    assert [c.origin for c in ledger.proposals(0)] == ['o']
  else:
    ledger.record('s', TASKS, TASK, {'r': _scores(0)})
    with pytest.raises(sqlite3.IntegrityError):
      ledger.record('s', TASKS, TASK, {'new': _scores(1), 'r': _scores(1)})
    assert ledger.scores('new', 's', TASKS, TASK) is None
    np.testing.assert_array_equal(
      ledger.scores('r', 's', TASKS, TASK).score, _scores(0).score
    )
  ledger.propose(1, [one])  # and the ledger can still be written


def test_it_is_all_there_when_opened_again(tmp_path):
  path = tmp_path / 'ledger.sqlite'
  with Ledger(path) as ledger:
    ledger.claim({'seed': 1})
    ledger.propose(0, [Candidate('o', 'r', np.ones(3, np.float32))])
  with Ledger(path) as ledger:
    ledger.claim({'seed': 1})
    assert len(ledger.proposals(0)) == 1


def test_another_search_is_refused_by_all_its_keys(ledger):
  ledger.claim({'seed': 1, 'rungs': (10, 20), 'gone': 'x', 'same': None})
  ledger.claim({'seed': 1, 'rungs': [10, 20], 'gone': 'x', 'same': None})
  with pytest.raises(ValueError, match='another --workdir') as caught:
    ledger.claim({'seed': 2, 'rungs': [10], 'same': None, 'new': 0})
  message = str(caught.value)
  for part in (
    'seed = 1, now it is 2',
    'rungs = [10, 20], now it is [10]',
    'gone = "x", now it is (nothing)',
    'new = (nothing), now it is 0',
  ):
    assert part in message
  assert 'same' not in message
  ledger.claim({'seed': 1, 'rungs': [10, 20], 'gone': 'x', 'same': None})


def test_a_budget_may_grow_and_never_shrink(ledger):
  ledger.claim({'seed': 1}, {'budget': 100, 'candidates': 40})
  ledger.claim({'seed': 1}, {'budget': 250.5, 'candidates': 40})
  ledger.claim({'seed': 1}, {'budget': 250.5, 'candidates': np.inf})
  assert ledger.grown('budget') == [100, 250.5]
  assert ledger.grown('candidates') == [40, np.inf]
  with pytest.raises(ValueError, match='with') as caught:
    ledger.claim({'seed': 3}, {'budget': 200, 'candidates': 1e6})
  message = str(caught.value)
  assert 'budget = 250.5, now it is 200, and may only be raised' in message
  assert 'candidates = inf, now it is 1000000, and' in message
  assert 'seed = 1, now it is 3' in message
  assert ledger.grown('budget') == [100, 250.5]  # nothing of it was recorded


def test_what_was_measured_once_stays(tmp_path):
  with Ledger(tmp_path / 'ledger.sqlite') as ledger:
    ledger.claim({'items': 3})
    assert ledger.note('items', {'in 30 minutes': 5000}) == {
      'in 30 minutes': 5000
    }
  with Ledger(tmp_path / 'ledger.sqlite') as ledger:
    assert ledger.note('items', 7) == {'in 30 minutes': 5000}
    assert ledger.note('other', None) is None
    ledger.claim({'items': 3})  # notes are no part of it


def test_final_merges_are_counted_once_each(tmp_path):
  with Ledger(tmp_path / 'ledger.sqlite') as ledger:
    assert ledger.looks() == []
    assert [ledger.look(r) for r in ('b', 'b', 'a')] == [1, 1, 2]
  with Ledger(tmp_path / 'ledger.sqlite') as ledger:
    assert ledger.look('b') == 2
    assert ledger.looks() == ['b', 'a']


def test_other_tables_and_other_files_are_refused_in_words(tmp_path):
  old = tmp_path / 'old.sqlite'
  with sqlite3.connect(old) as db:
    db.execute('CREATE TABLE run (key TEXT PRIMARY KEY, value TEXT NOT NULL)')
  db.close()
  with pytest.raises(ValueError, match=r'old\.sqlite has tables of version 0'):
    Ledger(old)
  text = tmp_path / 'text.sqlite'
  text.write_text('no database at all, but long enough for a header' * 9)
  with pytest.raises(ValueError, match='is no ledger'):
    Ledger(text)
  with pytest.raises(FileNotFoundError, match='is not there'):
    Ledger(tmp_path / 'nowhere.sqlite', read_only=True)
  assert not (tmp_path / 'nowhere.sqlite').exists()
  (tmp_path / 'empty.sqlite').touch()
  with pytest.raises(ValueError, match='holds nothing yet'):
    Ledger(tmp_path / 'empty.sqlite', read_only=True)


def test_a_ledger_of_another_run_is_only_read(tmp_path):
  path = tmp_path / 'a # b?.sqlite'
  with Ledger(path) as theirs, Ledger(path, read_only=True) as ours:
    theirs.record('s', TASKS, TASK, {'r': _scores(0)})
    np.testing.assert_array_equal(
      ours.scores('r', 's', TASKS, TASK).score, _scores(0).score
    )
    with pytest.raises(sqlite3.OperationalError, match='readonly'):
      ours.record('s', TASKS, TASK, {'t': _scores(1)})


def test_a_new_ledger_is_made_once_by_several_at_a_time(tmp_path):
  begin, failed = threading.Barrier(8), []

  def start():
    begin.wait()
    try:
      with Ledger(tmp_path / 'ledger.sqlite') as ledger:
        ledger.claim({'seed': 1})
    except Exception as error:
      failed.append(error)

  threads = [threading.Thread(target=start) for _ in range(8)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert not failed
  with sqlite3.connect(tmp_path / 'ledger.sqlite') as db:
    assert db.execute('PRAGMA user_version').fetchone() == (tables.VERSION,)
  db.close()


def test_other_items_are_refused(ledger):
  ledger.record_items('s', _items(['x', 'y']))
  ledger.record_items('s', _items(['x', 'y']))
  ledger.record_items('t', _items(['z']))
  assert ledger.has_items('s', _items(['x', 'y']))
  assert not ledger.has_items('s', _items(['y', 'x']))
  assert not ledger.has_items('u', _items(['x', 'y']))
  with pytest.raises(ValueError, match="other items of 'a' in 's'"):
    ledger.record_items('s', _items(['y', 'x']))


def test_no_row_holds_a_time(tmp_path):
  """Two ledgers of the same search are the same row for row."""
  dumps = []
  for name in ('one', 'two'):
    with Ledger(tmp_path / name) as ledger:
      ledger.claim({'seed': 1})
      ledger.record_items('s', _items(['x']))
      ledger.propose(0, [Candidate('o', 'r', np.ones(3, np.float32))])
      ledger.record('s', TASKS, TASK, {'r': _scores(0)})
    with sqlite3.connect(tmp_path / name) as db:
      dumps.append(list(db.iterdump()))
  assert dumps[0] == dumps[1]


def _items(ids):
  zeros = np.zeros(len(ids), np.int32)
  return tiny_items.classified(('a',), ids, [(1,)] * len(ids), zeros, zeros)
