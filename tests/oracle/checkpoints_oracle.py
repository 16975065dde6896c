"""Whole checkpoints, made anew, merged from the same files by mergekit."""

import collections
import json

import checkpoint_recipes
import checkpoints_replay
import numpy as np
import pytest
import tiny_checkpoints

from automerge_jax import recipe as recipes
from automerge_jax.io import safetensors

pytestmark = pytest.mark.oracle

MODELS = tiny_checkpoints.MODELS | tiny_checkpoints.EXAMPLES
CASES = checkpoint_recipes.CASES | checkpoint_recipes.examples()


def _saved(ask_peer, folder, seed):
  """Folder of the models as transformers saves them."""
  tiny_checkpoints.write(folder / 'drawn', seed, MODELS)
  script = 'oracle/checkpoints_save_peer.py'
  answer = ask_peer(script, folder / 'drawn', folder / 'saved')
  assert answer['count'] == len(MODELS)
  return folder / 'saved'


@pytest.mark.parametrize('seed', [1, 2])
def test_same_as_mergekit(ask_peer, tmp_path, seed):
  saved = _saved(ask_peer, tmp_path, seed)
  recorded = ask_peer('oracle/checkpoints_peer.py', saved, json.dumps(CASES))
  total = collections.Counter()
  for case in checkpoints_replay.exact_cases(recorded):
    found = checkpoints_replay.compare(saved, recorded, case)
    worst, allowed = found.worst, checkpoints_replay.tolerance(recorded, case)
    assert worst <= allowed, (case, found)
    total += collections.Counter(
      cases=1,
      tensors=found.tensors,
      entries=found.entries,
      unequal=found.unequal,
    )
    print(f'{case}: {found}')
  assert total['cases'] >= 50
  print(dict(total))
  case = checkpoint_recipes.RANDOM
  checkpoints_replay.compare(saved, recorded, case)
  peer = checkpoints_replay.theirs(recorded, case)
  ours = safetensors.read(saved / 'ours' / case)
  statistics = [checkpoints_replay.changes(saved, m) for m in (ours, peer)]
  print(f'share that moved, mean distance: {statistics}')
  np.testing.assert_allclose(*statistics, rtol=0.03)


def test_mergekit_makes_our_tensors_from_the_recipes_that_we_write(
  ask_peer, tmp_path
):
  tiny_checkpoints.write(tmp_path, 4, MODELS)
  written = {}
  for case, text in CASES.items():
    out = checkpoints_replay.ours(tmp_path, case, text)
    text = (out / 'recipe.yaml').read_text()
    if 'mergekit 0.1.5 makes the same tensors' in text:
      assert not recipes.portable(recipes.from_yaml(text))
      written[case] = text
  assert len(written) > 45
  # All stand beside each other, so that models are the same from each.
  recorded = ask_peer('oracle/checkpoints_peer.py', out, json.dumps(written))
  total = 0
  for case in written:
    found = checkpoints_replay.compare(
      tmp_path, recorded, case, tmp_path / 'ours' / case
    )
    assert found.worst <= checkpoints_replay.tolerance(recorded, case), case
    total += found.entries
  print(f'{len(written)} written recipes, {total} entries')


def test_transformers_loads_what_we_merge(ask_peer, tmp_path):
  tiny_checkpoints.write(tmp_path, 3, MODELS)
  for case, text in CASES.items():
    checkpoints_replay.ours(tmp_path, case, text)
  answer = ask_peer('oracle/checkpoints_load_peer.py', tmp_path / 'ours')
  reports = json.loads(str(answer['reports']))
  assert reports.keys() == CASES.keys()
  for case, report in reports.items():
    assert not report['unfit'], (case, report)
    assert report['finite'] and report['spread'] > 1e-3, (case, report)
  depths = {case: report['layers'] for case, report in reports.items()}
  assert depths['stack'] == 3 + 3 + 1
  assert depths['stack_gpt2'] == 2 + 2
  assert depths['linear_of_a_slice'] == 2
  assert depths['example_passthrough'] == 48
  assert depths['example_ties'] == 32
  assert depths['ties'] == 4
  tied = {case for case, report in reports.items() if report['tied']}
  gpt2 = {case for case in CASES if case.endswith('gpt2')}
  assert tied == gpt2 | {'linear_tied', 'ties_tied'}
  rows = {case: report['rows'] for case, report in reports.items()}
  letters = {*tiny_checkpoints.WORDS, *'xyz', *'zuv', *'uxwvst'}
  assert rows['union'] == 2 + len(letters)
  assert rows['base_tokens'] == 2 + len({*tiny_checkpoints.WORDS, *'xyz'})
  assert rows['union_padded'] == 32
  for case, report in reports.items():
    half = case.startswith(('half', 'example')) or case == 'slerp_out_half'
    assert report['dtype'] == ('bfloat16' if half else 'float32'), case
