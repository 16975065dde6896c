"""Candidates stand in the order of what their objectives are likely to be."""

import types

import numpy as np
import pytest

from automerge_jax.search import archive, objectives
from automerge_jax.search.ledger import Candidate, Scores

N, ITEMS, TASKS = 40, 100, ('one', 'two')
TASK = np.repeat([0, 1], ITEMS)
SUBSETS = [types.SimpleNamespace(task=TASK, tasks=TASKS)] * 2


def _rows(goals, both=None):
  """Merges whose skill log-likelihoods show and few items hide."""
  draw = np.random.default_rng(0)
  skill = np.linspace(-1, 1, N)
  rows = []
  for i in draw.permutation(N):
    row = archive.Row(0, Candidate('x', f'{i}', np.zeros(1)))
    for _ in range(2 if both is None or i in both else 1):
      right = draw.random(len(TASK)) < 0.7 + 0.03 * skill[i]
      nats = np.full(len(TASK), -0.5 + 0.1 * skill[i])
      scores = Scores(right.astype(float), nats)
      archive.add(row, scores, SUBSETS, goals, None)
    rows.append(row)
  return rows, np.array([skill[int(row.candidate.recipe)] for row in rows])


def test_skill_is_seen_through_chance():
  goals = objectives.read(TASKS, 'accuracy')
  rows, skill = _rows(goals)
  measured = np.array([row.values[1][0] for row in rows])
  found = archive.likely(rows, SUBSETS, goals, 1).values[:, 0]
  plain, drawn = (np.corrcoef(v, skill)[0, 1] for v in (measured, found))
  assert drawn > 0.95 > plain + 0.1
  told = archive.scored(rows, SUBSETS, goals)
  assert [one.values[1] for one in told] == pytest.approx(measured.tolist())
  best = np.argmax(archive.ranked(told))
  assert skill[best] > 0.9
  assert np.argmax(archive.order(rows, SUBSETS, goals)) == best


def test_who_did_not_get_to_a_rung_has_nothing_there():
  goals = objectives.read(TASKS, 'accuracy')
  rows, _ = _rows(goals, both=range(20))
  found = archive.likely(rows, SUBSETS, goals, 1)
  there = np.array([row.rung == 1 for row in rows])
  assert there.sum() == 20
  np.testing.assert_array_equal(np.isfinite(found.values[:, 0]), there)
  assert archive.likely(rows[:0], SUBSETS, goals, 0).values.shape == (0, 1)


@pytest.mark.parametrize(
  ('metric', 'names', 'drawn'),
  [
    ('log_likelihood', (), True),
    ('accuracy', TASKS, True),
    ('accuracy', (), False),
  ],
)
def test_all_else_is_as_measured(metric, names, drawn):
  goals = objectives.read(TASKS, metric, names)._replace(drawn=drawn)
  rows, _ = _rows(goals)
  found = archive.likely(rows, SUBSETS, goals, 0).values
  np.testing.assert_array_equal(found, [row.values[0] for row in rows])
