"""Detectable differences against simulated tests, and by hand."""

import numpy as np
import pytest
from scipy import stats

from automerge_jax.search import statistics


def _power(items, difference, discordant, seed=0, trials=20_000):
  """Share of simulated comparisons in which the paired z-test finds it."""
  rng = np.random.default_rng(seed)
  gained, lost = (discordant + difference) / 2, (discordant - difference) / 2
  means, variances = np.zeros(trials), np.zeros(trials)
  for n in items:
    counts = rng.multinomial(
      n, [gained, lost, 1 - discordant], size=trials
    ).T.astype(float)
    means += (counts[0] - counts[1]) / n
    variances += (counts[0] + counts[1]) / n**2
  z = means / np.sqrt(np.maximum(variances, 1e-12))  # as if both were equal
  return np.mean(z > stats.norm.ppf(0.975))


@pytest.mark.parametrize(
  ('items', 'discordant'),
  [((50,) * 4, 0.2), ((200,) * 4, 0.1), ((500, 100, 300), 0.3), ((1000,), 0.1)],
)
def test_a_detectable_difference_is_found_in_four_of_five(items, discordant):
  d = statistics.detectable(items, discordant)
  assert _power(items, d, discordant) == pytest.approx(0.8, abs=0.035)
  assert _power(items, 0.7 * d, discordant) < 0.6
  # The same by the bootstrap that the report uses.
  rng = np.random.default_rng(1)
  tasks = np.repeat(np.arange(len(items)), items)
  found, trials = 0, 200
  for trial in range(trials):
    u = rng.random(len(tasks))
    score = (u < (discordant + d) / 2).astype(float)
    other = ((u >= (discordant + d) / 2) & (u < discordant)).astype(float)
    found += (
      statistics.paired_bootstrap(score, other, tasks, trial, 300).low > 0
    )
  assert found / trials == pytest.approx(0.8, abs=0.09)


def test_more_items_or_less_power_detect_less():
  d = statistics.detectable([200] * 4, 0.1)
  assert d == pytest.approx((1.96 + 0.8416) * np.sqrt(0.1 / 800), rel=0.02)
  assert statistics.detectable([800] * 4, 0.1) == pytest.approx(d / 2, rel=0.02)
  assert statistics.detectable([200] * 4, 0.1, power=0.5) < d
  assert statistics.detectable([200] * 4, 0.1, level=0.01) > d
  assert statistics.detectable([200] * 4, 0.4) > d


def test_weights_make_items_count_less():
  even = statistics.detectable([100, 100], 0.2)
  assert statistics.detectable([100, 100], 0.2, [2, 2]) == pytest.approx(even)
  one_task = statistics.detectable([100, 100], 0.2, [1, 0])
  assert one_task == pytest.approx(statistics.detectable([100], 0.2))
  assert one_task > even


def test_a_difference_that_no_items_could_show():
  assert statistics.detectable([10], 0.1) is None
  with pytest.raises(ValueError, match='discordant items of 0'):
    statistics.detectable([10], 0.0)
  with pytest.raises(ValueError, match='at least one each'):
    statistics.detectable([10, 0], 0.1)


def test_discordance_is_what_the_variance_of_the_mean_needs():
  rng = np.random.default_rng(0)
  tasks = np.repeat([0, 1], [100, 400])
  a = rng.integers(0, 2, 500)
  b = np.where(rng.random(500) < np.where(tasks, 0.1, 0.5), 1 - a, a)
  shares = [np.mean((a != b)[tasks == t]) for t in (0, 1)]
  q = statistics.discordance(a, b, tasks)
  assert q == pytest.approx((shares[0] * 4 + shares[1]) / 5)
  # q / n is then the variance of a mean over tasks without a difference.
  n = 1 / (0.25 / 100 + 0.25 / 400)
  expected = (shares[0] / 100 + shares[1] / 400) / 4
  assert q / n == pytest.approx(expected)
  assert statistics.discordance(a, b, tasks, [1, 0]) == pytest.approx(shares[0])


def test_graded_scores_have_a_mean_squared_difference():
  rng = np.random.default_rng(0)
  tasks = np.repeat([0, 1], 200)
  a, b = rng.normal(0, 0.05, (2, 400))
  q = statistics.discordance(a, b, tasks)
  assert q == pytest.approx(np.mean((a - b) ** 2))
  d = statistics.detectable([200, 200], q, graded=True)
  assert d == pytest.approx(2.8 * np.sqrt(q / 400), rel=0.02)
  assert statistics.detectable([200, 200], 4.0, graded=True) > 0
  with pytest.raises(ValueError, match='at most 1'):
    statistics.detectable([200, 200], 4.0)
