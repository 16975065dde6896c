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


def test_rounded_once_where_mergekit_computes_in_bfloat16(folder):
  case = 'half_computed'
  merged = safetensors.read(checkpoints_replay.ours(folder, 'x', CASES[case]))
  base, *experts = (
    safetensors.read(folder / model) for model in ('half', 'half_a', 'half_b')
  )
  for name, tensor in merged.items():
    start = base[name].astype(np.float64)
    exact = start.copy()
    for weight, expert in zip((0.6, 0.7), experts, strict=True):
      exact += weight * (expert[name].astype(np.float64) - start)
    error = np.abs(tensor.astype(np.float64) - exact)
    assert (error <= 0.501 * checkpoints_replay.unit(exact)).all(), name


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


@pytest.mark.parametrize('name', sorted(checkpoint_recipes.examples()))
def test_plans_of_the_examples(folder, name):
  recipe = folder / f'plan_{name}.yaml'
  recipe.write_text(CASES[name])
  text = checkpoints_replay.merge.dry_run(recipe)
  layers = 48 if name == 'example_passthrough' else 32
  assert f'{3 + 9 * layers} tensors' in text
  last = f'model.layers.{layers - 1}.mlp.down_proj.weight [8, 12] bfloat16: '
  (line,) = [line for line in text.splitlines() if line.startswith(last)]
  numbers = {
    'example_linear': 'linear(weight=[0.4, 0.3, 0.6], normalize=1)',
    'example_slerp': 'slerp(t=0, ',
    'example_ties': 'weight=[1, 1, 0.5], density=[0.1, 0.5, 0.33]',
    'example_dare_ties': 'density=[0.53, 0.53, 0.53]',
    'example_dare_ties_whole': 'density=[1, 1, 1]',
    'example_passthrough': 'passthrough(scale=[0.5])',
  }
  assert numbers[name] in line
