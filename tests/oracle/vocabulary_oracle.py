"""Aligned vocabularies against mergekit, live, on models made anew."""

import pytest
import vocabulary_replay

pytestmark = pytest.mark.oracle


@pytest.mark.parametrize('seed', [1, 2, 3])
def test_same_as_mergekit(ask_peer, seed):
  recorded = ask_peer('oracle/vocabulary_peer.py', seed=seed)
  cases = vocabulary_replay.cases(recorded)
  rows = 0
  for case in cases:
    count, worst = vocabulary_replay.compare(recorded, case)
    assert worst <= 1e-6, case
    rows += count
  assert rows >= 1000
  print(f'{len(cases)} cases, {rows} tokens')
