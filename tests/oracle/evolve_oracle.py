"""Search spaces against mergekit-evolve's genome, live, drawn anew."""

import json

import evolve_replay
import numpy as np
import pytest

pytestmark = pytest.mark.oracle


def test_recipes_of_genotypes_are_mergekits(ask_peer):
  answers = ask_peer('oracle/evolve_peer.py', seed=1, count=np.array(150))
  agreed = evolve_replay.compare(json.loads(str(answers['recorded'])))
  assert agreed == 300
  print(f'{agreed} recipes of 150 search spaces agree')
