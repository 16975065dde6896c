"""Sorting, crowding and hypervolume against pymoo and moocore, live."""

import fronts_replay
import pytest

pytestmark = pytest.mark.oracle


def test_fronts_crowding_and_volume_are_pymoos_and_moocores(ask_peer):
  answers = ask_peer('oracle/fronts_peer.py', seed=1, count=300)
  assert fronts_replay.compare(answers) == 300
