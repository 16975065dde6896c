"""Brackets of successive halving and Hyperband against SMAC, live."""

import json

import brackets_replay
import numpy as np
import pytest

pytestmark = pytest.mark.oracle


def test_brackets_are_smacs(ask_peer):
  cases = [
    (eta, low, low * eta**power + more)
    for eta in (2, 3, 4, 5)
    for low in (1, 20)
    for power, more in ((1, 0), (2, 3), (3, 0))
  ]
  answer = ask_peer('oracle/brackets_peer.py', cases=np.asarray(cases))
  recorded = json.loads(str(answer['brackets']))
  assert len(recorded) == len(cases)
  assert brackets_replay.compare(recorded) == 2 * 4 * (2 + 3 + 4)
