"""From recipes and stored names to what each tensor is made of."""

import pytest

from automerge_jax import recipe as recipes
from automerge_jax.merging.resolve import outputs


def _llama(count, head=True):
  names = ['model.embed_tokens.weight']
  for i in range(count):
    names += [f'model.layers.{i}.{part}.weight' for part in ('q', 'mlp')]
  return [*names, 'model.norm.weight', *(['lm_head.weight'] if head else [])]


def _t5(encoder, decoder):
  return [
    'shared.weight',
    *(f'encoder.block.{i}.layer.0.q.weight' for i in range(encoder)),
    'encoder.final_layer_norm.weight',
    *(f'decoder.block.{i}.layer.0.q.weight' for i in range(decoder)),
    'decoder.final_layer_norm.weight',
    'lm_head.weight',
  ]


def _outputs(text, **names):
  return {o.name: o for o in outputs(recipes.from_yaml(text), names)}


LINEAR = 'merge_method: linear\nparameters: {weight: 1}\n'
BOTH = LINEAR + 'models: [{model: a}, {model: b}]\n'


def test_a_stack_repeats_and_renumbers_layers():
  text = """
merge_method: passthrough
slices:
- sources: [{model: a, layer_range: [0, 2]}]
- sources: [{model: b, layer_range: [1, 4], parameters: {scale: [1, 0]}}]
- sources: [{model: a, layer_range: [1, 2]}]
"""
  found = _outputs(text, a=_llama(2), b=_llama(4))
  made = {
    name: output.sources[0]
    for name, output in found.items()
    if '.q.' in name or output.layer is None
  }
  assert made == {
    'model.embed_tokens.weight': ('a', 'model.embed_tokens.weight'),
    'model.layers.0.q.weight': ('a', 'model.layers.0.q.weight'),
    'model.layers.1.q.weight': ('a', 'model.layers.1.q.weight'),
    'model.layers.2.q.weight': ('b', 'model.layers.1.q.weight'),
    'model.layers.3.q.weight': ('b', 'model.layers.2.q.weight'),
    'model.layers.4.q.weight': ('b', 'model.layers.3.q.weight'),
    'model.layers.5.q.weight': ('a', 'model.layers.1.q.weight'),
    'model.norm.weight': ('a', 'model.norm.weight'),
    'lm_head.weight': ('a', 'lm_head.weight'),
  }
  scales = [found[f'model.layers.{i}.q.weight'].parameters for i in (2, 3, 4)]
  assert [s['scale'] for s in scales] == [(1.0,), (0.5,), (0.0,)]
  assert [found[f'model.layers.{i}.q.weight'].layer for i in (0, 5)] == [0, 5]
  assert next(iter(found)) == 'model.embed_tokens.weight'
  assert list(found)[-2:] == ['model.norm.weight', 'lm_head.weight']


def test_layers_may_hold_different_tensors():
  mixed = ['h.0.dense', 'h.1.experts.0.up', 'h.1.experts.1.up', 'wte.weight']
  found = _outputs(BOTH, a=mixed, b=mixed)
  assert set(found) == set(mixed)
  assert found['h.1.experts.1.up'].layer == 1


def test_two_stacks_of_different_depth():
  text = BOTH.replace('{weight: 1}', '{weight: [0, 1]}')
  found = _outputs(text, a=_t5(3, 2), b=_t5(3, 2))
  weights = {n: o.parameters['weight'][0] for n, o in found.items()}
  assert [weights[f'encoder.block.{i}.layer.0.q.weight'] for i in range(3)] == [
    *(0.0, 0.5, 1.0)
  ]
  assert weights['decoder.block.1.layer.0.q.weight'] == 1.0
  assert weights['encoder.final_layer_norm.weight'] == 0.0
  assert set(found) == set(_t5(3, 2))


def test_modules_are_named_after_their_stacks():
  text = """
merge_method: linear
modules:
  encoder:
    models: [{model: a}, {model: b}]
    parameters: {weight: 1}
  decoder:
    slices:
    - sources: [{model: b, layer_range: [1, 2]}]
    - sources: [{model: b, layer_range: [1, 2]}]
    parameters: {weight: 2}
"""
  found = _outputs(text, a=_t5(3, 5), b=_t5(3, 2))
  by = {name: output.sources for name, output in found.items()}
  both = ('encoder.block.2.layer.0.q.weight', 'encoder.final_layer_norm.weight')
  for name in (*both, 'shared.weight'):
    assert by[name] == (('a', name), ('b', name))
  one = ('decoder.final_layer_norm.weight', 'lm_head.weight')
  for name in one:
    assert by[name] == (('b', name),)
  for i in range(2):
    assert by[f'decoder.block.{i}.layer.0.q.weight'] == (
      ('b', 'decoder.block.1.layer.0.q.weight'),
    )
  assert found['lm_head.weight'].parameters['weight'] == (2.0,)
  for old, new, message in (
    ('encoder:', 'text:', "no module is named after the stack 'encoder.block'"),
    ('decoder:', 'decoder.x:', "no module is .* the stack 'decoder.block'"),
  ):
    with pytest.raises(ValueError, match=message):
      _outputs(text.replace(old, new), a=_t5(3, 2), b=_t5(3, 2))


def test_slices_of_two_stacks_need_modules():
  text = LINEAR + 'slices: [{sources: [{model: a, layer_range: [0, 1]}]}]'
  with pytest.raises(ValueError, match='name each under `modules`'):
    _outputs(text, a=_t5(2, 2))
  with pytest.raises(ValueError, match='the models have none; name each'):
    _outputs(text, a=['x'])


def test_an_absent_head_is_the_tied_embedding():
  found = _outputs(BOTH, a=_llama(2), b=_llama(2, head=False))
  assert found['lm_head.weight'].sources == (
    ('a', 'lm_head.weight'),
    ('b', 'model.embed_tokens.weight'),
  )
  turned = _outputs(BOTH, a=_llama(2, head=False), b=_llama(2))
  assert turned['lm_head.weight'].sources[0][1] == 'model.embed_tokens.weight'
  none = _outputs(BOTH, a=_llama(2, head=False), b=_llama(2, head=False))
  assert 'lm_head.weight' not in none


def test_differences_are_listed_but_not_those_of_unused_layers():
  with pytest.raises(ValueError) as error:
    _outputs(BOTH, a=[*_llama(2), 'x.bias'], b=[*_llama(2)[1:], 'y.bias'])
  lines = str(error.value).splitlines()
  assert lines[0].startswith('the models differ in 3 tensors (- missing, +')
  assert sorted(line.strip() for line in lines[1:]) == [
    '+ b: y.bias (not in a)',
    '- b: model.embed_tokens.weight (in a)',
    '- b: x.bias (in a)',
  ]
  text = LINEAR + (
    'slices: [{sources: [{model: a, layer_range: [0, 2]},'
    ' {model: b, layer_range: [0, 2]}]}]'
  )
  deeper = [*_llama(2), 'model.layers.2.other.weight']
  assert len(_outputs(text, a=_llama(2), b=deeper)) == len(_llama(2))


def test_depths_and_ranges_must_fit():
  with pytest.raises(ValueError, match=r"'model.layers': {'a': 2, 'b': 3}"):
    _outputs(BOTH, a=_llama(2), b=_llama(3))
  text = LINEAR + 'slices: [{sources: [{model: a, layer_range: [1, 3]}]}]'
  with pytest.raises(ValueError, match=r"\[1, 3\] of 'a': it has 2 in 'model"):
    _outputs(text, a=_llama(2))
  with pytest.raises(ValueError, match="no names of the model 'b'"):
    _outputs(BOTH, a=_llama(2))


TIES = 'merge_method: ties\nbase_model: base\nparameters: {weight: 1}\n'


def test_a_base_of_deltas_is_no_expert():
  names = dict.fromkeys(('a', 'b', 'base'), _llama(1))
  text = TIES + 'models: [{model: a}, {model: base}, {model: b}]'
  found = _outputs(text, **names)['model.norm.weight']
  assert [model for model, _ in found.sources] == ['a', 'b']
  assert found.base == ('base', 'model.norm.weight')


def test_a_base_of_a_slice_has_its_own_layers():
  text = TIES + (
    'slices: [{sources: [{model: a, layer_range: [0, 1]},'
    ' {model: base, layer_range: [2, 3]}]}]'
  )
  found = _outputs(text, a=_llama(1), base=_llama(3))
  assert found['model.layers.0.q.weight'].base == (
    'base',
    'model.layers.2.q.weight',
  )
  unsaid = text.replace(',\n', ',').replace(
    'base, layer_range: [2, 3]', 'b, layer_range: [1, 2]'
  )
  with pytest.raises(
    ValueError, match="the base 'base' is none of the sources"
  ):
    _outputs(unsaid, a=_llama(1), b=_llama(2), base=_llama(3))


def test_linear_merges_a_base_like_any_other_model():
  names = dict.fromkeys(('a', 'b', 'base'), _llama(1))
  found = _outputs(BOTH + 'base_model: base', **names)['model.norm.weight']
  assert [model for model, _ in found.sources] == ['a', 'b', 'base']
  text = """
merge_method: linear
base_model: base
models: [{model: a, parameters: {weight: 1}}]
"""
  with pytest.raises(
    ValueError, match=r'of base \(linear merges the base like'
  ):
    _outputs(text, **names)


def test_slerp_goes_from_the_base_to_the_other():
  text = """
merge_method: slerp
base_model: b
models: [{model: a}, {model: b}]
parameters: {t: 0.25}
"""
  found = _outputs(text, a=_llama(1), b=_llama(1))['model.norm.weight']
  assert [model for model, _ in found.sources] == ['b', 'a']
  with pytest.raises(ValueError, match=r'slerp merges 2 models, got 3'):
    _outputs(
      text.replace('base_model: b', 'base_model: c'),
      **dict.fromkeys('abc', _llama(1)),
    )


def test_paper_semantics_merge_all_sources_behind_the_layers():
  text = (
    LINEAR
    + """
slices:
- sources: [{model: a, layer_range: [0, 1]}]
- sources: [{model: b, layer_range: [0, 1]}, {model: a, layer_range: [1, 2]}]
"""
  )
  names = {'a': _llama(2), 'b': _llama(2)}
  theirs = _outputs(text, **names)['lm_head.weight']
  assert [model for model, _ in theirs.sources] == ['b']
  papers = _outputs(text + 'semantics: paper', **names)['lm_head.weight']
  assert [model for model, _ in papers.sources] == ['b', 'a']
  assert 'more sources than the first' in recipes.from_yaml(text).warnings[0]
