"""The ledger: round trips, all-or-none, refusals, durability."""

import sqlite3

import numpy as np
import pytest

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


def test_a_failure_is_a_reason_and_no_score(ledger):
  ledger.record('s', TASKS, TASK, {'r': Scores(None, None, 'not finite')})
  assert ledger.scores('r', 's', TASKS, TASK) == Scores(
    None, None, 'not finite'
  )


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


def test_another_search_is_refused_by_key(ledger):
  ledger.claim({'seed': 1, 'rungs': (10, 20)})
  ledger.claim({'seed': 1, 'rungs': [10, 20]})
  with pytest.raises(ValueError, match=r'rungs = \[10, 20\], now it is \[10\]'):
    ledger.claim({'seed': 1, 'rungs': [10]})


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
