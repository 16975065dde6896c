"""How often the report's intervals hold the truth, by simulation.

Models share hard items: an item's threshold is the same for all of them but
for a share of items on which each draws its own.
"""

import numpy as np
import pytest
from scipy import stats

from automerge_jax.search import statistics

TRIALS = 400
DRAWS = 500
TASKS = 4
LEAST = 0.92  # two points below 0.95, and as much again as trials err
SHARED = 0.8  # share of items whose difficulty models agree on
RATES = {
  'merged': np.array([0.80, 0.82, 0.90, 0.92]),
  'baseline': np.array([0.76, 0.77, 0.88, 0.86]),
  'experts': np.array([0.84, 0.88, 0.94, 0.96]),
}


def _draw(rng, items, rates=tuple(RATES)):
  """Task indices [n] and 0/1 scores by model."""
  tasks = np.repeat(np.arange(TASKS), items)
  common = rng.random(len(tasks))
  scores = {}
  for name in rates:
    own = rng.random(len(tasks))
    ease = np.where(rng.random(len(tasks)) < SHARED, common, own)
    scores[name] = (ease < RATES[name][tasks]).astype(float)
  return tasks, scores


def _coverage(interval, truth):
  """Share of trials in which an interval holds the truth."""
  held = 0
  for trial in range(TRIALS):
    low, high = interval(trial)
    held += low - 1e-12 <= truth <= high + 1e-12
  return held / TRIALS


@pytest.fixture(params=[50, 200])
def items(request):
  return request.param


@pytest.mark.parametrize('items', [50, 200, 1000])
def test_means_and_differences(items):
  rng = np.random.default_rng(items)
  merged, baseline = RATES['merged'].mean(), RATES['baseline'].mean()

  def mean(trial):
    tasks, scores = _draw(rng, items)
    return statistics.mean_bootstrap(scores['merged'], tasks, trial, DRAWS)[1:3]

  def difference(trial):
    tasks, scores = _draw(rng, items)
    return statistics.paired_bootstrap(
      scores['merged'], scores['baseline'], tasks, trial, DRAWS
    )[1:3]

  assert LEAST <= _coverage(mean, merged) <= 0.98
  assert LEAST <= _coverage(difference, merged - baseline) <= 0.98


def test_the_gap_closed(items):
  rng = np.random.default_rng(items + 1)
  means = {name: rates.mean() for name, rates in RATES.items()}
  truth = (means['merged'] - means['baseline']) / (
    means['experts'] - means['baseline']
  )
  unbounded = []

  def gap(trial):
    tasks, scores = _draw(rng, items)
    found = statistics.gap_closed(
      scores['merged'],
      scores['baseline'],
      scores['experts'],
      tasks,
      trial,
      DRAWS,
    )
    unbounded.append(found.low is None)
    return (-np.inf, np.inf) if found.low is None else found[1:3]

  assert LEAST <= _coverage(gap, truth) <= 0.99
  assert np.mean(unbounded) < 0.1


def test_optimism(items):
  rng = np.random.default_rng(items + 2)

  def difference(trial):
    found = []
    for size in (items, 3 * items):
      tasks, scores = _draw(rng, size, ('merged',))
      found += [scores['merged'], tasks]
    return statistics.optimism(*found, trial, DRAWS)[1:3]

  assert LEAST <= _coverage(difference, 0.0) <= 0.98


@pytest.mark.parametrize(
  ('rate', 'least'), [(0.5, 0.93), (0.8, 0.93), (0.95, 0.93), (0.98, 0.915)]
)
def test_wilson_exactly(items, rate, least):
  counts = np.arange(items + 1)
  bounds = [statistics.wilson(k, items) for k in counts]
  held = [low <= rate <= high for low, high in bounds]
  covered = stats.binom.pmf(counts, items, rate)[held].sum()
  assert least <= covered <= 0.985


def test_newcombe(items):
  rng = np.random.default_rng(items + 4)
  task = 1

  def difference(_):
    tasks, scores = _draw(rng, items)
    mine = tasks == task
    test = statistics.mcnemar(scores['merged'][mine], scores['experts'][mine])
    return test.low, test.high

  truth = RATES['merged'][task] - RATES['experts'][task]
  assert LEAST <= _coverage(difference, truth) <= 0.99


def test_weighted_means(items):
  rng = np.random.default_rng(items + 5)
  weights = np.array([5, 1, 1, 1])

  def mean(trial):
    tasks, scores = _draw(rng, items, ('merged',))
    rows = statistics.by_weight(scores['merged'], tasks, weights)
    return statistics.mean_bootstrap(rows, tasks, trial, DRAWS)[1:3]

  truth = np.average(RATES['merged'], weights=weights)
  assert LEAST <= _coverage(mean, truth) <= 0.98
