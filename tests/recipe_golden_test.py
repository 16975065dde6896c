"""Recipes mean what they mean to mergekit: its recorded plans, made again."""

import json
import pathlib

import numpy as np
import pytest
import recipe_replay

GOLDEN = pathlib.Path(__file__).with_name('testdata')


@pytest.fixture(scope='module')
def recorded():
  with np.load(GOLDEN / 'recipe_mergekit_0.1.5.npz') as archive:
    return recipe_replay.read(archive)


def test_every_tensor_and_number_is_mergekits(recorded):
  tensors, refused = recipe_replay.compare(recorded)
  assert tensors > 8000 and refused > 20


def test_a_difference_is_noticed(recorded):
  text, plan = next(
    (text, plan)
    for text, plan in recorded
    if json.loads(text)['merge_method'] == 'ties' and len(plan[0][1]) == 4
  )
  for change in (
    lambda name, sources, base, shared, own: [name + 's', sources],
    lambda name, sources, base, shared, own: [name, sources[::-1]],
    lambda name, sources, base, shared, own: [name, sources, sources[0][0]],
    lambda name, sources, base, shared, own: [
      *(name, sources, base),
      shared | {'lambda': shared['lambda'] + 1e-9},
    ],
    lambda name, sources, base, shared, own: [
      *(name, sources, base, shared),
      {model: {k: v + 1e-9 for k, v in o.items()} for model, o in own.items()},
    ],
  ):
    changed = change(*plan[3])
    row = changed + plan[3][len(changed) :]
    with pytest.raises(AssertionError):
      recipe_replay.compare([[text, [*plan[:3], row, *plan[4:]]]])
  assert recipe_replay.compare([[text, plan]]) == (len(plan), 0)
