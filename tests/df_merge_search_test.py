"""DF-Merge as a search: on the device, streamed, and from its files."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from automerge_jax import pipeline, searching
from automerge_jax import recipe as recipes
from automerge_jax.io import safetensors
from automerge_jax.merging import streaming
from automerge_jax.models import base as models
from automerge_jax.search import job as jobs
from automerge_jax.search import shared, space
from automerge_jax.search.job import BASE
from experiments import merge
from tests import tiny_suite

DF = {
  'method': 'df_merge',
  'semantics': 'paper',
  'candidates': 14,
  'population': 6,
  'gradient_steps': 0,
  'rungs': (16,),
  'promote': (),
  'finalists': 2,
  'fisher_examples': 6,
}


@pytest.fixture(scope='module', params=['candidate', 'expert'])
def made(request, tiny):
  """A job, its space and its stack."""
  settings = tiny_suite.settings(tiny, **DF, fisher_at=request.param)
  job = jobs.load(settings)
  found = space.build(settings, job.family, job.experts, BASE)
  return job, found, searching.stack_of(job, found, request.param == 'expert')


def _merged(job, found, stack, c):
  @jax.jit
  def run(c, stack):
    plan = found.decode(c)
    model = shared.merged(job.family, job.method, plan, stack, 'float32')
    return model(None)[1]

  return models.unpack(job.family.keys, jax.device_get(run(c, stack)))


def test_recipes_give_what_the_device_merges(made):
  job, found, stack = made
  draw = np.random.default_rng(0).uniform(size=len(found.names))
  c = found.quantise(jnp.asarray(draw, jnp.float32))
  want = _merged(job, found, stack, c)
  recipe = found.describe(c)
  have = job.merge(recipe)
  plain = streaming.merge(
    recipes.from_yaml(
      recipes.to_yaml(recipe, []).replace('df_merge', 'task_arithmetic')
    ),
    job.folders,
  )
  moved = 0.0
  for name, tensor in want.items():
    # Where information is all rounding, as of the keys' biases, so are shares.
    near = 1e-3 if name.endswith('key.bias') else 2e-6
    np.testing.assert_allclose(have[name], tensor, rtol=2e-4, atol=near)
    moved = max(moved, np.abs(tensor - plain[name]).max())
  assert moved > 1e-3  # information counts


def test_no_coefficients_give_the_base(made):
  job, found, stack = made
  merged = _merged(job, found, stack, jnp.zeros(len(found.names)))
  base = job.tensors(BASE)
  for name, tensor in merged.items():
    np.testing.assert_array_equal(tensor, base[name])


def test_static_information_is_another_merge(tiny):
  merges = []
  for place in ('candidate', 'expert'):
    job = jobs.load(tiny_suite.settings(tiny, **DF, fisher_at=place))
    found = space.build(
      tiny_suite.settings(tiny, **DF), job.family, job.experts, BASE
    )
    c = jnp.full(len(found.names), 0.3)
    merges.append(job.merge(found.describe(c)))
  differ = [np.abs(one - merges[1][n]).max() for n, one in merges[0].items()]
  assert max(differ) > 1e-5


def test_the_main_job(tiny, tmp_path):
  settings = tiny_suite.settings(tiny, **DF, space='modelwise')
  pipeline.run(settings, tmp_path / 'job', 'test')
  summary = json.loads((tmp_path / 'job' / 'summary.json').read_text())
  assert summary['search']['failures'] == 0
  written = tmp_path / 'job' / 'merged_hf' / 'recipe.yaml'
  found = recipes.from_yaml(written.read_text())
  assert found.merge_method == 'df_merge'
  assert set(found.statistics) == set(found.models) - {found.base_model}
  merge.run(written, tmp_path / 'again')
  first, second = (
    safetensors.read(folder) for folder in (written.parent, tmp_path / 'again')
  )
  for name, tensor in first.items():
    np.testing.assert_array_equal(tensor, second[name])
  again = pipeline.run(settings, tmp_path / 'job', 'test')
  assert again['models'] == summary['models']


def test_what_cannot_be_measured_is_refused(tiny):
  settings = tiny_suite.settings(tiny, **DF | {'gradient_steps': 4})
  with pytest.raises(ValueError, match=r'gradient_steps is 4.*set it to 0'):
    job = jobs.load(settings)
    found = space.build(settings, job.family, job.experts, BASE)
    searching.study_of(settings, job, found, None)
  with pytest.raises(ValueError, match='fisher_at is'):
    tiny_suite.settings(tiny, **DF, fisher_at='somewhere')
  with pytest.raises(ValueError, match='no task of their name'):
    jobs.load(tiny_suite.settings(tiny, tasks=tiny_suite.TASKS[:2], **DF))
