"""A mergekit-evolve file is a search: the whole way, and what is refused."""

import json

import numpy as np
import pytest
import yaml

from automerge_jax import pipeline
from automerge_jax.io import checkpoints, safetensors
from automerge_jax.merging import export, resident, streaming
from automerge_jax.models import base as models
from automerge_jax.search import job as jobs
from automerge_jax.search import shared, space
from automerge_jax.search.ledger import Ledger
from configs import own_models
from experiments import evolution
from tests import tiny_harness, tiny_own, tiny_text

SMALL = {
  'rungs': (4, 8),
  'promote': (2,),
  'population': 4,
  'candidates': 12,
  'gradient_steps': 0,
  'minibatches': 2,
  'finalists': 2,
  'select': 6,
  'heldout': 8,
  'weights': (0.5,),
  'ties_scales': (),
  'ties_densities': (),
}
FILE = {
  'genome': {
    'models': ['one', 'two'],
    'merge_method': 'task_arithmetic',
    'base_model': 'base',
    'layer_granularity': 3,
    'allow_negative_weights': True,
    'filters': ['self_attn', 'mlp'],
    'tokenizer_source': 'union',
  },
  'tasks': [{'name': 'answer', 'weight': 2.0}, 'text'],
  'limit': 8,
}
SLERP = {'models': ['one', 'two', 'base'], 'merge_method': 'slerp'}
GENOMES = {
  'negative weights and filters': FILE['genome'],
  'slerp, no base': SLERP | {'layer_granularity': 1},
  'smooth ties': {
    'models': ['one', 'base', 'two'],
    'merge_method': 'ties',
    'base_model': 'base',
    'smooth': True,
    'layer_granularity': 1,
    'normalize': False,
  },
  'linear, the base too': {
    'models': ['base', 'one'],
    'merge_method': 'linear',
    'base_model': 'base',
    'filters': ['mlp'],
  },
  'dare_ties': {
    'models': ['one', 'two'],
    'merge_method': 'dare_ties',
    'base_model': 'base',
  },
}


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  made = tiny_own.write(tmp_path_factory.mktemp('evolve'))
  return made


def _config(**changes):
  config = own_models.get_config()
  config.search.update(SMALL | changes)
  return config


def _settings(folder, file, workdir=None, config=None, stated=(), name='f.yml'):
  """Settings and what was told."""
  path = folder / name
  path.write_text(yaml.safe_dump(file))
  told = []
  made = evolution.settings(
    path,
    config or _config(),
    workdir or folder / 'out',
    tell=told.append,
    stated=stated,
  )
  return made, told


def _compare(settings, job, found, c):
  """The plan's merge, as it is scored, against the recipe's."""
  stack = shared.build(
    job.method,
    job.family,
    job.tensors('base'),
    [job.tensors(name) for name in job.experts],
  )
  assert stack.below is None
  c = np.asarray(c, np.float32)
  params = resident.merge(job.method, found.decode(c), stack)
  scored = models.unpack(job.family.keys, params)
  streamed = streaming.merge(found.describe(c), job.folders)
  assert set(streamed) == set(scored)
  for name, value in streamed.items():
    most = np.abs(value).max()
    np.testing.assert_allclose(scored[name], value, rtol=0, atol=1e-6 * most)
  return streamed


@pytest.mark.parametrize('case', list(GENOMES))
def test_what_is_scored_is_what_the_recipe_merges(case, folder):
  settings, _ = _settings(folder, FILE | {'genome': GENOMES[case]})
  job = jobs.load(settings)
  found = space.build(settings, job.family, job.experts, 'base')
  x = np.random.default_rng(0).random((2, len(found.names)), np.float32)
  made = [
    _compare(settings, job, found, np.asarray(found.quantise(row))) for row in x
  ]
  assert all((made[0][n] != made[1][n]).any() for n in made[0])


@pytest.mark.parametrize('case', ['task_arithmetic', 'slerp'])
def test_a_whole_search(case, folder, tmp_path):
  one = {'genome': SLERP, 'tasks': ['answer'], 'limit': 6}
  file = {'task_arithmetic': FILE, 'slerp': one}[case]
  config = _config()
  if case == 'slerp':
    config = _config(rungs=(4,), promote=(), gradient_steps=2, candidates=18)
  settings, _ = _settings(folder, file, tmp_path, config)
  assert settings.rungs == {'task_arithmetic': (4, 8), 'slerp': (6,)}[case]
  summary = pipeline.run(settings, tmp_path, 'command')
  assert summary['search']['failures'] == 0
  assert set(summary['metrics'].values()) <= {'acc', 'inverse_perplexity'}
  job = jobs.load(settings)
  found = space.build(settings, job.family, job.experts, 'base')
  with Ledger(tmp_path / 'ledger.sqlite') as ledger:
    rows = [row for g in range(9) for row in ledger.proposals(g)]
  origins = {row.origin for row in rows}
  if case == 'slerp':
    assert 'pair:one+base-expert' in origins and 'gradient:end' in origins
  else:
    assert {'expert:one', 'expert:two', 'uniform', 'search'} <= origins
  # The score of the chosen candidate is that of the exported tensors.
  chosen = summary['models']['merged']['recipe_hash']
  scored = [row.coefficients for row in rows if row.recipe == chosen]
  wanted = safetensors.read(tmp_path / pipeline.EXPORTED)
  for c in scored[:1]:
    for name, value in _compare(settings, job, found, c).items():
      np.testing.assert_array_equal(wanted[name], value)
  recipe, folders = export.read(tmp_path / pipeline.EXPORTED / export.RECIPE)
  assert recipe.merge_method == case
  for name, value in streaming.merge(recipe, folders).items():
    np.testing.assert_array_equal(wanted[name], value)
