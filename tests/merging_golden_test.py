"""Merge methods against mergekit 0.1.5, recorded."""

import pathlib

import merging_replay
import numpy as np
import pytest

GOLDEN = (
  pathlib.Path(__file__).parent / 'testdata' / 'merging_mergekit_0.1.5.npz'
)


@pytest.fixture(scope='module')
def recorded():
  with np.load(GOLDEN) as file:
    return dict(file)


@pytest.mark.parametrize(
  ('method', 'at_least'),
  [('linear', 40), ('task_arithmetic', 80), ('ties', 150), ('slerp', 50)],
)
def test_same_as_mergekit(recorded, method, at_least):
  count, worst, case = merging_replay.largest_difference(recorded, method)
  assert count >= at_least
  assert worst <= 1e-6, case


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
