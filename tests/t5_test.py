"""T5: its buckets, config, stored copies, and merging two stacks at once."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from automerge_jax import recipe as recipes
from automerge_jax import trees
from automerge_jax.io import safetensors
from automerge_jax.merging import registry as methods
from automerge_jax.merging import resident, streaming
from automerge_jax.models import base, registry, relative_bias, t5
from automerge_jax.spaces import cells, fusion
from tests import text_models

GATED, TIED = 't5_gated', 't5_tied'  # encoder and decoder 3 + 1, 2 + 2 layers
COPIES = ('encoder.embed_tokens.weight', 'decoder.embed_tokens.weight')
IDLE = 'decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight'


@pytest.mark.parametrize(
  'name', [n for n in text_models.golden() if n.startswith('t5_buckets/')]
)
def test_buckets_are_those_of_hugging_face(name):
  _, count, furthest, direction = name.split('/')
  found = relative_bias.buckets(int(count), int(furthest), direction == 'both')
  apart = np.clip(np.arange(-200, 201), -int(furthest), int(furthest))
  np.testing.assert_array_equal(
    found[apart + int(furthest)], text_models.golden()[name]
  )


def _forward(folder):
  model = registry.load(folder)
  inputs = text_models.of(folder.name, 'inputs')
  hidden = base.forward(model.family, model.params, inputs)
  return model, model.family.logits(model.params, hidden), hidden


def test_relative_bias_is_in_the_stem_and_written_to_block_0(tmp_path):
  model = registry.load(text_models.write(tmp_path / GATED, GATED))
  for stack in ('encoder', 'decoder'):
    name = f'{stack}.block.0.layer.0.SelfAttention.relative_attention_bias'
    (row,) = (k for k in model.family.keys if k.stored == f'{name}.weight')
    assert (row.path, row.layer) == (f'stem/{stack}_bias/embedding', None)
    np.testing.assert_array_equal(
      model.params['stem'][f'{stack}_bias']['embedding'],
      text_models.of(GATED, 'weights')[f'{name}.weight'],
    )


def test_stored_copies_and_the_idle_bias_survive(tmp_path):
  table = text_models.of(TIED, 'weights')['shared.weight']
  idle = np.arange(24, dtype=np.float32).reshape(8, 3)
  add = dict.fromkeys(COPIES, table) | {IDLE: idle}
  plain = registry.load(text_models.write(tmp_path / 'plain', TIED))
  model = registry.load(text_models.write(tmp_path / TIED, TIED, add=add))
  written = base.unpack(model.family.keys, model.params)
  assert set(written) == set(text_models.of(TIED, 'weights')) | set(add)
  for name, tensor in add.items():
    np.testing.assert_array_equal(written[name], tensor)
  assert trees.flatten(model.params).keys() - {f'final/{IDLE}'} == (
    trees.flatten(plain.params).keys()
  )


def test_a_copy_that_differs_is_refused(tmp_path):
  table = text_models.of(TIED, 'weights')['shared.weight'].copy()
  table[3, 2] += 1
  folder = text_models.write(tmp_path / TIED, TIED, add={COPIES[1]: table})
  with pytest.raises(ValueError, match=f'{COPIES[1]} differs from shared'):
    registry.load(folder)


def test_an_embedding_may_be_stored_under_a_copys_name_alone(tmp_path):
  table = text_models.of(TIED, 'weights')['shared.weight']
  folder = text_models.write(
    tmp_path / TIED, TIED, drop=['shared.weight'], add={COPIES[0]: table}
  )
  _, logits, hidden = _forward(folder)
  mask = text_models.of(TIED, 'inputs')['decoder_mask'] > 0
  wanted = text_models.golden()
  np.testing.assert_allclose(
    hidden[mask], wanted[f'{TIED}/hidden'][mask], atol=1e-5
  )
  np.testing.assert_allclose(
    logits[mask], wanted[f'{TIED}/logits'][mask], atol=1e-5
  )


@pytest.mark.parametrize(
  ('entries', 'scaled'),
  [
    ({'scale_decoder_outputs': True, 'tie_word_embeddings': True}, True),
    ({'scale_decoder_outputs': False, 'tie_word_embeddings': True}, False),
    ({'scale_decoder_outputs': None, 'tie_word_embeddings': True}, True),
    ({'scale_decoder_outputs': None, 'tie_word_embeddings': None}, True),
    ({'scale_decoder_outputs': None, 'tie_word_embeddings': False}, False),
  ],
)
def test_scaling_follows_new_and_old_configs(entries, scaled):
  hf = {
    name: value
    for name, value in (text_models.config(TIED) | entries).items()
    if value is not None
  }
  stored = list(text_models.of(TIED, 'weights'))
  config = t5.config_from_hf(hf, stored)
  assert config.scaled == scaled and config.head == 'tied'
  table = jnp.asarray(text_models.of(TIED, 'weights')['shared.weight'])
  params = {'stem': {'word': {'embedding': table}}}
  hidden = jnp.ones((2, 16))
  np.testing.assert_allclose(
    t5.family(config).logits(params, hidden),
    hidden @ table.T * (0.25 if scaled else 1.0),
    rtol=1e-5,
    atol=1e-6,
  )


@pytest.mark.parametrize(
  ('entry', 'value'),
  [
    ('feed_forward_proj', 'gated-mish'),
    ('feed_forward_proj', 'twice-gelu'),
    ('is_encoder_decoder', False),
  ],
)
def test_unimplemented_feature_is_refused_by_name(tmp_path, entry, value):
  folder = text_models.write(tmp_path / TIED, TIED, **{entry: value})
  with pytest.raises(ValueError, match=f'{entry}={value!r}'):
    registry.load(folder)


def test_an_encoder_alone_is_refused(tmp_path):
  drop = [n for n in text_models.of(TIED, 'weights') if n.startswith('decoder')]
  folder = text_models.write(tmp_path / TIED, TIED, drop=drop)
  with pytest.raises(ValueError, match='has no decoder'):
    registry.load(folder)


def test_float16_states_stay_finite(tmp_path):
  model = registry.load(text_models.write(tmp_path / TIED, TIED))
  half = jax.tree.map(lambda leaf: jnp.asarray(leaf, 'float16'), model.params)
  for stack in half['layers'].values():
    stack['mlp']['output']['kernel'] *= 60000
  inputs = text_models.of(TIED, 'inputs')
  assert np.isfinite(base.forward(model.family, half, inputs)).all()


@pytest.fixture(scope='module')
def three(tmp_path_factory):
  """`case -> (family, folders)` of a base and two experts near it."""
  made = {}

  def get(case):
    if case not in made:
      root = tmp_path_factory.mktemp(case)
      draw = np.random.default_rng(1)
      table = text_models.of(case, 'weights')['shared.weight']
      add = dict.fromkeys(COPIES, table)  # as in Google's own checkpoints
      folders = {'base': text_models.write(root / 'base', case, add=add)}
      for name in ('one', 'two'):
        tensors = safetensors.read(folders['base'])
        moved = {
          n: (t + 0.1 * draw.normal(size=t.shape)).astype(np.float32)
          for n, t in tensors.items()
        }
        moved |= dict.fromkeys(COPIES, moved['shared.weight'])
        folders[name] = text_models.write(root / name, case, add=moved)
      made[case] = registry.load(folders['base']).family, folders
    return made[case]

  return get


DIVISIONS = {
  'modelwise': cells.whole,
  'coarse': cells.layered,
  'fine': lambda family: cells.layered(family, 2, 'fine'),
  'tensor': lambda family: cells.layered(family, 1, 'tensor'),
}


@pytest.mark.parametrize(
  ('case', 'division', 'name'),
  [
    (GATED, 'modelwise', 'task_arithmetic'),
    (GATED, 'coarse', 'task_arithmetic'),
    (GATED, 'fine', 'dare_ties'),
    (TIED, 'tensor', 'task_arithmetic'),
    (TIED, 'coarse', 'dare_ties'),
  ],
)
def test_the_recipe_makes_the_tensors_that_are_scored(
  case, division, name, three
):
  family, folders = three(case)
  method, experts = methods.get(name), ['one', 'two']
  tensors = {k: safetensors.read(folder) for k, folder in folders.items()}
  stack = resident.build(
    method, family, tensors['base'], [tensors[e] for e in experts]
  )
  found = DIVISIONS[division](family)
  space = fusion.space(method, found, experts, 'base')
  x = np.random.default_rng(3).uniform(0, 1, len(space.names))
  c = space.quantise(jnp.asarray(x, jnp.float32))
  merged = jax.jit(lambda p, s: resident.merge(method, p, s))(
    space.decode(c), stack
  )
  scored = base.unpack(family.keys, merged)
  recipe = recipes.from_yaml(recipes.to_yaml(space.describe(c)))
  streamed = streaming.merge(recipe, folders)
  assert set(scored) == set(streamed) == set(tensors['base'])
  for stored, tensor in streamed.items():
    np.testing.assert_array_equal(scored[stored], tensor, stored)
    assert (tensor != tensors['base'][stored]).any(), stored
  layers = merged['layers']
  assert layers['encoder']['mlp']['output']['kernel'].shape[0] == (
    family.encoder.num_layers
  )
  hidden = base.forward(family, merged, text_models.of(case, 'inputs'))
  assert np.isfinite(hidden).all()


@pytest.mark.parametrize('components', ['coarse', 'fine'])
def test_cells_follow_layers_and_components_of_both_stacks(components, three):
  family, _ = three(GATED)
  found = cells.layered(family, 1, components)
  assert list(found.spans) == [(0, 1), (1, 2), (2, 3)]
  named = {
    path: [found.names[i] for i in np.ravel(of)]
    for path, of in found.of_leaf.items()
  }
  for path in ('stem/word/embedding', 'stem/encoder_bias/embedding'):
    assert named[path] == [(None, 'stem')]
  query = {'coarse': 'attention', 'fine': 'query'}[components]
  assert named['layers/encoder/attention/query/kernel'] == [
    (i, query) for i in range(3)
  ]
  assert named['layers/decoder/cross/query/kernel'] == [(0, query)]


def test_slices_that_move_layers_of_unequal_stacks_are_refused(three):
  _, folders = three(GATED)
  space = fusion.space(
    methods.get('linear'), cells.layered(three(GATED)[0]), ['one', 'two'], ''
  )
  recipe = space.describe(np.full(len(space.names), 0.5))
  moved = dataclasses.replace(recipe, slices=recipe.slices[1:])
  with pytest.raises(ValueError, match=r'one stack.*keep all layers in place'):
    streaming.merge(moved, {k: folders[k] for k in ('one', 'two')})
