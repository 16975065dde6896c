"""GPT-2: stored layout, buffers, prefixes, heads and refusals."""

import numpy as np
import pytest

from automerge_jax.models import base, gpt2, registry
from tests import text_models

TIED, UNTIED, BARE = 'gpt2_tied', 'gpt2_untied', 'gpt2_bare'


def _forward(folder, case):
  model = registry.load(folder)
  inputs = text_models.of(case, 'inputs')
  return model, base.forward(model.family, model.params, inputs)


def test_linear_layers_keep_the_stored_layout(tmp_path):
  model = registry.load(text_models.write(tmp_path / TIED, TIED))
  fused = model.params['layers']['attention']['input']['kernel']
  assert fused.shape == (3, 20, 60)
  for i, kernel in enumerate(fused):
    stored = text_models.of(TIED, 'weights')
    name = f'transformer.h.{i}.attn.c_attn.weight'
    np.testing.assert_array_equal(kernel, stored[name])


def test_buffers_are_skipped(tmp_path):
  buffers = {}
  for i in range(3):
    name = f'transformer.h.{i}.attn'
    buffers[f'{name}.bias'] = np.tri(16, dtype=np.float32)[None, None]
    buffers[f'{name}.masked_bias'] = np.float32([-1e4])
  folder = text_models.write(tmp_path / TIED, TIED, add=buffers)
  model = registry.load(folder)
  assert set(base.unpack(model.family.keys, model.params)) == (
    set(text_models.of(TIED, 'weights'))
  )


def test_a_stored_head_is_used_even_where_it_is_tied(tmp_path):
  own = np.random.default_rng(0).normal(size=(53, 20)).astype(np.float32)
  folder = text_models.write(tmp_path / TIED, TIED, add={'lm_head.weight': own})
  model, hidden = _forward(folder, TIED)
  np.testing.assert_allclose(
    model.family.logits(model.params, hidden), hidden @ own.T, atol=1e-4
  )
  written = base.unpack(model.family.keys, model.params)
  assert written['lm_head.weight'].tobytes() == own.tobytes()


def test_a_trunk_without_prefix_has_the_tied_head(tmp_path):
  bare = {
    name.removeprefix('transformer.'): tensor
    for name, tensor in text_models.of(TIED, 'weights').items()
  }
  drop = text_models.of(TIED, 'weights')
  folder = text_models.write(tmp_path / TIED, TIED, drop=drop, add=bare)
  model, hidden = _forward(folder, TIED)
  real = text_models.of(TIED, 'inputs')['mask'] > 0
  np.testing.assert_allclose(
    model.family.logits(model.params, hidden)[real],
    text_models.golden()[f'{TIED}/logits'][real],
    atol=1e-5,
  )


def test_an_untied_trunk_has_no_logits(tmp_path):
  drop = ['lm_head.weight']
  folder = text_models.write(tmp_path / UNTIED, UNTIED, drop=drop)
  assert registry.load(folder).family.logits is None


def test_other_heads_are_carried_along(tmp_path):
  score = np.ones((2, 20), np.float32)
  folder = text_models.write(tmp_path / TIED, TIED, add={'score.weight': score})
  model = registry.load(folder)
  written = base.unpack(model.family.keys, model.params)
  np.testing.assert_array_equal(written['score.weight'], score)


def test_an_unknown_tensor_is_named(tmp_path):
  add = {'transformer.h.0.crossattention.c_attn.weight': np.ones((2, 2), 'f4')}
  folder = text_models.write(tmp_path / TIED, TIED, add=add)
  with pytest.raises(ValueError, match=r'\+ transformer.h.0.crossattention'):
    registry.load(folder)


@pytest.mark.parametrize(
  ('entry', 'value'),
  [
    ('add_cross_attention', True),
    ('activation_function', 'mish'),
    ('n_embd', 21),
  ],
)
def test_unimplemented_feature_is_refused_by_name(tmp_path, entry, value):
  folder = text_models.write(tmp_path / TIED, TIED, **{entry: value})
  with pytest.raises(ValueError, match=f'{entry}={value!r}'):
    registry.load(folder)


def test_too_many_tokens_are_refused(tmp_path):
  model = registry.load(text_models.write(tmp_path / BARE, BARE))
  ones = np.ones((1, 17), np.int32)
  with pytest.raises(ValueError, match=r'17 tokens.*16'):
    base.forward(model.family, model.params, {'ids': ones, 'mask': ones})
  far = {'ids': ones, 'mask': ones, 'positions': ones * 16}
  assert np.isnan(base.forward(model.family, model.params, far)).all()


def test_defaults_are_those_of_the_smallest_model():
  config = gpt2.config_from_hf({'model_type': 'gpt2'}, ['wte.weight'])
  assert (config.num_layers, config.mlp_size, config.head) == (12, 3072, 'tied')
  assert len(gpt2.family(config).keys) == 4 + 12 * 12
