"""Slices with a method, parts and scales of their own, merged by tensor."""

import dataclasses
import json

import numpy as np
import pytest

from automerge_jax import recipe as recipes
from automerge_jax.merging import (
  companions,
  explain,
  export,
  plan,
  sources,
  streaming,
)
from automerge_jax.merging.resolve import resolve
from automerge_jax.recipe import Recipe, Scale, Slice, Source
from tests import tiny_models

Q, UP, NORM = (
  'model.layers.{}.self_attn.q_proj.weight',
  'model.layers.{}.mlp.up_proj.weight',
  'model.layers.{}.input_layernorm.weight',
)
BEFORE, AFTER = 'model.embed_tokens.weight', 'lm_head.weight'


def _sources(at, **values):
  return tuple(
    Source(model, {'weight': value}, (at, at + 1))
    for model, value in values.items()
  )


def _copy(model, at, **keys):
  """A slice of a single layer of one model."""
  return Slice(
    (Source(model, layers=(at, at + 1)),), merge_method='passthrough', **keys
  )


@pytest.fixture(scope='module')
def family(tmp_path_factory):
  """(folders, tensors) of a base and three fine-tunes."""
  folder = tmp_path_factory.mktemp('family')
  models = tiny_models.family(folder, 3)
  return {model: folder / model for model in models}, models


def _merged(recipe, family):
  folders, _ = family
  named = {m: folders[m] for m in recipe.models}
  return streaming.merge(recipe, named)


def test_parts_merge_by_methods_of_their_own(family):
  _, models = family
  recipe = Recipe(
    'linear',
    (
      Slice(
        parts=(
          Slice(
            _sources(0, e0=1.0, e1=1.0),
            filter='self_attn',
            merge_method='slerp',
            parameters={'t': 1.0},
          ),
          Slice(
            _sources(0, e0=0.5, e1=0.25),
            filter='mlp',
            merge_method='task_arithmetic',
          ),
          Slice(_sources(0, e0=1.0, e2=3.0)),
        )
      ),
      _copy('e2', 1),
    ),
    base_model='base',
  )
  merged = _merged(recipe, family)
  base, e0, e1, e2 = (models[m] for m in ('base', 'e0', 'e1', 'e2'))
  want = {
    Q.format(0): e1[Q.format(0)],
    UP.format(0): base[UP.format(0)]
    + 0.5 * (e0[UP.format(0)] - base[UP.format(0)])
    + 0.25 * (e1[UP.format(0)] - base[UP.format(0)]),
    NORM.format(0): e0[NORM.format(0)] / 4 + e2[NORM.format(0)] * 3 / 4,
    BEFORE: e0[BEFORE] / 4 + e2[BEFORE] * 3 / 4,
    AFTER: e2[AFTER],
    Q.format(1): e2[Q.format(1)],
  }
  for name, tensor in want.items():
    np.testing.assert_allclose(merged[name], tensor, atol=1e-6, err_msg=name)
  assert merged.keys() == models['base'].keys()
  assert recipe.methods == (
    *('slerp', 'task_arithmetic', 'linear', 'passthrough'),
  )


def test_layers_of_any_model_in_any_order_and_number(family):
  _, models = family
  order = [('e1', 1), ('base', 0), ('e1', 1), ('e0', 1), ('e2', 0)]
  recipe = Recipe('linear', tuple(_copy(*at) for at in order))
  merged = _merged(recipe, family)
  for i, (model, at) in enumerate(order):
    for name in (Q, UP, NORM):
      np.testing.assert_array_equal(
        merged[name.format(i)], models[model][name.format(at)]
      )
  np.testing.assert_array_equal(merged[BEFORE], models['e1'][BEFORE])
  np.testing.assert_array_equal(merged[AFTER], models['e2'][AFTER])
  assert len(merged) == 3 + 3 * len(order)


def test_scales_multiply_what_was_merged(family):
  _, models = family
  scales = (Scale('mlp', 0.5), Scale('norm', 0.25, 1.0), Scale('q_proj', 1.0))
  recipe = Recipe(
    'passthrough', (_copy('e0', 0, scales=scales), _copy('e0', 1))
  )
  merged, own = _merged(recipe, family), models['e0']
  half = np.float32(0.25) * (own[NORM.format(0)] + np.float32(1)) - 1
  want = own | {
    UP.format(0): np.float32(0.5) * own[UP.format(0)],
    NORM.format(0): half.astype(np.float32),
  }
  tiny_models.assert_same(merged, want)
  # Those of a part go before those of its slice.
  part = Slice(
    parts=(_copy('e0', 0, scales=(Scale('up', 2.0),)),),
    scales=(Scale(None, 3.0),),
  )
  merged = _merged(Recipe('linear', (part, _copy('e0', 1))), family)
  np.testing.assert_array_equal(merged[UP.format(0)], 2 * own[UP.format(0)])
  np.testing.assert_array_equal(
    merged[Q.format(0)], np.float32(3) * own[Q.format(0)]
  )


def test_methods_that_look_at_whole_models_see_what_they_merge(family):
  """Two slices of the paper's TIES are one whole; a copied one is no part."""
  _, models = family
  parameters = {'weight': 1.0, 'density': 0.3}

  def ties(at):
    sources = tuple(Source(m, layers=(at, at + 1)) for m in ('e0', 'e1'))
    return Slice(sources, merge_method='ties', parameters=parameters)

  both = Recipe('linear', (ties(0), ties(1)), 'base', semantics='paper')
  whole = Recipe(
    'ties', (Slice((Source('e0'), Source('e1'))),), 'base', parameters
  )
  whole = dataclasses.replace(whole, semantics='paper')
  tiny_models.assert_same(_merged(both, family), _merged(whole, family))
  # Thresholds of the first layer and the embedding alone.
  alone = dataclasses.replace(both, slices=(ties(0), _copy('e0', 1)))
  merged = _merged(alone, family)
  names = [BEFORE, Q.format(0), UP.format(0), NORM.format(0)]
  deltas = np.concatenate(
    [(models['e0'][n] - models['base'][n]).ravel() for n in names]
  )
  limit = np.sort(np.abs(deltas))[-int(0.3 * deltas.size)]
  moved = merged[Q.format(0)] != models['base'][Q.format(0)]
  delta = np.abs(models['e0'][Q.format(0)] - models['base'][Q.format(0)])
  assert moved[delta > limit * 1.001].all()
  assert 0 < moved.mean() < 0.9


def test_a_plan_in_words_and_what_it_warns_of(family):
  folders, _ = family
  recipe = Recipe(
    'task_arithmetic',
    (
      Slice(
        _sources(0, e0=0.5),
        scales=(Scale('mlp', 0.5, 1.0), Scale('nothing', 2.0)),
      ),
      _copy('e1', 1),
    ),
    'base',
  )
  with sources.opened(recipe, folders) as models:
    made = plan.make(recipe, models.checkpoints)
    text = explain.text(recipe, models, made)
  assert text.startswith(
    'task_arithmetic, passthrough (mergekit-0.1.5) of 3 models, base base'
  )
  assert 'of e0 on base, times 0.5 with 1 added' in text
  assert "filter 'nothing' counts for no tensor of the slices [0]" in text
  assert "filter 'mlp'" not in text
  assert 'it has one `merge_method` for all slices' in text
  assert 'its slices have no `scales`' in text


KINDS = ['sliding_attention', 'full_attention']


@pytest.mark.parametrize('stated', [True, False])
def test_the_config_follows_its_layers(tmp_path, stated):
  config = {
    'architectures': ['Gemma2ForCausalLM'],
    'model_type': 'gemma2',
    'num_hidden_layers': 2,
  } | ({'layer_types': KINDS} if stated else {})
  for k in range(2):
    tiny_models.write(tmp_path / f'e{k}', tiny_models.base(k), config)
  folders = {m: tmp_path / m for m in ('e0', 'e1')}

  def exported(name, *slices):
    export.export(Recipe('passthrough', slices), folders, tmp_path / name)
    return json.loads((tmp_path / name / 'config.json').read_text())

  same = exported('same', _copy('e0', 0), _copy('e1', 1))
  assert same.get('layer_types') == (KINDS if stated else None)
  swapped = exported('swapped', _copy('e0', 1), _copy('e1', 0))
  assert swapped['layer_types'] == KINDS[::-1]
  assert swapped['num_hidden_layers'] == 2
  deeper = exported('deeper', *(_copy('e1', i) for i in (1, 1, 0)))
  assert deeper['layer_types'] == [KINDS[1], KINDS[1], KINDS[0]]
  assert deeper['num_hidden_layers'] == 3
  mixed = Slice(
    parts=(
      dataclasses.replace(_copy('e0', 1), filter='self_attn'),
      _copy('e1', 0),
    )
  )
  shorter = exported('shorter', mixed)
  assert shorter['layer_types'] == [KINDS[1]]
  assert shorter['num_hidden_layers'] == 1


def test_a_tied_model_takes_one_table_for_both_ends(tmp_path):
  models = {}
  for k in range(2):
    models[f'e{k}'] = tiny_models.base(k, head=False)
    config = {'tie_word_embeddings': True}
    tiny_models.write(tmp_path / f'e{k}', models[f'e{k}'], config)
  recipe = Recipe('passthrough', (_copy('e1', 0), _copy('e0', 1)))
  folders = {m: tmp_path / m for m in models}
  export.export(recipe, folders, tmp_path / 'out')
  merged = tiny_models.read(tmp_path / 'out')
  np.testing.assert_array_equal(merged[BEFORE], models['e1'][BEFORE])
  assert AFTER not in merged
  config = json.loads((tmp_path / 'out/config.json').read_text())
  assert config['tie_word_embeddings'] is True


def test_an_export_names_the_models_of_parts_from_its_folder(family, tmp_path):
  folders, _ = family
  part = Slice(
    parts=(
      Slice(_sources(0, e0=0.5), filter='mlp', merge_method='task_arithmetic'),
      _copy('e1', 0),
    ),
    base_model='base',
  )
  recipe = Recipe(
    'passthrough', (part, _copy('e2', 1, scales=(Scale('q', 2),)))
  )
  named = {m: folders[m] for m in recipe.models}
  assert set(named) == {'base', 'e0', 'e1', 'e2'}
  export.export(recipe, named, tmp_path / 'out')
  again, where = export.read(tmp_path / 'out/recipe.yaml')
  tiny_models.assert_same(
    streaming.merge(again, where), streaming.merge(recipe, named)
  )
  assert companions.CONFIG in {p.name for p in (tmp_path / 'out').iterdir()}


def test_what_is_said_of_one_tensor():
  part = Slice(
    parts=(
      Slice(
        (Source('a', layers=(0, 1)),),
        filter='mlp',
        merge_method='task_arithmetic',
        parameters={'weight': [{'filter': 'up', 'value': 0.25}]},
      ),
      _copy('b', 0),
    ),
    base_model='c',
    parameters={'weight': 0.75},
  )
  recipe = Recipe('linear', (part,), parameters={'lambda': 2.0})
  found = resolve(recipe, UP.format(0), 0, 1)
  assert (found.experts, found.base_model) == (('a',), 'c')
  assert found.parameters['weight'] == (0.25,)
  assert found.parameters['lambda'] == 2.0
  found = resolve(recipe, UP.format(0).replace('up', 'down'), 0, 1)
  assert found.parameters['weight'] == (0.75,)
  assert resolve(recipe, Q.format(0), 0, 1).experts == ('b',)


def test_a_tensor_that_no_part_takes_is_an_error(family):
  recipe = Recipe(
    'passthrough',
    (
      Slice(parts=(dataclasses.replace(_copy('e0', 0), filter='layers'),)),
      _copy('e0', 1),
    ),
  )
  with pytest.raises(ValueError, match=r'no part of slice 0 takes the tensor'):
    _merged(recipe, family)
  with pytest.raises(ValueError, match=r'has the sources .* and 1 parts'):
    dataclasses.replace(recipe.slices[0], sources=(Source('a'),))


LONG = """merge_method: linear
base_model: base
parameters: {weight: 1, t: 0.5, lambda: 0.9}
slices:
- parts:
  - filter: self_attn
    merge_method: slerp
    sources:
    - {model: a, layer_range: [0, 1]}
    - {model: b, layer_range: [3, 4]}
  - sources:
    - {model: a, layer_range: [2, 3], parameters: {weight: 0.5}}
  parameters: {normalize: false}
  scales:
  - {filter: o_proj, value: 0.5}
  - {filter: post_norm, value: 1e-1, offset: 1}
- merge_method: task_arithmetic
  sources:
  - {model: b, layer_range: [1, 2]}
"""


def test_slices_are_read_as_they_are_written():
  recipe = recipes.from_yaml(LONG)
  first, second = recipe.slices
  attention, rest = first.parts
  assert (attention.filter, attention.merge_method) == ('self_attn', 'slerp')
  assert [s.layers for s in attention.sources] == [(0, 1), (3, 4)]
  assert rest.sources == (Source('a', {'weight': 0.5}, (2, 3)),)
  assert (rest.filter, rest.merge_method) == (None, None)
  assert first.parameters == {'normalize': False}
  assert first.scales == (Scale('o_proj', 0.5), Scale('post_norm', 0.1, 1.0))
  assert second.merge_method == 'task_arithmetic'
  assert recipe.methods == ('slerp', 'linear', 'task_arithmetic')
  assert recipe.models == ('base', 'a', 'b')
  assert recipe.warnings == ()
  assert recipes.from_yaml(recipes.to_yaml(recipe)) == recipe


@pytest.mark.parametrize(
  ('old', 'new', 'message'),
  [
    (
      '- parts:',
      '- sources: []\n  parts:',
      r'r.yaml:5: slices.0.: give either `sources` or `parts`',
    ),
    (
      '  - filter: self_attn\n    merge',
      '  - merge',
      r'r.yaml:6: slices.0..parts.0.: a part without `filter` takes every',
    ),
    (
      '[2, 3]',
      '[2, 4]',
      r'slices.0..parts: parts have unequal numbers of layers: .1, 2.',
    ),
    (', layer_range: [2, 3]', '', r'r.yaml:12: .*`layer_range` is missing'),
    (
      'merge_method: slerp',
      'merge_method: slrep',
      r"r.yaml:7: .*unknown merge method 'slrep'; did you mean 'slerp'",
    ),
    (
      'base_model: base\n',
      '',
      r'r.yaml:16: slices.1..merge_method: task_arithmetic needs a `base_mo',
    ),
    ('{filter: o_proj, value: 0.5}', '{filter: o_proj}', '`value` is missing'),
    ('{filter: o_proj, value', '{value', 'a scale without `filter` takes ev'),
    ('value: 0.5}', 'value: half}', 'r.yaml:15: .*expected a number, got .ha'),
    ('value: 0.5}', 'vlaue: 0.5}', "unknown key 'vlaue'; did you mean 'value"),
    ('  scales:', '  scalse:', "unknown key 'scalse'; did you mean 'scales'"),
    (', lambda: 0.9', ', lamda: 0.9', "r.yaml:3: .*unknown key 'lamda'"),
    (
      '{normalize: false}',
      '{select_topk: 1}',
      r"linear and slerp take no parameter 'select_topk' \(sce does\)",
    ),
    (
      'parameters: {weight: 0.5}',
      'parameters: {t: 0.5}',
      "linear takes no parameter 't'",
    ),
  ],
)
def test_what_is_wrong_in_a_slice_is_named(old, new, message):
  assert LONG.count(old) == 1
  with pytest.raises(ValueError, match=message):
    recipes.from_yaml(LONG.replace(old, new), 'r.yaml')


def test_slices_of_all_layers_are_written_with_their_layers():
  for part in (
    Slice((Source('a'),), merge_method='passthrough'),
    Slice((Source('a'),), scales=(Scale(None, 2.0),)),
    Slice(parts=(Slice((Source('a'),)),)),
  ):
    with pytest.raises(ValueError, match='state `layer_range`'):
      recipes.to_yaml(Recipe('passthrough', (part,)))
