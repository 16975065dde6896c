"""Whole checkpoints as mergekit merged them, from the same recipes."""

import json
import pathlib

import checkpoint_recipes
import checkpoints_replay
import numpy as np
import pytest
import tiny_checkpoints

from automerge_jax.io import safetensors

GOLDEN = (
  pathlib.Path(__file__).parent / 'testdata/checkpoints_mergekit_0.1.5.npz'
)
CASES = checkpoint_recipes.CASES | checkpoint_recipes.examples()
EXACT = sorted(CASES.keys() - {checkpoint_recipes.RANDOM})


@pytest.fixture(scope='module')
def recorded():
  with np.load(GOLDEN) as archive:
    return dict(archive)


@pytest.fixture(scope='module')
def folder(tmp_path_factory, recorded):
  made = tmp_path_factory.mktemp('checkpoints')
  models = tiny_checkpoints.MODELS | tiny_checkpoints.EXAMPLES
  drawn = tiny_checkpoints.write(made, 0, models)
  assert drawn == str(recorded['digest']), 'numpy draws other checkpoints'
  return made


def test_recorded_of_these_recipes(recorded):
  facts = checkpoints_replay.facts(recorded)
  assert {case: facts[case]['recipe'] for case in facts} == CASES


@pytest.mark.parametrize('case', EXACT)
def test_merged_as_by_mergekit(recorded, folder, case):
  found = checkpoints_replay.compare(folder, recorded, case)
  assert found.tensors >= 20
  assert found.worst <= checkpoints_replay.tolerance(recorded, case)


def test_random_masks_drop_as_many(recorded, folder):
  case = checkpoint_recipes.RANDOM
  found = checkpoints_replay.compare(folder, recorded, case)
  peer = checkpoints_replay.theirs(recorded, case)
  ours = safetensors.read(folder / 'ours' / case)
  moved, distance = checkpoints_replay.changes(folder, ours)
  peers, peers_distance = checkpoints_replay.changes(folder, peer)
  # Four standard deviations of the difference of two draws.
  chance = 1 - 0.47**3
  spread = np.sqrt(2 * chance * (1 - chance) / found.entries)
  assert abs(moved - peers) < 4 * spread
  assert abs(moved - chance) < 0.02
  np.testing.assert_allclose(distance, peers_distance, rtol=0.03)


def test_merged_again_from_the_recipe_that_is_written(folder, recorded):
  out = checkpoints_replay.ours(folder, 'once', CASES['ties_of_slices'])
  again = folder / 'again'
  checkpoints_replay.merge.run(out / 'recipe.yaml', again)
  first, second = safetensors.read(out), safetensors.read(again)
  assert first.keys() == second.keys()
  for name, tensor in first.items():
    np.testing.assert_array_equal(tensor, second[name])
  index = json.loads((out / 'model.safetensors.index.json').read_text())
  assert set(index['weight_map']) == set(first)
