"""The main job with methods of every kind, end to end on the tiny suite."""

import json

import pytest

from automerge_jax import pipeline
from automerge_jax import recipe as recipes
from experiments import merge
from tests import tiny_suite

FEW = {
  'candidates': 20,
  'population': 6,
  'gradient_steps': 4,
  'rungs': (16,),
  'promote': (),
  'minibatches': 2,
  'finalists': 2,
}


@pytest.mark.parametrize(
  ('method', 'semantics'),
  [
    ('della', 'mergekit-0.1.5'),  # cannot start from the experts themselves
    ('dare_ties', 'mergekit-0.1.5'),
    ('ties', 'paper'),  # looks at whole models
    ('iso_c', 'paper'),  # has no weights
    ('multislerp', 'mergekit-0.1.5'),  # on deltas, as there is a base
  ],
)
def test_the_main_job(method, semantics, tiny, tmp_path):
  settings = tiny_suite.settings(
    tiny, method=method, semantics=semantics, **FEW
  )
  pipeline.run(settings, tmp_path / 'job', 'test')
  summary = json.loads((tmp_path / 'job' / 'summary.json').read_text())
  assert summary['method'] == method
  assert 0 < summary['models']['merged']['heldout']['mean']['accuracy'] <= 1
  assert summary['search']['failures'] == 0
  written = tmp_path / 'job' / 'merged_hf' / 'recipe.yaml'
  found = recipes.from_yaml(written.read_text())
  if found.merge_method == method:  # it may be a hand-made merge that won
    assert found.semantics == semantics
  merge.run(written, tmp_path / 'again')
  first, second = (
    (folder / 'model.safetensors').read_bytes()
    for folder in (written.parent, tmp_path / 'again')
  )
  assert first == second
