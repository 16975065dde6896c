"""Recipes against mergekit's planner, live, on recipes drawn anew."""

import json

import numpy as np
import pytest
import recipe_documents
import recipe_replay

from automerge_jax import recipe as recipes

pytestmark = pytest.mark.oracle


def _plans(ask_peer, documents):
  given = np.array(json.dumps(documents))
  return recipe_replay.read(ask_peer('oracle/recipe_peer.py', documents=given))


@pytest.mark.parametrize('seed', [1, 2])
def test_plans_are_mergekits(ask_peer, seed):
  recorded = _plans(ask_peer, recipe_documents.draw(seed, 200))
  tensors, refused = recipe_replay.compare(recorded)
  assert tensors > 5000 and refused < 60
  print(f'200 recipes: {tensors} tensors agree, {refused} refused by both')


def test_what_we_write_means_the_same_to_mergekit(ask_peer):
  drawn = recipe_documents.draw(4, 100)
  written = [recipes.to_yaml(recipes.from_yaml(text)) for text in drawn]
  plans = _plans(ask_peer, drawn + written)
  before, after = plans[:100], plans[100:]
  for (text, wanted), (again, found) in zip(before, after, strict=True):
    assert found == wanted, (text, again)
  understood = sum(isinstance(plan, list) for _, plan in after)
  assert understood > 70
  print(f'{understood} of 100 rewritten recipes planned alike, others refused')
