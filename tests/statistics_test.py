"""Intervals and tests against scipy, published values and simulation."""

import math

import numpy as np
import pytest
from scipy import stats

from automerge_jax.search import statistics
from automerge_jax.search.statistics import bootstrap


def _draw(rng, sizes, rates):
  tasks = np.repeat(np.arange(len(sizes)), sizes)
  return (rng.random(len(tasks)) < np.asarray(rates)[tasks]).astype(float)


@pytest.mark.parametrize('successes,n', [(0, 10), (7, 10), (831, 1000), (5, 5)])
def test_wilson_is_scipys(successes, n):
  want = stats.binomtest(successes, n).proportion_ci(0.9, method='wilson')
  got = statistics.wilson(successes, n, level=0.9)
  np.testing.assert_allclose(got, (want.low, want.high), atol=1e-12)


def test_wilson_refuses_impossible_counts():
  with pytest.raises(ValueError, match='11 successes of 10'):
    statistics.wilson(11, 10)


def test_task_mean_weighs_tasks_equally():
  tasks = np.array([0, 0, 0, 0, 2])
  assert statistics.task_mean(np.array([1, 1, 1, 0, 0]), tasks) == 0.375


def test_resampled_means_follow_a_plain_bootstrap():
  rng = np.random.default_rng(0)
  tasks = np.repeat([0, 1], [30, 12])
  scores = rng.normal(size=(2, 42))
  got = statistics.resampled_means(scores, tasks, seed=3, draws=20_000)
  means = []
  for task in (0, 1):
    items = np.flatnonzero(tasks == task)
    picked = items[rng.integers(len(items), size=(20_000, len(items)))]
    means.append(scores[:, picked].mean(-1))
  want = np.mean(means, axis=0)
  np.testing.assert_allclose(got.mean(1), want.mean(1), atol=5e-3)
  np.testing.assert_allclose(np.cov(got), np.cov(want), atol=1e-3)


def test_resamples_do_not_depend_on_chunks_or_on_the_other_rows(monkeypatch):
  rng = np.random.default_rng(0)
  tasks = np.repeat([0, 1], 50)
  scores = rng.normal(size=(1, 100))
  whole = statistics.resampled_means(scores, tasks, seed=1, draws=500)
  monkeypatch.setattr(bootstrap, '_CHUNK', 300)
  chunked = statistics.resampled_means(scores, tasks, seed=1, draws=500)
  np.testing.assert_allclose(whole, chunked, rtol=1e-12)
  other = statistics.resampled_means(scores, tasks, seed=2, draws=500)
  assert np.abs(whole - other).max() > 1e-3


def test_paired_bootstrap_keeps_pairs_together():
  rng = np.random.default_rng(0)
  tasks = np.repeat([0, 1], 200)
  a = rng.normal(size=400)
  same = statistics.paired_bootstrap(a + 0.25, a, tasks, seed=0)
  np.testing.assert_allclose(same[:3], 0.25, atol=1e-12)
  shuffled = statistics.paired_bootstrap(
    a + 0.25, rng.permutation(a), tasks, seed=0
  )
  assert shuffled.high - shuffled.low > 0.2


def test_intervals_match_normal_theory():
  rng = np.random.default_rng(0)
  sizes = [600, 400, 500]
  tasks = np.repeat(np.arange(3), sizes)
  a, b = _draw(rng, sizes, [0.8, 0.9, 0.7]), _draw(rng, sizes, [0.7, 0.9, 0.6])
  got = statistics.paired_bootstrap(a, b, tasks, seed=0)
  parts = [(a - b)[tasks == t] for t in range(3)]
  error = math.sqrt(sum(part.var() / len(part) for part in parts)) / 3
  mean = np.mean([part.mean() for part in parts])
  np.testing.assert_allclose(got.value, mean, atol=1e-12)
  np.testing.assert_allclose(
    [got.low, got.high], [mean - 1.96 * error, mean + 1.96 * error], atol=2e-3
  )
  one = statistics.mean_bootstrap(a, tasks, seed=0)
  parts = [a[tasks == t] for t in range(3)]
  error = math.sqrt(sum(part.var() / len(part) for part in parts)) / 3
  np.testing.assert_allclose(
    [one.low, one.high],
    [one.value - 1.96 * error, one.value + 1.96 * error],
    atol=2e-3,
  )


def test_paired_bootstrap_covers_the_truth():
  rng = np.random.default_rng(7)
  sizes, rates = [80, 120], np.array([0.75, 0.6])
  tasks = np.repeat([0, 1], sizes)
  covered = 0
  for trial in range(300):
    shared = rng.random(200)
    a = (shared < rates[tasks]).astype(float)
    b = np.where(rng.random(200) < 0.8, a, shared < 0.5).astype(float)
    # P(a=1) - P(b=1) = rate - (0.8 rate + 0.2 * 0.5), the mean over tasks.
    truth = np.mean(rates - (0.8 * rates + 0.1))
    got = statistics.paired_bootstrap(a, b, tasks, seed=trial, draws=1000)
    covered += got.low <= truth <= got.high
  assert 0.91 <= covered / 300 <= 0.985


def test_gap_closed_by_hand_and_averaged_over_seeds():
  tasks = np.repeat([0, 1], 100)
  baseline = np.tile([1.0, 0.0], 100)
  experts = np.ones(200)
  first, second = baseline.copy(), baseline.copy()
  first[1:101:2] = 1  # closes task 0, nothing of task 1
  got = statistics.gap_closed(first, baseline, experts, tasks, seed=0)
  np.testing.assert_allclose(got.value, 0.5)
  both = statistics.gap_closed(
    np.stack([first, second]), baseline, experts, tasks, seed=0
  )
  np.testing.assert_allclose(both.value, 0.25)
  assert both.low < both.value < both.high


def test_gap_closed_interval_is_that_of_the_resampled_ratio():
  rng = np.random.default_rng(1)
  sizes = [300, 300]
  tasks = np.repeat([0, 1], sizes)
  rows = np.stack([_draw(rng, sizes, [r, r]) for r in (0.8, 0.7, 0.9)])
  got = statistics.gap_closed(*rows, tasks, seed=5, draws=4000)
  a, b, c = statistics.resampled_means(rows, tasks, seed=5, draws=4000)
  want = np.quantile((a - b) / (c - b), [0.025, 0.975])
  np.testing.assert_allclose([got.low, got.high], want, atol=5e-3)


def test_gap_closed_has_no_value_without_a_gap():
  tasks = np.zeros(4, int)
  got = statistics.gap_closed(
    np.ones(4), np.ones(4), np.array([1, 1, 1, 0]), tasks, seed=0
  )
  assert got[:3] == (None, None, None)
  assert 'not above the baseline' in got.reason


def test_gap_closed_has_no_interval_when_the_gap_may_be_none():
  rng = np.random.default_rng(0)
  tasks = np.zeros(60, int)
  baseline, experts = np.zeros(60), np.zeros(60)
  baseline[:10] = experts[9:20] = 1
  got = statistics.gap_closed(
    rng.integers(0, 2, 60), baseline, experts, tasks, seed=0
  )
  assert got.value is not None and (got.low, got.high) == (None, None)
  assert 'unbounded' in got.reason


def test_optimism_adds_both_samples_noise():
  rng = np.random.default_rng(0)
  few, many = _draw(rng, [100], [0.9]), _draw(rng, [1000], [0.8])
  got = statistics.optimism(
    few, np.zeros(100, int), many, np.zeros(1000, int), seed=0
  )
  error = math.sqrt(few.var() / 100 + many.var() / 1000)
  np.testing.assert_allclose(got.value, few.mean() - many.mean())
  np.testing.assert_allclose(got.high - got.low, 2 * 1.96 * error, rtol=0.05)


def _pairs(both, gained, lost, neither):
  a = np.repeat([1, 1, 0, 0], [both, gained, lost, neither])
  b = np.repeat([1, 0, 1, 0], [both, gained, lost, neither])
  return a, b


def test_mcnemar_counts_and_brute_force_p():
  got = statistics.mcnemar(*_pairs(50, 9, 2, 39))
  tail = sum(math.comb(11, k) for k in range(3)) / 2**11
  assert (got.gained, got.lost) == (9, 2)
  np.testing.assert_allclose(got.p, 2 * tail)
  np.testing.assert_allclose(got.difference, 0.07)
  assert statistics.mcnemar(np.ones(5), np.ones(5)).p == 1.0


def test_newcombes_interval_on_his_own_example():
  got = statistics.mcnemar(*_pairs(36, 12, 2, 0))
  np.testing.assert_allclose([got.low, got.high], [0.0569, 0.3404], atol=5e-5)


def test_newcombes_interval_is_antisymmetric_and_bounded():
  a, b = _pairs(20, 6, 1, 3)
  one, other = statistics.mcnemar(a, b), statistics.mcnemar(b, a)
  np.testing.assert_allclose([one.low, one.high], [-other.high, -other.low])
  extreme = statistics.mcnemar(np.ones(8), np.zeros(8))
  assert 0 < extreme.low < extreme.high <= 1 + 1e-12


@pytest.mark.parametrize(
  'cell', [(0.8, 0.08, 0.04, 0.08), (0.5, 0.05, 0.15, 0.3)]
)
def test_newcombes_interval_covers_the_truth(cell):
  rng = np.random.default_rng(2)
  truth = cell[1] - cell[2]
  covered = 0
  for counts in rng.multinomial(120, cell, size=1000):
    got = statistics.mcnemar(*_pairs(*counts))
    covered += got.low <= truth <= got.high
  assert 0.93 <= covered / 1000 <= 0.98


def test_mcnemar_refuses_log_likelihoods():
  with pytest.raises(ValueError, match='use `paired`'):
    statistics.mcnemar(np.array([0.3]), np.array([1.0]))


def test_holm_by_hand():
  np.testing.assert_allclose(
    statistics.holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02]
  )
  assert statistics.holm([0.9, 0.8]) == [1.0, 1.0]


def test_scores_that_are_not_finite_are_refused():
  with pytest.raises(ValueError, match='1 of 2 scores are not finite'):
    statistics.mean_bootstrap(np.array([1, np.nan]), np.zeros(2, int), seed=0)


def test_paired_scores_that_are_not_right_or_wrong():
  rng = np.random.default_rng(0)
  b = rng.random(200)
  a = b + rng.normal(0.05, 0.1, 200)
  test = statistics.paired(a, b, seed=0)
  assert test.difference == pytest.approx((a - b).mean())
  half = 1.96 * (a - b).std() / np.sqrt(200)
  assert test.low == pytest.approx(test.difference - half, abs=0.004)
  assert (test.gained, test.lost) == ((a > b).sum(), (a < b).sum())
  assert statistics.paired(b > 0.5, b > 0.4, 0) == statistics.mcnemar(
    b > 0.5, b > 0.4
  )


def test_mean_of_scores_that_are_not_right_or_wrong():
  values = np.random.default_rng(1).random(400)
  found = statistics.mean(values, seed=0)
  half = 1.96 * values.std() / 20
  assert found.value == pytest.approx(values.mean())
  assert found.high - found.low == pytest.approx(2 * half, rel=0.1)
  right = statistics.mean(values > 0.5, seed=0)
  assert right[1:3] == statistics.wilson((values > 0.5).sum(), 400)
