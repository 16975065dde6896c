"""Schedules, races, screening, climbs and budgets, all at once."""

import json
import sqlite3

import numpy as np
import pytest

from automerge_jax import pipeline
from automerge_jax.search import archive, climbing, objectives
from automerge_jax.search.ledger import Candidate, Scores
from automerge_jax.tasks.itemset import ItemSet
from tests import tiny_suite

PARTS = {
  'objective': 'accuracy',
  'budget': '36',
  'candidates': 0,
  'rungs': (24, 48),
  'promote': (),
  'schedule': 'asynchronous',
  'eta': 2,
  'race': 0.2,
  'screen': 3,
  'std': 0.4,
  'gradient_steps': 4,
  'gradient_objective': 'experts',
  'gradient_every': 4,
  'gradient_validation': 0.25,
  'gradient_shrinkage': 0.3,
}

SEARCHED = "FROM scores WHERE setting LIKE 'search/%/%'"


@pytest.fixture(scope='module')
def job(tiny, tmp_path_factory):
  """A finished run with every part, and its summary."""
  workdir = tmp_path_factory.mktemp('parts') / 'run'
  made = tiny_suite.settings(tiny, **PARTS)
  return workdir, pipeline.run(made, workdir, 'the command')


def _rows(workdir, query):
  with sqlite3.connect(f'file:{workdir}/ledger.sqlite?mode=ro', uri=True) as db:
    return db.execute(query).fetchall()


def _proposals(workdir):
  return _rows(
    workdir,
    'SELECT generation, slot, origin, recipe, coefficients, asked, predicted '
    'FROM candidates ORDER BY generation, slot',
  )


def test_what_was_spent_is_within_the_budget_and_adds_up(job):
  workdir, result = job
  budget = 36 * 48 * 3
  curve = [row['items'] for row in result['search']['curve']]
  assert curve == sorted(curve) and curve[-1] <= budget
  assert result['search']['items'] == curve[-1]
  spending = result['search']['spending']
  scored = sum(row['scored'] for row in spending['rungs'])
  assert scored + spending['gradient_items'] == curve[-1]
  assert spending['gradient_items'] > 0
  blobs = _rows(workdir, f'SELECT score {SEARCHED}')
  values = np.concatenate([np.frombuffer(b, np.float32) for (b,) in blobs if b])
  assert np.isfinite(values).sum() == scored


def test_races_stop_some_and_those_are_no_finalists(job):
  workdir, result = job
  spending = result['search']['spending']
  stopped = sum(row['stopped'] for row in spending['rungs'])
  assert stopped > 0 and spending['items_saved'] > 0
  behind = {
    recipe
    for recipe, blob in _rows(workdir, f'SELECT recipe, score {SEARCHED}')
    if blob and np.isnan(np.frombuffer(blob, np.float32)).any()
  }
  assert len(behind) >= 1
  chosen = {
    row['recipe_hash'] for row in result['finalists'] if row['origin'] != 'mean'
  }
  assert not behind & chosen


def test_every_proposal_of_the_optimizer_was_foreseen(job):
  workdir, result = job
  rows = _proposals(workdir)
  searched = [row for row in rows if row[2] == 'search']
  assert searched and all(None not in row for row in searched)
  others = [row for row in rows if row[2] != 'search']
  assert all(row[5] is None and row[6] is None for row in others)
  told = result['search']['screening']
  assert [r['generation'] for r in told] == sorted({r[0] for r in searched})


def test_climbs_come_between_generations(job):
  rows = _proposals(job[0])
  climbs = {row[0] for row in rows if row[2].startswith('gradient')}
  first = min(climbs)
  assert climbs == {
    g for g in range(first, rows[-1][0] + 1) if (g - first) % 5 == 0
  }
  assert len(climbs) > 1


def test_the_same_again_changes_nothing(tiny, job):
  workdir, result = job
  again = pipeline.run(tiny_suite.settings(tiny, **PARTS), workdir, 'again')
  drop = ('environment',)
  assert {k: v for k, v in again.items() if k not in drop} == {
    k: v for k, v in result.items() if k not in drop
  }


def test_a_larger_budget_begins_the_same(tiny, job):
  workdir, _ = job
  before = _proposals(workdir)
  more = tiny_suite.settings(tiny, **PARTS | {'budget': '48'})
  result = pipeline.run(more, workdir, 'more')
  after = _proposals(workdir)
  assert after[: len(before)] == before and len(after) > len(before)
  assert result['search']['items'] <= 48 * 48 * 3
  assert result['looks'] in (1, 2)
  with pytest.raises(ValueError, match=r'budget = 48, now it is 36'):
    pipeline.run(tiny_suite.settings(tiny, **PARTS), workdir, 'less')
  other = PARTS | {'budget': '48', 'race': 0.1, 'screen': 1}
  with pytest.raises(ValueError, match=r'race = 0.2.*screen = 3'):
    pipeline.run(tiny_suite.settings(tiny, **other), workdir, 'other')


def test_minutes_become_items_once(tiny, tmp_path):
  brief = {
    'budget': '1 second',
    'candidates': 14,
    'gradient_steps': 0,
    'rungs': (16,),
    'promote': (),
  }
  made = tiny_suite.settings(tiny, **brief)
  first = pipeline.run(made, tmp_path / 'a', 'x')
  ((rate,),) = _rows(
    tmp_path / 'a', "SELECT value FROM run WHERE key = 'items a second'"
  )
  assert json.loads(rate) > 0
  again = pipeline.run(made, tmp_path / 'a', 'x')
  assert again['search'] == first['search']


def test_a_search_without_an_end_is_refused(tiny, tmp_path):
  made = tiny_suite.settings(tiny, candidates=0)
  with pytest.raises(ValueError, match=r"search\.budget='100'"):
    pipeline.run(made, tmp_path / 'a', 'x')


def _items(count):
  return ItemSet(
    tasks=('a',),
    definitions=(None,),
    encoded=((),) * count,
    task=np.zeros(count, np.int32),
    label=np.zeros(count, np.int32),
    ids=tuple(map(str, range(count))),
    flags=np.zeros(count, np.uint8),
    items=(),
  )


def test_who_was_stopped_later_stands_before_who_was_stopped_sooner():
  subsets = [_items(4), _items(4)]
  goals = objectives.read(['a'], 'accuracy')

  def row(*parts):
    found = archive.Row(0, Candidate('x', repr(parts), np.zeros(1)))
    for values in parts:
      scores = Scores(None, None, 'broken')
      if values is not None:
        scores = Scores(np.asarray(values, float), np.zeros(4))
      archive.add(found, scores, subsets, goals, None)
    return found

  nan = np.nan
  rows = [
    row([1, 1, nan, nan]),
    row(None),
    row([1, 0, 0, 0]),
    row([1, 0, nan, nan]),
    row([0, 0, 1, nan]),
    row([1, 0, 0, 0], [1, 0, nan, nan]),
    row([1, 1, 1, 1]),
    row([0, 0, 1, 0], [0, 0, 0, 1]),
  ]
  order = np.argsort(-archive.order(rows, subsets, goals), kind='stable')
  assert order.tolist() == [7, 6, 2, 5, 4, 0, 3, 1]
  # Among those that completed a rung the races change nothing.
  done = [i for i, one in enumerate(rows) if one.rung >= 0]
  told = archive.scored([rows[i] for i in done], subsets, goals)
  ranks = archive.ranked(told)
  assert [done[i] for i in np.argsort(-ranks)] == [7, 6, 2, 5]


def test_a_climber_without_a_climb_costs_nothing():
  class Study:
    climb = None

  class Scorer:
    rows = ()

  assert climbing.Climber(Study(), Scorer(), _items(4)).items == 0
