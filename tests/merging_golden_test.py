"""Merge methods against mergekit 0.1.5, recorded."""

import pathlib

import merging_replay
import numpy as np
import pytest

TESTDATA = pathlib.Path(__file__).parent / 'testdata'


def _load(name):
  with np.load(TESTDATA / f'{name}_mergekit_0.1.5.npz') as file:
    return dict(file)


@pytest.fixture(scope='module')
def recorded():
  return _load('merging')


@pytest.fixture(scope='module')
def further():
  return _load('merging_further')


@pytest.mark.parametrize(
  ('method', 'at_least'),
  [('linear', 40), ('task_arithmetic', 80), ('ties', 150), ('slerp', 50)],
)
def test_same_as_mergekit(recorded, method, at_least):
  count, worst, case = merging_replay.largest_difference(recorded, method)
  assert count >= at_least
  assert worst <= 1e-6, case


@pytest.mark.parametrize(('method', 'at_least'), merging_replay.FURTHER.items())
def test_further_methods_are_the_same_as_mergekits(further, method, at_least):
  count, worst, case = merging_replay.largest_difference(further, method)
  assert count >= at_least
  assert worst <= 1e-6, case


def test_directions_that_balance_give_the_weighted_sum(further):
  """Where mergekit refuses: there is no direction to take a step along."""
  seen = 0
  for case, base, experts, _ in merging_replay.read(
    further, 'multislerp', refused=True
  ):
    weight = np.array(case['parameters']['weight'])
    if case['parameters']['normalize_weights']:
      weight = weight / weight.sum()
    zero = np.zeros_like(experts[0]) if base is None else base
    wanted = zero + np.tensordot(weight, experts - zero, 1)
    ours = merging_replay.by_tensor(case, base, experts)
    np.testing.assert_allclose(ours, wanted, rtol=1e-6, atol=1e-6)
    seen += 1
  assert seen >= 8


@pytest.mark.parametrize('i', range(4))
def test_random_masks_follow_mergekits_law(further, i):
  seen = merging_replay.keeping(further, i)
  # Both are counts of the same number of draws: a two-sample z for each entry.
  pooled = (seen.ours + seen.theirs) / 2
  spread = np.sqrt(2 * pooled * (1 - pooled) / seen.repeats)
  z = (seen.ours - seen.theirs) / spread
  assert np.abs(z).max() < 4.5
  assert 0.6 < np.mean(z**2) < 1.5
  assert np.abs(seen.ours.mean() - seen.density) < 0.01
  assert np.abs(seen.theirs.mean() - seen.density) < 0.01
  np.testing.assert_allclose(seen.theirs_l1, seen.l1, rtol=1e-5)
  np.testing.assert_allclose(seen.ours_l1, seen.l1, rtol=1e-5)


def test_dellas_masks_keep_large_entries_rather(further):
  """Frequencies by rank in a row, both against the published line."""
  methods = [merging_replay.keeping(further, i) for i in (2, 3)]
  for seen in methods:
    rank = np.argsort(np.argsort(np.abs(seen.delta), axis=1), axis=1)
    line = 2 * rank / (rank.shape[1] - 1) - 1
    wanted = seen.density + seen.epsilon * line
    limit = 4.5 * np.sqrt(wanted * (1 - wanted) / seen.repeats)
    assert (np.abs(seen.ours - wanted) < limit).all()
    assert (np.abs(seen.theirs - wanted) < limit).all()


def test_trimming_keeps_mergekits_entries_exactly(recorded):
  """Alone and unscaled, an expert comes back trimmed: bits, not tolerance."""
  seen = 0
  for case, base, experts, theirs in merging_replay.read(recorded, 'ties'):
    alone = case['parameters']['weight'] == [1.0, 0.0, 0.0]
    if alone and not merging_replay.has_free_order(case):
      ours = merging_replay.by_tensor(case, base, experts)
      np.testing.assert_array_equal(ours != base, theirs != base, str(case))
      seen += 1
  assert seen >= 40


def test_slerp_ends_are_the_models(recorded):
  for case, _, experts, theirs in merging_replay.read(recorded, 'slerp'):
    t = case['parameters']['t']
    if t in (0.0, 1.0):
      np.testing.assert_allclose(theirs, experts[int(t)], atol=1e-6)
      ours = merging_replay.by_tensor(case, experts[0], experts)
      np.testing.assert_allclose(ours, experts[int(t)], rtol=1e-6, atol=2e-7)
