"""Screening has to be earned: rank correlations and the switch they turn."""

import numpy as np
import pytest
from scipy import stats

from automerge_jax.search import screening


def generations(strengths, size=12, seed=0):
  """Predictions that correlate by each of the strengths with what came."""
  rng = np.random.default_rng(seed)
  for g, strength in enumerate(strengths):
    achieved = rng.normal(size=size)
    noise = rng.normal(size=size)
    predicted = strength * achieved + (1 - strength**2) ** 0.5 * noise
    yield screening.Generation(g + 2, predicted, achieved)


def test_correlations_are_spearmans():
  rng = np.random.default_rng(0)
  predicted, achieved = rng.normal(size=(2, 15))
  achieved[3:6] = achieved[3]
  wanted = stats.spearmanr(predicted, achieved).statistic
  found = screening.correlation(predicted, achieved)
  assert found == pytest.approx(wanted)
  # What failed is the worst; what was not predicted does not count.
  predicted[0], achieved[1] = np.nan, -np.inf
  low = achieved[1:].copy()
  low[0] = -9.0
  wanted = stats.spearmanr(predicted[1:], low).statistic
  assert screening.correlation(predicted, achieved) == pytest.approx(wanted)


def test_what_says_nothing_is_no_correlation():
  assert screening.correlation([1.0, 2, 3], [1.0, 2, 3]) is None
  assert screening.correlation([1.0, 2, 3, 4], [5.0] * 4) is None
  assert screening.correlation([np.nan] * 9, np.arange(9.0)) is None
  assert screening.correlation([2.0] * 4, [1.0, 2, 3, 4]) == 0.0


def test_screening_is_earned_after_three_generations_and_lost_again():
  rows = screening.decide(list(generations([1.0] * 5 + [-1.0] * 5)))
  assert [row.on for row in rows] == [False] * 2 + [True] * 4 + [False] * 4
  assert [row.generation for row in rows] == list(range(2, 12))
  # Every prefix decides as the whole does.
  for end in range(1, 11):
    given = list(generations([1.0] * 5 + [-1.0] * 5))[:end]
    assert screening.decide(given) == rows[:end]


def test_between_the_thresholds_it_stays_as_it_is():
  order = np.arange(12.0)
  weak = next(
    p
    for seed in range(99)
    for p in [np.random.default_rng(seed).permutation(order)]
    if 0.15 < screening.correlation(p, order) < 0.25
  )
  middle = [screening.Generation(g, weak, order) for g in range(9)]
  assert not any(row.on for row in screening.decide(middle))
  good = [screening.Generation(g, order, order) for g in range(3)]
  assert all(row.on for row in screening.decide(good + middle)[2:])


def test_generations_without_a_correlation_change_nothing():
  silent = screening.Generation(9, [np.nan] * 12, np.arange(12.0))
  rows = screening.decide([*generations([1.0] * 3), silent, silent])
  assert [row.on for row in rows] == [False, False, True, True, True]
  assert rows[-1].document() == {
    'generation': 9,
    'correlation': None,
    'on': True,
  }


def test_a_surrogate_that_cannot_predict_rarely_screens():
  """And not for long: the share of generations, over many searches."""
  on = [
    row.on
    for seed in range(60)
    for row in screening.decide(list(generations([0.0] * 20, seed=seed)))
  ]
  assert np.mean(on) < 0.2
  able = [
    row.on
    for seed in range(60)
    for row in screening.decide(list(generations([0.7] * 20, seed=seed)))[3:]
  ]
  assert np.mean(able) > 0.95


def test_it_says_when_and_why_it_switches():
  rows = screening.decide(list(generations([1.0] * 3 + [-1.0] * 2)))
  said = [screening.words(rows[:end]) for end in range(6)]
  assert said[:3] == [None] * 3 and said[4] is None
  assert 'screens after generation 4' in said[3] and '1.00' in said[3]
  assert 'no longer' in said[5] and '-0.33' in said[5]
