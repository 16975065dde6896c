"""Merge methods against mergekit, live, on stacks drawn anew."""

import merging_replay
import pytest

pytestmark = pytest.mark.oracle


@pytest.mark.parametrize('seed', [1, 2, 3])
def test_same_as_mergekit(ask_peer, seed):
  recorded = ask_peer('oracle/merging_peer.py', seed=seed)
  for method in ('linear', 'task_arithmetic', 'ties', 'slerp'):
    count, worst, case = merging_replay.largest_difference(recorded, method)
    assert count >= 40
    assert worst <= 1e-6, case
    print(f'{method}: {count} cases, largest difference {worst:.1e}')
