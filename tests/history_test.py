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
NAN = np.nan
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


def _scored(
  generation,
  recipe,
  values,
  violations=(0.0, 0.0),
  failure=None,
  seen=0,
  stopped=False,
):
  values = np.array(values)
  return plan.Scored(
    generation,
    Candidate('random', recipe, np.zeros(2)),
    tuple(values.tolist()),
    values[:, None],
    violations,
    (0.5, 0.5),
    failure,
    seen,
    stopped,
  )


# Rungs of 10 and 30 items of 2 tasks; `c` is stopped after 4 of 20 items, `e`
# after 12 of the 40 that the second rung adds.
RUN = [
  _scored(0, 'a', [0.6, 0.5], seen=60),
  _scored(0, 'b', [0.4, NAN], seen=20),
  _scored(1, 'a', [0.6, 0.5], seen=60),
  _scored(1, 'c', [NAN, NAN], seen=4, stopped=True),
  _scored(1, 'd', [NAN, NAN], failure='not finite'),
  _scored(1, 'e', [0.9, NAN], seen=32, stopped=True),
  _scored(1, 'f', [0.5, NAN], seen=20, failure='too large'),
  _scored(1, 'g', [NAN, NAN], failure='not finite'),
]


def test_the_log_counts_each_recipe_and_rung_once():
  rows = history.log(RUN, (10, 30), 2, [80, 150])
  assert [row['candidates'] for row in rows] == [2, 8]
  assert [row['items'] for row in rows] == [80, 150]
  assert [row['failures'] for row in rows] == [0, 3]
  # a twice, b; then c, d, e twice, f twice, g
  assert [row['evaluations'] for row in rows] == [3, 10]
  # 0.9 is of the lower rung and never compared.
  assert [row['incumbent'] for row in rows] == [0.5, 0.5]
  assert rows[1]['full_evaluations'] == 2.5


def test_every_generation_needs_its_cost():
  with pytest.raises(ValueError, match='after 1 generations, but candidates'):
    history.log(RUN, (10, 30), 2, [80])


def test_spending_adds_up_to_the_items_that_were_seen():
  told = history.spending(RUN, (10, 30), 2, 30)
  assert told['rungs'] == [
    {'items': 10, 'completed': 4, 'stopped': 1, 'failed': 2, 'scored': 84},
    {'items': 30, 'completed': 1, 'stopped': 1, 'failed': 1, 'scored': 52},
  ]
  seen = {row.candidate.recipe: row.seen for row in RUN}
  assert sum(row['scored'] for row in told['rungs']) == sum(seen.values())
  assert told['items_saved'] == (20 - 4) + (40 - 12)
  assert told['gradient_items'] == 30
  assert told['failures'] == {'not finite': 2, 'too large': 1}


def test_a_recipe_counts_where_it_got_furthest():
  again = [*RUN, _scored(2, 'b', [0.4, 0.45], seen=60)]
  told = history.spending(again, (10, 30), 2, 0)
  assert [row['completed'] for row in told['rungs']] == [4, 2]


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
    [20, 80, 140, 200],
  )
  assert [row['incumbent'] for row in rows] == [0.9, 0.6, 0.6, 0.7]


def test_without_weights_there_is_nothing_to_show(family):
  recipe = Recipe(
    'karcher', (Slice(tuple(Source(m, layers=(0, 4)) for m in EXPERTS)),)
  )
  filters = family.components['coarse']
  assert history.coefficients(recipe, family, filters, EXPERTS) is None
