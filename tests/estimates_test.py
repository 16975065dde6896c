"""Objectives drawn to their line: what chance adds is taken away, no more."""

import numpy as np
import pytest

from automerge_jax.search import estimates

N, ITEMS = 60, 400


def _merges(seed, scatter=0.0, rises=1.0):
  """True scores, log-likelihoods, and 0/1 scores of items [N, ITEMS].

  Items differ in how hard they are, so scores of merges go up and down
  together.
  """
  draw = np.random.default_rng(seed)
  skill = draw.normal(size=N)
  true = 0.8 + 0.01 * skill + scatter * draw.normal(size=N)
  hard = draw.normal(0, 0.3, ITEMS)
  right = np.clip(true[:, None] + hard[None], 0, 1)
  scores = (draw.random((N, ITEMS)) < right).astype(float)
  return right.mean(1), -0.5 + 0.05 * rises * skill, scores


def _noise(scores):
  return estimates.noise(scores, np.zeros(ITEMS, int), np.ones(1))


def _off(found, true):
  return np.std(found - true)


@pytest.mark.parametrize('seed', range(5))
def test_estimates_are_nearer_to_the_truth(seed):
  true, likelihoods, scores = _merges(seed)
  values = scores.mean(1)
  found = estimates.drawn(values, likelihoods, _noise(scores))
  assert _off(found, true) < 0.6 * _off(values, true)
  assert true[found.argmax()] >= true[values.argmax()] - 1e-9


def test_what_no_likelihood_tells_is_kept():
  true, likelihoods, scores = _merges(0, scatter=0.1)
  values = scores.mean(1)
  found = estimates.drawn(values, likelihoods, _noise(scores))
  np.testing.assert_allclose(
    found, values, atol=0.25 * _off(values, values.mean())
  )
  assert np.corrcoef(found, true)[0, 1] > 0.95
  # Without chance nothing is drawn at all.
  np.testing.assert_allclose(
    estimates.drawn(values, likelihoods, 0.0), values, atol=1e-12
  )


def test_values_stay_where_there_is_no_line():
  _, likelihoods, scores = _merges(1)
  values, chance = scores.mean(1), _noise(scores)
  for told in (-likelihoods, np.full(N, -1.0), likelihoods * np.nan):
    np.testing.assert_array_equal(estimates.drawn(values, told, chance), values)
  few = estimates.drawn(values[:7], likelihoods[:7], chance)
  np.testing.assert_array_equal(few, values[:7])


def test_noise_is_the_variance_of_what_chance_adds():
  draw = np.random.default_rng(2)
  task = np.repeat([0, 1], [100, 300])
  weights = np.array([0.5, 0.5])
  chance = np.array([0.6, 0.9])[task]
  scores = (draw.random((4000, 400)) < chance).astype(float)
  means = np.stack([scores[:, task == t].mean(1) for t in range(2)], 1)
  want = (means @ weights).var()
  assert estimates.noise(scores, task, weights) == pytest.approx(want, rel=0.1)
  # What is hard for all alike is no difference between them.
  same = np.tile(scores[:1], (5, 1))
  assert estimates.noise(same, task, weights) == 0
  only = np.array([0.0, 1.0])
  assert estimates.noise(scores, task, only) == pytest.approx(
    means[:, 1].var(), rel=0.1
  )
