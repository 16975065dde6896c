"""What a choice on select items is worth, and overfitting by rung."""

import numpy as np
import pytest

from automerge_jax.search import contest, objectives, statistics
from automerge_jax.search.ledger import Scores

TASKS = np.repeat(np.arange(3), [40, 60, 50])


def _scores(seed):
  rng = np.random.default_rng(seed)
  return Scores(
    rng.integers(0, 2, len(TASKS)).astype(np.float32),
    -rng.random(len(TASKS)).astype(np.float32),
  )


@pytest.mark.parametrize(
  ('named', 'weights'),
  [
    ((), {}),
    ((), {'b': 4.0}),
    (('mean:log_likelihood',), {'a': 2.0}),
    (('a', 'b:log_likelihood', 'mean'), {'c': 3.0}),
  ],
)
def test_item_values_average_to_the_objectives(named, weights):
  goals = objectives.read(
    ('a', 'b', 'c'), 'accuracy', named, task_weights=weights
  )
  scores = _scores(0)
  by_task = {
    metric: np.array([values[TASKS == t].mean() for t in range(3)])
    for metric, values in (
      ('accuracy', scores.score),
      ('log_likelihood', scores.log_likelihood),
    )
  }
  values = contest.item_values(goals, scores, TASKS)
  assert statistics.task_mean(values, TASKS) == pytest.approx(
    goals.values(by_task).mean()
  )


def test_a_contest_holds_both_choices():
  rng = np.random.default_rng(1)
  ours, theirs = (
    rng.integers(0, 2, (count, len(TASKS))).astype(float) for count in (4, 3)
  )
  best = [int(statistics.task_mean(g, TASKS).argmax()) for g in (ours, theirs)]
  told = contest.hold(ours, theirs, TASKS, (best[0], best[1]), seed=0)
  assert (told['finalists'], told['grid']) == (4, 3)
  for key in ('merged', 'baseline'):
    # All are guesses, so what the choice adds is nothing but luck.
    assert told[key]['value'] < told[key]['naive']
    assert told[key]['low'] < told[key]['value'] < told[key]['high']
  assert told['difference']['naive'] == pytest.approx(
    told['simultaneous']['difference']
  )
  assert told['simultaneous']['low'] < 0 < told['simultaneous']['high']


def test_gaps_by_rung_are_of_all_items_up_to_it():
  rng = np.random.default_rng(2)
  part_tasks = [np.repeat([0, 1], n) for n in (10, 30)]
  parts = [rng.random(len(task)) for task in part_tasks]
  fresh_tasks = np.repeat([0, 1], 100)
  fresh = rng.random(200) - 0.5
  first, second = contest.by_rung(parts, part_tasks, fresh, fresh_tasks, 0)
  assert (first['items'], second['items']) == (20, 80)
  joined, tasks = np.concatenate(parts), np.concatenate(part_tasks)
  assert second['search'] == pytest.approx(
    np.mean([joined[tasks == t].mean() for t in (0, 1)])
  )
  for row in (first, second):
    assert row['gap'] == pytest.approx(row['search'] - row['fresh'])
    assert 0 < row['low'] < row['gap'] < row['high']
  # Four times the items make a narrower interval.
  assert second['high'] - second['low'] < first['high'] - first['low']
