"""Posterior and evidence of the surrogate against scikit-learn's, live."""

import pytest
import surrogate_replay

pytestmark = pytest.mark.oracle


def test_processes_are_scikit_learns(ask_peer):
  answers = ask_peer('oracle/surrogate_peer.py', seed=1, count=24)
  assert surrogate_replay.compare(answers) == 24
