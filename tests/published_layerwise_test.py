"""The published layout: its variables, and what they decode to."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from automerge_jax.merging import resolve
from automerge_jax.models import bert, llama
from automerge_jax.spaces import published
from tests import tiny_decoder, tiny_encoder

LLAMA = tiny_decoder.CONFIG | {'tie_word_embeddings': False}


@functools.cache
def _llama(depth):
  config = LLAMA | {'num_hidden_layers': depth}
  stored = ['lm_head.weight', *tiny_decoder.tensors()]
  return llama.family(llama.config_from_hf(config, stored))


@functools.cache
def _space(depth, size, experts):
  return published.space(_llama(depth), experts, 'base', layer_granularity=size)


@pytest.mark.parametrize(
  ('depth', 'size', 'experts', 'expected'),
  [(40, 10, 'abc', 112), (40, 10, 'ab', 88), (40, 1, 'abc', 1120)],
)
def test_variables_are_counted_as_published(depth, size, experts, expected):
  space = _space(depth, size, experts)
  assert len(space.names) == expected == len(set(space.names))
  assert (space.choices == 4).sum() == depth // size
  assert space.names[0] == 'layer_selection_method_0'
  for name in (
    'model_1_layer_3_paramset_2_method_linear_param_weights',
    'layer_0_paramset_1_method_task_arithmetic_param_scaling_coefficient',
    'layer_0_paramset_1_method_ties_param_param_value_mask_rate',
    'layer_0_paramset_1_method_ties_param_scaling_coefficient',
    'model_0_layer_2_paramset_0_method_slerp_param_slerp_t',
  ):
    assert name in space.names


def _vector(space, **values):
  """Coefficients of 0, but for the names that contain what is given."""
  c = np.zeros(len(space.names), np.float32)
  for part, value in values.items():
    chosen = [part in name for name in space.names]
    assert any(chosen), part
    c[chosen] = value
  return jnp.asarray(c)


def test_each_method_decodes_as_published():
  space = _space(4, 1, 'abc')
  c = _vector(
    space,
    layer_selection_method_1=1,
    layer_selection_method_2=2,
    layer_selection_method_3=3,
    model_0_layer_0_paramset_0_method_linear=0.25,
    model_2_layer_0_paramset_0_method_linear=0.75,
    layer_1_paramset_2_method_task_arithmetic=0.4,
    layer_2_paramset_1_method_ties_param_param=0.9,
    layer_2_paramset_1_method_ties_param_scaling=0.7,
    model_2_layer_3_paramset_0=0.5,  # sums 1.5, 1.1 and 0.9: c before a
    model_2_layer_3_paramset_1=1.0,
    model_0_layer_3_paramset_1=0.9,
    model_0_layer_3_paramset_2=0.2,
    model_1_layer_3_paramset_2=0.9,
  )
  plan = jax.jit(space.decode)(c)
  attention = plan['layers/attention/query/kernel']
  mlp = plan['layers/mlp/up/kernel']
  norm = plan['layers/attention_norm/scale']
  np.testing.assert_array_equal(attention['method'], [0, 1, 2, 3])
  np.testing.assert_allclose(attention['linear/weight'][:, 0], [0.25, 0, 0.75])
  np.testing.assert_allclose(norm['task_arithmetic/lambda'][1], 0.4)
  np.testing.assert_allclose(norm['task_arithmetic/weight'][:, 1], 1)
  np.testing.assert_allclose(mlp['ties/density'][:, 2], 0.1, rtol=1e-6)
  np.testing.assert_allclose(mlp['ties/lambda'][2], 0.7)
  np.testing.assert_allclose(mlp['ties/density'][:, 1], 1)
  for leaf, first, second in (
    (attention, 0.5, 0.0),
    (mlp, 1.0, 0.9),
    (norm, 0.0, 0.2),
  ):
    assert (leaf['slerp/first'][3], leaf['slerp/second'][3]) == (2, 0)
    want = np.exp(second) / (np.exp(first) + np.exp(second))
    np.testing.assert_allclose(leaf['slerp/t'][3], want, atol=5.1e-5)
  # Outside the layers `base` counts, of the first and of the last group.
  assert plan['stem/word/embedding']['method'] == 0
  assert plan['final/norm/scale']['method'] == 3
  assert plan['final/head/kernel']['slerp/t'] == norm['slerp/t'][3]


def test_starts_are_the_single_models():
  space = _space(4, 2, 'abc')
  assert [origin for origin, _ in space.starts] == [
    'expert:a',
    'expert:b',
    'expert:c',
  ]
  for k, (_, c) in enumerate(space.starts):
    np.testing.assert_array_equal(space.quantise(space.encode(c)), c)
    masks = [v for n, v in zip(space.names, c, strict=True) if 'mask' in n]
    np.testing.assert_allclose(masks, 0.1)
    for part in space.describe(c).slices:
      assert part.merge_method is None and not part.parts
      weights = [source.parameters['weight'] for source in part.sources]
      assert weights == [float(i == k) for i in range(3)]


def test_it_works_on_other_families_and_names_what_is_wrong():
  config = bert.config_from_hf(tiny_encoder.CONFIG | {'num_hidden_layers': 6})
  family = bert.family(config)
  space = published.space(family, 'abc', 'base', layer_granularity=2)
  assert len(space.names) == 84
  draw = np.random.default_rng(0).uniform(size=84).astype(np.float32)
  c = space.quantise(jnp.asarray(draw))
  np.testing.assert_array_equal(space.quantise(space.encode(c)), c)
  assert len(space.describe(c).slices) == 3
  with pytest.raises(ValueError, match=r'layer_granularity is 4.*6 layers'):
    published.space(family, 'abc', 'base', layer_granularity=4)
  with pytest.raises(ValueError, match='two or more'):
    published.space(family, 'a', 'base')


@pytest.mark.parametrize('seed', range(3))
def test_the_recipe_says_what_is_decoded(seed):
  family, space = _llama(4), _space(4, 2, 'abc')
  draw = np.random.default_rng(seed).uniform(size=len(space.names))
  c = space.quantise(jnp.asarray(draw, jnp.float32))
  plan, recipe = jax.device_get(space.decode(c)), space.describe(c)
  keys = {key.stored: key for key in family.keys}
  made = resolve.outputs(recipe, dict.fromkeys(recipe.models, tuple(keys)))
  assert {output.name for output in made} == set(keys)
  for output in made:
    key = keys[output.name]
    of_leaf = {
      name: value if key.layer is None else value[..., key.layer]
      for name, value in plan[key.path].items()
    }
    method = output.method.name
    assert method == published.METHODS[int(of_leaf['method'])]
    experts = [model for model, _ in output.sources]
    if method == 'slerp':
      ends = [of_leaf[f'slerp/{end}'] for end in ('first', 'second')]
      assert experts == ['abc'[int(end)] for end in ends]
    else:
      assert experts == list('abc')
    for name, value in output.parameters.items():
      if name not in ('first', 'second'):
        want = np.asarray(value, np.float32)
        np.testing.assert_array_equal(of_leaf[f'{method}/{name}'], want)
