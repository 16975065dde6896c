"""What a search did and what its recipe holds, as the report shows them."""

import numpy as np
import pytest

from automerge_jax.merging import registry
from automerge_jax.merging.resolve import resolve
from automerge_jax.models import bert
from automerge_jax.recipes.document import Recipe, Scale, Slice, Source
from automerge_jax.search import history, plan
from automerge_jax.search.ledger import Candidate
from automerge_jax.spaces import cells, fusion
from tests import tiny_encoder

LAYERS = 4
EXPERTS = ('a', 'b')


@pytest.fixture(scope='module')
def family():
  config = tiny_encoder.CONFIG | {'num_hidden_layers': LAYERS}
  return bert.family(bert.config_from_hf(config))


def _table(recipe, family):
  filters = family.components['coarse']
  table = history.coefficients(recipe, family, filters, EXPERTS)
  values = np.array(table['values'], float)
  return table, {
    (expert, component): values[k, c]
    for k, expert in enumerate(EXPERTS)
    for c, component in enumerate(table['components'])
  }


def _copied(model, layer, scale=1.0):
  scales = () if scale == 1 else (Scale('output.dense', scale),)
  return Slice(
    (Source(model, layers=(layer, layer + 1)),),
    merge_method='passthrough',
    scales=scales,
  )


@pytest.mark.parametrize('method', ['task_arithmetic', 'ties', 'slerp'])
def test_layerwise_weights_are_those_of_each_tensor(family, method):
  grid = cells.layered(family, 1, 'coarse')
  space = fusion.space(registry.get(method), grid, EXPERTS, 'base')
  drawn = np.random.default_rng(0).random(len(space.names))
  recipe = space.describe(np.asarray(space.quantise(drawn)))
  table, values = _table(recipe, family)
  assert table['program'] is None
  assert table['layers'] == ['0', '1', '2', '3']
  assert table['parameter'] == ('share' if method == 'slerp' else 'weight')
  for key in family.keys:
    if key.layer is None:
      continue
    said = resolve(recipe, key.stored, key.layer, LAYERS)
    weights = said.parameters.get('weight')
    if weights is None:
      weights = (1 - said.parameters['t'], said.parameters['t'])
    own = dict(zip(said.experts, weights, strict=True))
    component = next(
      name
      for name, part in family.components['coarse']
      if part is None or part in key.stored
    )
    for expert in EXPERTS:
      shown = values[expert, component][key.layer]
      assert shown == pytest.approx(own.get(expert, 0.0))
  stem = values['a', 'stem']
  assert not np.isnan(stem[0]) and np.isnan(stem[1:]).all()


def test_moved_repeated_and_dropped_layers_are_rows_by_output(family):
  recipe = Recipe(
    'passthrough',
    (
      _copied('a', 0),
      _copied('b', 2, 0.9),
      _copied('b', 2),
      _copied('base', 3),
      _copied('a', 1, 1.25),
    ),
    base_model='base',
  )
  table, values = _table(recipe, family)
  assert table['layers'] == ['0', '1←2', '2', '3', '4←1']
  assert table['parameter'] == 'share'
  program = table['program']
  assert (program['depth'], program['of']) == (5, LAYERS)
  rows = program['layers']
  assert [row['sources'] for row in rows] == [[0], [2], [2], [3], [1]]
  assert [row['models'] for row in rows] == [
    ['a'],
    ['b'],
    ['b'],
    ['base'],
    ['a'],
  ]
  assert [row['scales'] for row in rows] == [[], [0.9], [], [], [1.25]]
  np.testing.assert_array_equal(values['a', 'attention'], [1, 0, 0, 0, 1])
  np.testing.assert_array_equal(values['b', 'attention'], [0, 1, 1, 0, 0])
  assert values['a', 'stem'][0] == 1


def test_parts_and_methods_of_their_own_are_read_by_component(family):
  span = (0, LAYERS)

  def sources(*weights):
    return tuple(
      Source(model, {'weight': weight}, span)
      for model, weight in zip(EXPERTS, weights, strict=True)
    )

  recipe = Recipe(
    'linear',
    (
      Slice(
        parts=(
          Slice(sources(0.25, 0.5), filter='attention'),
          Slice(
            (Source('a', layers=span), Source('b', layers=span)),
            base_model='a',
            parameters={'t': 0.2},
            merge_method='slerp',
          ),
        )
      ),
    ),
  )
  table, values = _table(recipe, family)
  assert table['parameter'] == 'weight or share'
  assert table['layers'] == ['0', '1', '2', '3']
  np.testing.assert_allclose(values['a', 'attention'], 0.25)
  np.testing.assert_allclose(values['b', 'attention'], 0.5)
  np.testing.assert_allclose(values['a', 'mlp'], 0.8)
  np.testing.assert_allclose(values['b', 'mlp'], 0.2)
  row = table['program']['layers'][1]
  assert row['methods'] == ['linear', 'slerp'] and row['models'] == ['a', 'b']
  assert table['program']['depth'] == table['program']['of'] == LAYERS


def _scored(generation, recipe, values, violations=(0.0, 0.0), failure=None):
  values = np.array(values)
  return plan.Scored(
    generation,
    Candidate('random', recipe, np.zeros(2)),
    tuple(values.tolist()),
    values[:, None],
    violations,
    (0.5, 0.5),
    failure,
  )


NAN = np.nan


def test_the_log_counts_each_recipe_and_rung_once():
  rows = history.log(
    [
      _scored(0, 'a', [0.6, 0.5]),
      _scored(0, 'b', [0.4, NAN]),
      _scored(1, 'a', [0.6, 0.5]),
      _scored(1, 'c', [0.9, NAN]),
      _scored(1, 'd', [NAN, NAN], failure='not finite'),
    ],
    (10, 30),
    2,
    0,
  )
  assert [row['candidates'] for row in rows] == [2, 5]
  assert [row['items'] for row in rows] == [20 + 40 + 20, 80 + 20 + 20]
  assert [row['failures'] for row in rows] == [0, 1]
  # 0.9 is of the lower rung and never compared.
  assert [row['incumbent'] for row in rows] == [0.5, 0.5]
  assert rows[1]['full_evaluations'] == 2.0


def test_the_incumbent_breaks_the_constraints_least():
  rows = history.log(
    [
      _scored(0, 'a', [0.9, 0.9], (0.0, 0.2)),
      _scored(1, 'b', [0.5, 0.6], (0.3, 0.0)),
      _scored(2, 'c', [0.8, 0.8], (0.0, 0.1)),
      _scored(3, 'd', [0.7, 0.7]),
    ],
    (10, 30),
    2,
    0,
  )
  assert [row['incumbent'] for row in rows] == [0.9, 0.6, 0.6, 0.7]


def test_without_weights_there_is_nothing_to_show(family):
  recipe = Recipe(
    'karcher', (Slice(tuple(Source(m, layers=(0, 4)) for m in EXPERTS)),)
  )
  filters = family.components['coarse']
  assert history.coefficients(recipe, family, filters, EXPERTS) is None
