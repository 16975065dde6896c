"""Recipes against mergekit's planner, live, on recipes drawn anew."""

import numpy as np
import pytest
import recipe_replay

pytestmark = pytest.mark.oracle


@pytest.mark.parametrize('seed', [1, 2])
def test_plans_are_mergekits(ask_peer, seed):
  answers = ask_peer('oracle/recipe_peer.py', seed=seed, count=np.array(200))
  tensors, refused = recipe_replay.compare(recipe_replay.read(answers))
  assert tensors > 5000 and refused < 60
  print(f'200 recipes: {tensors} tensors agree, {refused} refused by both')
