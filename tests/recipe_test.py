"""Recipes: YAML there and back, which statement counts, equal effects."""

import dataclasses

import pytest

from automerge_jax import recipe as recipes
from automerge_jax.merging import resolve
from automerge_jax.merging.layers import layer_of
from automerge_jax.recipe import Recipe, Slice, Source

NAMES = [
  'embeddings.word_embeddings.weight',
  *(
    f'encoder.layer.{i}.{part}.weight'
    for i in range(4)
    for part in ('attention.query', 'output.dense')
  ),
  'pooler.dense.weight',
]
LAYERS = {name: layer_of(name) for name in NAMES}

FULL = Recipe(
  merge_method='ties',
  base_model='base',
  slices=(
    Slice(
      (
        Source('a', {'weight': [{'filter': 'query', 'value': 0.25}]}, (0, 2)),
        Source('b', {'density': 0.5}, (0, 2)),
        Source('base', layers=(0, 2)),
      ),
      parameters={'weight': 0.125},
    ),
    Slice(
      tuple(Source(m, layers=(2, 4)) for m in ('a', 'b', 'other')),
      base_model='other',
      parameters={'weight': [0.0, 1.0]},
    ),
  ),
  parameters={'lambda': 1.5, 'normalize': 0.0},
  inputs={'a': 'f' * 64},
  semantics='paper',
)


def _read(text):
  return recipes.from_yaml(text, 'r.yaml')


def _values(recipe, name, parameter):
  found = resolve.resolve(recipe, name, LAYERS[name], 4)
  return found.parameters[parameter]


def _hash(recipe):
  return resolve.effective_hash(recipe, LAYERS, 4)


@pytest.mark.parametrize(
  'recipe',
  [
    FULL,
    Recipe('linear', (Slice((Source('a', {'weight': 1 / 3}),)),)),
    Recipe(
      'task_arithmetic',
      (Slice((Source('../x', {'weight': 1e-4}), Source('z: #'))),),
      base_model='ö',
      parameters={'weight': 0.1},
    ),
  ],
)
def test_yaml_gives_the_recipe_back(recipe):
  text = recipes.to_yaml(recipe, ['made by a test', '# twice'])
  assert text.startswith('# made by a test\n')
  back = _read(text)
  assert _plain(back) == _plain(recipe)
  assert recipes.to_yaml(back) == recipes.to_yaml(recipe)
  assert back.models == recipe.models


def _plain(value):
  """Dataclasses as dicts, tuples as lists: what two recipes must share."""
  if dataclasses.is_dataclass(value):
    value = vars(value)
  if isinstance(value, dict):
    return {key: _plain(inner) for key, inner in value.items()}
  if isinstance(value, list | tuple):
    return [_plain(inner) for inner in value]
  return value


def test_one_slice_of_all_layers_is_written_as_models():
  part = Slice((Source('a'), Source('b')), 'a', {'t': 0.25})
  back = _read(recipes.to_yaml(Recipe('slerp', (part,))))
  assert back.base_model == 'a' and back.parameters == {'t': 0.25}
  assert _hash(back) == _hash(Recipe('slerp', (part,)))
  for other in ({'parameters': {'t': 1}}, {'base_model': 'b'}):
    with pytest.raises(ValueError, match='in the recipe and in its only slice'):
      recipes.to_yaml(Recipe('slerp', (part,), **other))


def test_mergekits_own_yaml_is_read():
  recipe = _read("""
merge_method: task_arithmetic
base_model: base
models:
  - model: base
  - model: a
    parameters:
      weight:
        - filter: attention
          value: [0.0, 0.5, 0.2]
        - value: 0.7
  - model: b
    parameters: {weight: 0.3}
parameters: {lambda: 0.9}
dtype: float32
""")
  assert recipe.semantics == 'mergekit-0.1.5'
  found = resolve.resolve(recipe, NAMES[1], 0, 4)
  assert found.experts == ('a', 'b')  # the base is no expert of its own
  assert found.base_model == 'base'
  assert found.parameters == {
    'weight': (0.0, 0.3),
    'lambda': 0.9,
    'normalize': 0.0,
  }


@pytest.mark.parametrize(
  ('at', 'want'),
  [
    ({'source': 1.0, 'slice': 2.0, 'recipe': 3.0}, 1.0),
    ({'slice': 2.0, 'recipe': 3.0}, 2.0),
    ({'recipe': 3.0}, 3.0),
    ({'source': 0.0, 'recipe': 3.0}, 0.0),  # stated, though it is zero
  ],
)
def test_the_most_specific_statement_wins(at, want):
  def level(name):
    return {'weight': at[name]} if name in at else {}

  recipe = Recipe(
    'linear',
    (Slice((Source('a', level('source')),), parameters=level('slice')),),
    parameters=level('recipe'),
  )
  assert _values(recipe, NAMES[0], 'weight') == (want,)


def test_defaults_fill_in_and_required_parameters_are_missed():
  recipe = Recipe('ties', (Slice((Source('a'),)),), base_model='base')
  with pytest.raises(ValueError, match=r"'weight' of ties .* of a; add it"):
    _values(recipe, NAMES[0], 'weight')
  recipe = dataclasses.replace(recipe, parameters={'weight': 1})
  assert _values(recipe, NAMES[0], 'density') == (1.0,)
  assert _values(recipe, NAMES[0], 'lambda') == 1.0


def test_the_first_filter_that_is_part_of_the_name_counts():
  setting = [
    {'filter': 'attention', 'value': 1.0},
    {'filter': 'layer.1.', 'value': 2.0},
    {'value': 3.0},
  ]
  recipe = Recipe('linear', (Slice((Source('a', {'weight': setting}),)),))
  found = {name: _values(recipe, name, 'weight')[0] for name in NAMES}
  assert found['encoder.layer.1.attention.query.weight'] == 1.0
  assert found['encoder.layer.1.output.dense.weight'] == 2.0
  assert found['encoder.layer.2.output.dense.weight'] == 3.0
  assert found['pooler.dense.weight'] == 3.0


def test_a_list_without_a_match_leaves_it_to_the_next_level():
  recipe = Recipe(
    'linear',
    (Slice((Source('a', {'weight': [{'filter': 'attention', 'value': 1}]}),)),),
    parameters={'weight': 0.5},
  )
  assert _values(recipe, NAMES[1], 'weight') == (1.0,)
  assert _values(recipe, NAMES[2], 'weight') == (0.5,)


def test_gradients_run_linearly_over_depth():
  def at(setting, layer):
    recipe = Recipe('linear', (Slice((Source('a', {'weight': setting}),)),))
    name = f'encoder.layer.{layer}.output.dense.weight'
    return _values(recipe, name, 'weight')[0]

  assert [at([0.0, 3.0], i) for i in range(4)] == pytest.approx([0, 1, 2, 3])
  assert [at([0.0, 1.0, 0.0], i) for i in range(4)] == pytest.approx(
    [0, 2 / 3, 2 / 3, 0]
  )
  assert [at([0.5], i) for i in range(4)] == [0.5] * 4


def test_slices_take_their_own_layers_base_and_gradient():
  query = 'encoder.layer.{}.attention.query.weight'
  assert _values(FULL, query.format(1), 'weight') == (0.25, 0.125)
  assert _values(FULL, query.format(2), 'weight') == (0.0, 0.0)
  assert _values(FULL, query.format(3), 'weight') == (1.0, 1.0)
  assert resolve.resolve(FULL, query.format(1), 1, 4).base_model == 'base'
  assert resolve.resolve(FULL, query.format(2), 2, 4).base_model == 'other'
  # What comes before the layers is the first slice's, what follows the last's.
  assert _values(FULL, NAMES[0], 'density') == (1.0, 0.5)
  assert _values(FULL, NAMES[-1], 'density') == (1.0, 1.0)


@pytest.mark.parametrize(
  'spans', [((0, 2), (3, 4)), ((0, 3), (2, 4)), ((1, 4),), ((0, 3),)]
)
def test_slices_must_cover_each_layer_once(spans):
  parts = tuple(Slice((Source('a', {'weight': 1}, s),)) for s in spans)
  with pytest.raises(ValueError, match='expected each layer once'):
    _values(Recipe('linear', parts), NAMES[2], 'weight')


SIMPLE = 'merge_method: linear\nmodels: [{model: a, parameters: {weight: 1}}]\n'


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    (
      SIMPLE + 'parameter: {}',
      r"r.yaml:3: unknown key 'parameter'; did you .*",
    ),
    (SIMPLE.replace('model:', 'modle:'), "models.0.: unknown key 'modle'; did"),
    (
      SIMPLE.replace('linear', 'liner'),
      "method 'liner'; did you mean 'linear'",
    ),
    (SIMPLE + 'slices: []', 'exactly one of .*, got models and slices'),
    ('merge_method: linear', 'r.yaml:1: give exactly one .*, got none'),
    ('models: [{model: a}]', '`merge_method` is missing'),
    (SIMPLE + 'dtype: int64', "r.yaml:3: dtype: dtype 'int64' is not supp"),
    ('merge_method: linear\nmodels: [{parameters: {}}]', '`model` is missing'),
    ('- a list', 'expected the keys of a recipe'),
    (
      'merge_method: linear\nslices: [{sources: [{model: a, layer_range: '
      '[0, 2]}, {model: b, layer_range: [1, 4]}]}]',
      "unequal numbers of layers: {'a': 2, 'b': 3}",
    ),
    (
      'merge_method: linear\nslices: [{sources: [{model: a}]}]',
      'layer_range',
    ),
    (SIMPLE.replace('weight', 'wieght'), "key 'wieght'; did you mean 'weight'"),
  ],
)
def test_what_is_wrong_is_named(text, message):
  with pytest.raises(ValueError, match=message):
    _read(text)


def test_equal_effects_have_equal_hashes_however_they_are_written():
  plain = Recipe(
    'linear',
    (Slice((Source('a', {'weight': 0.5}), Source('b', {'weight': 0.5}))),),
  )
  shared = Recipe(
    'linear', (Slice((Source('a'), Source('b'))),), parameters={'weight': 0.5}
  )
  filtered = Recipe(
    'linear',
    (Slice((Source('a'), Source('b'))),),
    parameters={
      'weight': [{'filter': 'query', 'value': [0.5, 0.5]}, {'value': 0.5}],
      'normalize': 1,
    },
  )
  sliced = Recipe(
    'linear',
    tuple(
      Slice(
        tuple(Source(m, layers=span) for m in 'ab'), parameters={'weight': 0.5}
      )
      for span in ((0, 1), (1, 4))
    ),
    inputs={'a': 'f' * 64},
  )
  same = [plain, shared, filtered, sliced, _read(recipes.to_yaml(sliced))]
  assert len({_hash(recipe) for recipe in same}) == 1


POOLER = [{'filter': 'pooler', 'value': 1.0001}, {'value': 1.0}]
TWO = (Source('a', {'weight': 1.0}), Source('b', {'weight': 0.5}))


@pytest.mark.parametrize(
  'change',
  [
    {'merge_method': 'task_arithmetic'},
    {'merge_method': 'dare_ties'},
    {'parameters': {'density': 0.5, 'normalize': 0.0}},
    {'parameters': {'density': 0.6}},
    {'parameters': {'density': 0.5, 'lambda': 0.9}},
    {'semantics': 'paper'},
    {'slices': (Slice((TWO[1],)),)},
    {'slices': (Slice((Source('a', {'weight': POOLER}), TWO[1])),)},
    {'base_model': 'b'},
  ],
)
def test_other_effects_have_other_hashes(change):
  start = Recipe('ties', (Slice(TWO),), 'c', {'density': 0.5})
  assert _hash(dataclasses.replace(start, **change)) != _hash(start)


def test_mergekits_memory_switch_is_no_error():
  assert _hash(_read(SIMPLE + 'parameters: {int8_mask: true}')) == _hash(
    _read(SIMPLE)
  )
