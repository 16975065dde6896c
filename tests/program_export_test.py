"""Exported layer programs: recorded logits of stock Transformers."""

import json
import pathlib

import numpy as np
import pytest

from automerge_jax import recipe
from automerge_jax.io import safetensors
from automerge_jax.merging import export
from automerge_jax.models import registry
from tests import program_exports as exports

GOLDEN = pathlib.Path(__file__).parent / 'testdata' / 'program_exports.npz'


@pytest.fixture(scope='module')
def golden():
  with np.load(GOLDEN) as file:
    return dict(file)


@pytest.mark.parametrize('case', exports.PROGRAMS)
def test_search_export_and_transformers_agree(golden, case, tmp_path):
  program = exports.PROGRAMS[case]
  folder = exports.write(tmp_path / case, case)
  out = exports.exported(folder, program)
  inputs = exports.inputs(case)
  theirs = exports.real(case, golden[f'{case}/logits'])
  found = {
    'searched': exports.outputs(*exports.searched(folder, program), inputs),
    'exported': exports.outputs(*registry.load(out), inputs),
  }
  for way, logits in found.items():
    np.testing.assert_allclose(
      exports.real(case, logits), theirs, rtol=1e-4, atol=2e-5, err_msg=way
    )
  np.testing.assert_allclose(
    found['searched'], found['exported'], rtol=1e-5, atol=1e-5
  )
  config = json.loads((out / 'config.json').read_text())
  read = json.loads(str(golden[f'{case}/config']))
  there = [step for step in program if step]
  assert config['num_hidden_layers'] == len(there) == read['num_hidden_layers']
  head = [n for n in safetensors.read(out) if n == 'lm_head.weight']
  assert bool(head) == (case == 'llama2')


def test_kinds_of_attention_move_with_their_layers(golden, tmp_path):
  case = 'gemma2'
  out = exports.exported(
    exports.write(tmp_path / case, case), exports.PROGRAMS[case]
  )
  kinds = ('sliding_attention', 'full_attention', 'sliding_attention')
  want = [kinds[step[1]] for step in exports.PROGRAMS[case] if step]
  assert want != [*kinds, *kinds][: len(want)]
  assert json.loads((out / 'config.json').read_text())['layer_types'] == want
  assert json.loads(str(golden[f'{case}/config']))['layer_types'] == want


def test_the_written_recipe_makes_the_same_checkpoint_again(tmp_path):
  case = 'qwen3'
  folder = exports.write(tmp_path / case, case)
  out = exports.exported(folder, exports.PROGRAMS[case])
  read, folders = export.read(out / 'recipe.yaml')
  assert read == recipe.from_yaml((out / 'recipe.yaml').read_text())
  export.export(read, folders, tmp_path / 'again')
  first = (out / 'model.safetensors').read_bytes()
  assert (tmp_path / 'again' / 'model.safetensors').read_bytes() == first


@pytest.mark.parametrize('case', exports.PROGRAMS)
def test_scales_are_folded_to_the_same_numbers(case, tmp_path):
  """On the device and by tensor: s (w + offset) - offset."""
  program = exports.PROGRAMS[case]
  folder = exports.write(tmp_path / case, case)
  stored = safetensors.read(exports.exported(folder, program))
  _, params = exports.searched(folder, program)
  family = registry.load(folder / 'merged').family
  active = np.array([step is not None for step in program])
  for key in family.keys:
    if key.layer is None:
      continue
    leaf = params
    for part in key.path.split('/'):
      leaf = leaf[part]
    own = np.asarray(leaf)[active][key.layer]
    own = own.swapaxes(-1, -2) if key.transpose else own
    norms = any(offset for _, offset in family.branches)
    if norms and any(part in key.stored for part, _ in family.branches):
      np.testing.assert_allclose(own, stored[key.stored], atol=2e-7)
    else:
      np.testing.assert_array_equal(own, stored[key.stored], key.stored)
