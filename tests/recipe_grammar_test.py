"""The grammar of recipes: what is read, written, warned of and refused."""

import pytest
import recipe_documents

from automerge_jax import recipe as recipes
from automerge_jax.merging import resolve
from automerge_jax.recipe import Recipe, Slice, Source


def _read(text):
  return recipes.from_yaml(text, 'r.yaml')


SIMPLE = 'merge_method: linear\nmodels: [{model: a, parameters: {weight: 1}}]\n'


def test_what_stands_beside_models_is_kept():
  text = """
merge_method: ties
base_model:
  model: {path: org/base, revision: main}
  lora: {path: ad, revision: v1}
models:
- model: org/a@rev
  parameters: {weight: 1e-3, density: [1, "0.5"]}
- model: b+lora
  parameters: {weight: {filter: mlp, value: 2}}
parameters: {weight: [], normalize: "off"}
dtype: torch.bfloat16
out_dtype: float16
tokenizer:
  source: org/a@rev
  tokens:
    <s>: {source: b+lora}
    <pad>: {source: {kind: zero}}
    <x>: {source: {kind: model_token, model: c, token: y}, force: true}
    <y>: {source: {kind: model_token, model: c, token_id: 3}}
  pad_to_multiple_of: 64
chat_template: "{{ jinja }}"
semantics: mergekit
seed: 7
inputs: {b+lora: abc}
"""
  recipe = _read(text)
  assert recipe.base_model == 'org/base@main+ad@v1'
  assert recipes.model_ref(recipe.base_model) == recipes.ModelRef(
    'org/base', 'main', 'ad', 'v1'
  )
  assert recipes.model_ref('b+lora') == ('b', None, 'lora', None)
  a, b = recipe.slices[0].sources
  assert a.parameters == {'weight': 0.001, 'density': [1, 0.5]}
  assert b.parameters == {'weight': {'filter': 'mlp', 'value': 2}}
  assert recipe.parameters == {'weight': [], 'normalize': False}
  assert (recipe.dtype, recipe.out_dtype) == ('bfloat16', 'float16')
  assert recipe.tokenizer == recipes.TokenizerSpec(
    'org/a@rev',
    {
      '<s>': recipes.TokenSpec('b+lora'),
      '<pad>': recipes.TokenSpec(recipes.ZeroToken()),
      '<x>': recipes.TokenSpec(recipes.ModelToken('c', token='y'), True),
      '<y>': recipes.TokenSpec(recipes.ModelToken('c', token_id=3)),
    },
    64,
  )
  assert recipe.chat_template == '{{ jinja }}'
  assert (recipe.semantics, recipe.seed) == ('mergekit-0.1.5', 7)
  assert recipe.inputs == {'b+lora': 'abc'}
  assert recipe.models == ('org/base@main+ad@v1', 'org/a@rev', 'b+lora', 'c')
  assert recipe.warnings == ()
  assert _read(recipes.to_yaml(recipe)) == recipe


def test_modules_are_read_and_written():
  recipe = _read("""
merge_method: linear
modules:
  encoder:
    models: [{model: a}]
    parameters: {weight: 1}
  decoder:
    slices:
    - sources:
      - {model: a, layer_range: [0, 1]}
      - {model: b, layer_range: [3, 4]}
      parameters: {weight: 2}
tokenizer_source: union
""")
  assert [m.name for m in recipe.modules] == ['encoder', 'decoder']
  assert recipe.modules[0].parameters == {'weight': 1}
  assert recipe.modules[1].slices[0].sources[1].layers == (3, 4)
  assert recipe.tokenizer == recipes.TokenizerSpec('union')
  assert _read(recipes.to_yaml(recipe)) == recipe
  assert recipe.models == ('a', 'b')


def test_what_has_no_effect_warns_with_its_line():
  recipe = _read("""merge_method: slerp
base_model: a
slices:
- sources:
  - {model: a, layer_range: [0, 1], parameters: {weight: 1}}
  - {model: b, layer_range: [0, 1]}
  residual_weight: 0.5
parameters: {t: 0.5, int8_mask: true, normalize: true}
""")
  assert [w.split(': ')[:2] for w in recipe.warnings] == [
    ['r.yaml:7', 'slices[0].residual_weight'],
    ['r.yaml:5', 'slices[0].sources[0].parameters.weight'],
    ['r.yaml:8', 'parameters.int8_mask'],
    ['r.yaml:8', 'parameters.normalize'],
  ]
  (warning,) = _read(SIMPLE.replace('a,', 'a, layer_range: [0, 9],')).warnings
  assert warning == (
    'r.yaml:2: models[0].layer_range: it has no effect under `models`; use '
    '`slices` to choose layers'
  )


LONG = """merge_method: ties
base_model: base
models:
- model: a
  parameters:
    weight: 1
    density: [0.5, 1]
"""


@pytest.mark.parametrize(
  ('old', 'new', 'message'),
  [
    (
      'weight: 1',
      'weight: one',
      "r.yaml:6: .*weight: expected a number, got 'on",
    ),
    ('weight: 1', 'weight:', "'weight' of ties .* not stated"),
    (
      'weight: 1',
      'weight: .nan',
      'r.yaml:6: .*expected a finite number, got nan',
    ),
    (
      '0.5, 1',
      '0.5, [1]',
      r'r.yaml:7: .*density.1.: expected a value, got a list',
    ),
    ('0.5, 1', '0.5, {value: 1}', r'density.0.: expected {filter, value} like'),
    ('[0.5, 1]', '{filter: a}', 'r.yaml:7: .*density: `value` is missing'),
    (
      '[0.5, 1]',
      '{fliter: a, value: 1}',
      "key 'fliter'; did you mean 'filter'",
    ),
    ('[0.5, 1]', '{filter: on, value: 1}', 'filter: expected text, got True'),
    (
      'density',
      'weight',
      "r.yaml:7: .*the key 'weight' is given twice; keep one",
    ),
    (
      'density',
      'dennsity',
      "r.yaml:7: .*key 'dennsity'; did you mean 'density'",
    ),
    (
      'density',
      'gamma',
      r'ties takes no parameter .gamma. \(breadcrumbs, bread',
    ),
    (
      'density',
      'normalize',
      'one for all models; state it in the `parameters`',
    ),
    (
      'base_model: base\n',
      '',
      'r.yaml:1: merge_method: ties needs a `base_mod',
    ),
    ('base_model: base', 'base_model: 3', 'base_model: expected text, got 3'),
    ('base_model: base', 'base_model: a+b+c', "model 'a.b.c'; expected path"),
    ('base_model: base', 'base_model: {path: a}', "unknown key 'path'. Valid"),
    ('base_model: base', 'base_model: {model: a+b}', "'a.b' cannot be named"),
    (
      '- model: a',
      '- modle: a',
      "r.yaml:4: models.0.: unknown key 'modle'; did",
    ),
    ('- model: a', '- model: a\n- model: a', "r.yaml:5: .*'a' stands twice in"),
    (
      'merge_method',
      'dtype: half\nmerge_method',
      "r.yaml:1: dtype: dtype 'half'",
    ),
    ('merge_method', 'seed: -1\nmerge_method', 'seed: -1 is negative'),
    (
      'merge_method',
      'seed: 1.5\nmerge_method',
      'expected a whole number, got 1',
    ),
    ('merge_method', 'semantics: papers\nmerge_method', "did you mean 'paper'"),
    (
      'merge_method',
      'tokenizer_source: base\ntokenizer: {}\nmerge_method',
      'r.yaml:2: tokenizer: give one of',
    ),
    (
      'merge_method',
      'tokenizer: {tokens: {x: {source: {kind: one}}}}\nmerge_method',
      "tokenizer.tokens.x.source.kind: unknown value 'one'",
    ),
    (
      'merge_method',
      'tokenizer: {tokens: {x: {source: {kind: model_token, model: a}}}}\n'
      'merge_method',
      'expected `model` and one of `token` and `token_id`',
    ),
    ('merge_method', '--- \nmerge_method', 'needs'),
    ('  parameters', ' parameters', 'r.yaml:5: no YAML'),
    (
      'merge_method',
      'genome: {}\nmerge_method',
      'a search space of mergekit-evo',
    ),
    ('merge_method', 'experts: []\nmerge_method', 'a mixture of experts'),
  ],
)
def test_what_is_wrong_is_named_with_its_line(old, new, message):
  assert old in LONG
  if message == 'needs':
    assert _read(LONG.replace(old, new)) == _read(LONG)
    return
  with pytest.raises(ValueError, match=message):
    resolve.resolve(_read(LONG.replace(old, new)), 'x', None, 1)


def test_several_documents_and_none_are_refused():
  for text, count in ((LONG + '---\n' + LONG, 2), ('# nothing\n', 0)):
    with pytest.raises(ValueError, match=f'{count} YAML documents; exp'):
      _read(text)


def test_keys_merged_by_yaml_are_keys():
  recipe = _read("""
merge_method: linear
models:
- &first {model: a, parameters: {weight: 2}}
- {<<: *first, model: b}
""")
  a, b = recipe.slices[0].sources
  assert (b.model, b.parameters) == ('b', a.parameters)
  with pytest.raises(ValueError, match=r'r.yaml:2: models.0.: `<<` merges'):
    _read('merge_method: linear\nmodels: [{<<: 3, model: b}]')


def test_a_missing_base_is_written_among_the_sources():
  parts = (Slice((Source('a', {'weight': 1.0}, (0, 2)),)),)
  text = recipes.to_yaml(Recipe('ties', parts, 'base'))
  back = _read(text)
  assert back.slices[0].sources[1] == Source('base', layers=(0, 2))
  layers = {'x.layers.0.y': 0, 'x.layers.1.y': 1}
  assert resolve.effective_hash(back, layers, 2) == (
    resolve.effective_hash(Recipe('ties', parts, 'base'), layers, 2)
  )


@pytest.mark.parametrize(
  ('text', 'reasons'),
  [
    (SIMPLE, []),
    (LONG, []),
    (SIMPLE + 'semantics: paper', []),
    (LONG.replace('ties', 'dare_ties'), ['masks of dare_ties are random']),
    (LONG.replace('ties', 'dare_ties').replace('0.5, ', ''), []),
    (
      LONG.replace('ties', 'dare_ties').replace('0.5, ', '')
      + 'semantics: paper',
      ['dare_ties here means the paper'],
    ),
    (LONG.replace('model: a', 'model: a.gguf'), ['read GGUF files: a.gguf']),
    (LONG + 'dtype: bfloat16', ['it computes in bfloat16']),
    (
      'merge_method: slerp\nmodels: [{model: a}, {model: b}]\n'
      'parameters: {t: 1}',
      ['its slerp needs a `base_model`'],
    ),
    (
      'merge_method: slerp\nbase_model: a\nmodels: [{model: a}, {model: b}]\n'
      'parameters: {t: 1, first: 1}',
      ["slerp has no parameter 'first'"],
    ),
    (
      'merge_method: magmax\nbase_model: a\nmodels: [{model: b}]',
      ["it has no method 'magmax'"],
    ),
  ],
)
def test_reasons_why_mergekit_cannot_reproduce_it(text, reasons):
  found = recipes.portable(_read(text))
  assert len(found) == len(reasons)
  for sentence, part in zip(found, reasons, strict=True):
    assert part in sentence


def test_random_recipes_come_back_from_yaml():
  methods = set()
  for text in recipe_documents.draw(seed=3, count=200):
    recipe = _read(text)
    written = recipes.to_yaml(recipe)
    assert _read(written) == recipe, text
    assert recipes.to_yaml(_read(written)) == written
    methods.add(recipe.merge_method)
  assert methods == set(recipe_documents.METHODS)
