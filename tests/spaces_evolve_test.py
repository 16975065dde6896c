"""mergekit-evolve's files over a family: what is scored can be written down."""

import jax
import numpy as np
import pytest

from automerge_jax import recipe as recipes
from automerge_jax.merging import layers, registry
from automerge_jax.merging.resolve import resolve
from automerge_jax.models import bert
from automerge_jax.recipes import evolve, genotype
from automerge_jax.spaces import evolve as spaces

CONFIG = {
  'vocab_size': 11,
  'hidden_size': 4,
  'num_hidden_layers': 4,
  'num_attention_heads': 2,
  'intermediate_size': 8,
  'max_position_embeddings': 8,
  'type_vocab_size': 2,
  'layer_norm_eps': 1e-12,
}
FILE = """
genome:
  models: [a, b, c]
  merge_method: {}
tasks: [x]
"""
CASES = {
  'linear': 'linear',
  'task_arithmetic': 'task_arithmetic\n  base_model: base\n'
  '  layer_granularity: 2\n  allow_negative_weights: true',
  'ties': 'ties\n  base_model: base\n  layer_granularity: 1\n'
  '  filters: [attention, embeddings]',
  'dare_ties': 'dare_ties\n  base_model: c\n  layer_granularity: 2\n'
  '  filters: [output]',
  'slerp': 'slerp\n  base_model: base\n  layer_granularity: 2\n'
  '  tokenizer_source: base',
  'smooth linear': 'linear\n  smooth: true\n  layer_granularity: 1',
  'smooth ties': 'ties\n  base_model: base\n  smooth: true\n'
  '  layer_granularity: 2\n  filters: [attention]\n  normalize: false',
}
every_case = pytest.mark.parametrize('case', list(CASES))


@pytest.fixture(scope='module')
def family():
  return bert.family(bert.config_from_hf({'model_type': 'bert', **CONFIG}))


def _evolution(case):
  return evolve.from_yaml(FILE.format(CASES[case]))


def _points(space, count=4):
  x = np.random.default_rng(0).uniform(-0.1, 1.1, (count, len(space.names)))
  return [np.asarray(space.quantise(row.astype(np.float32))) for row in x]


@every_case
def test_plan_and_recipe_say_the_same(case, family):
  evolution = _evolution(case)
  space = spaces.space(evolution, family)
  experts = spaces.experts(evolution)
  decode = jax.jit(space.decode)
  for c in _points(space):
    plan = jax.device_get(decode(c))
    recipe = recipes.from_yaml(recipes.to_yaml(space.describe(c)))
    method = registry.get(recipe.merge_method)
    seen = {path: 0 for path in plan}
    for key in family.keys:
      found = resolve(recipe, key.stored, layers.layer_of(key.stored), 4)
      at = (Ellipsis,) if key.layer is None else (Ellipsis, key.layer)
      stated = dict(found.parameters)
      if method.name == 'slerp':  # indices of the models, not of the sources
        stated['first'], stated['second'] = map(experts.index, found.experts)
      else:
        assert found.experts == experts
      for name, values in plan[key.path].items():
        want = np.asarray(stated.pop(name), np.float32)
        if case.startswith('smooth'):
          np.testing.assert_allclose(values[at], want, rtol=2e-7, atol=1e-8)
        else:
          np.testing.assert_array_equal(values[at], want, f'{key} {name}')
      assert not stated
      seen[key.path] += 1
    assert all(seen.values())


@every_case
def test_dimensions_are_mergekits_genes_in_order(case, family):
  evolution = _evolution(case)
  space = spaces.space(evolution, family)
  of = genotype.shape(evolution.genome, 4)
  base_has_genes = case == 'dare_ties'
  assert len(space.names) == np.prod(of) * (2 if base_has_genes else 3) / 3
  assert len(set(space.names)) == len(space.names)
  assert space.correlation.shape == (len(space.names),) * 2
  np.linalg.cholesky(space.correlation)
  first = space.names[0].split('/')
  assert first[:2] == [evolution.genome.parameters[0], 'a']


@every_case
def test_the_unit_cube_is_covered(case, family):
  space = spaces.space(_evolution(case), family)
  ends = [
    np.asarray(space.quantise(np.full(len(space.names), x, np.float32)))
    for x in (-1, 0, 1, 2)
  ]
  np.testing.assert_array_equal(ends[0], ends[1])
  np.testing.assert_array_equal(ends[2], ends[3])
  low = [-1.5 if case == 'task_arithmetic' else 0.0] * len(space.names)
  np.testing.assert_allclose(ends[1], np.asarray(low), atol=1e-6)
  for c in _points(space):
    again = space.quantise(space.encode(c))
    np.testing.assert_array_equal(again, c)


def test_the_start_of_mergekit_evolve_is_a_point(family):
  evolution = _evolution('ties')
  space = spaces.space(evolution, family)
  start = genotype.initial(evolution, 4).ravel()
  c = np.asarray(space.quantise(space.encode(start)))
  np.testing.assert_allclose(c, start, atol=5e-4)
  ours = space.describe(c)
  theirs = genotype.to_recipe(evolution, c.astype(np.float64), 4)
  for part, other in zip(ours.slices, theirs.slices, strict=True):
    assert [s.model for s in part.sources] == [s.model for s in other.sources]
    assert [s.layers for s in part.sources] == [s.layers for s in other.sources]
  assert ours.parameters == {'normalize': True}


def test_a_base_alone_cannot_be_searched(family):
  text = FILE.replace('[a, b, c]', '[base]').format(CASES['ties'])
  with pytest.raises(ValueError, match="the only model is the base 'base'"):
    spaces.space(evolve.from_yaml(text), family)
