"""Layers by name, across architectures."""

import pytest

from automerge_jax.merging import layers


@pytest.mark.parametrize(
  ('name', 'stack', 'layer'),
  [
    ('model.layers.3.mlp.up_proj.weight', 'model.layers', 3),
    ('transformer.h.11.attn.c_attn.weight', 'transformer.h', 11),
    ('h.0.ln_1.bias', 'h', 0),
    ('encoder.layer.3.output.dense.weight', 'encoder.layer', 3),
    ('encoder.block.3.layer.0.SelfAttention.q.weight', 'encoder.block', 3),
    ('decoder.block.7.layer.1.EncDecAttention.q.weight', 'decoder.block', 7),
    ('vision.encoder.layers.3.mlp.fc1.bias', 'vision.encoder.layers', 3),
    ('visual.net.resblocks.3.ln_1.bias', 'visual.net.resblocks', 3),
    ('model.decoder.layers.23.fc1.weight', 'model.decoder.layers', 23),
    ('blk.3.attn_q.weight', 'blk', 3),
    ('blocks.3.norm1.weight', 'blocks', 3),
    ('model.layers.3.mlp.experts.5.w1.weight', 'model.layers', 3),
    ('model.layers.3.block_sparse_moe.experts.5.w1.weight', 'model.layers', 3),
    ('layers/3/attention/kernel', 'layers', 3),
    ('decoder/layers_3/mlp/kernel', 'decoder/layers', 3),
  ],
)
def test_stack_and_layer(name, stack, layer):
  assert layers.place(name) == (stack, layer)
  assert layers.layer_of(name) == layer
  moved = layers.renumber(name, 105)
  assert layers.place(moved) == (stack, 105)
  assert layers.renumber(moved, layer) == name
  assert moved.count('105') == 1


@pytest.mark.parametrize(
  'name',
  [
    'model.embed_tokens.weight',
    'model.norm.weight',
    'encoder.final_layer_norm.weight',
    'experts.5.w1.weight',
    'classifier.2.weight',
    'layers.weight',
  ],
)
def test_outside_the_layers(name):
  assert layers.place(name) is None and layers.layer_of(name) is None
  with pytest.raises(ValueError, match='is in no layer'):
    layers.renumber(name, 1)


def test_what_comes_before_the_layers():
  before = [
    *('model.embed_tokens.weight', 'transformer.wte.weight', 'wpe.weight'),
    *('shared.weight', 'embeddings.LayerNorm.bias', 'model.embed_positions.w'),
    *('vision_model.pre_layrnorm.weight', 'visual.class_embedding'),
    *('cls_token', 'patch_embed.proj.weight', 'gpt_neox.embed_in.weight'),
    *('embeddings/word/embedding', 'token_embd.weight'),
  ]
  after = [
    *('model.norm.weight', 'lm_head.weight', 'transformer.ln_f.bias'),
    *('embed_out.weight', 'unembed.weight', 'pooler.dense.weight'),
    *('vision_model.post_layernorm.weight', 'logit_scale'),
    *('decoder.final_layer_norm.weight', 'classifier.bias'),
  ]
  assert [n for n in before if not layers.is_before(n)] == []
  assert [n for n in after if layers.is_before(n)] == []


def test_the_embedding_that_a_head_is_tied_to():
  assert layers.is_head('lm_head.weight')
  assert layers.is_head('language_model.lm_head.weight')
  assert not layers.is_head('model.norm.weight')
  tied = layers.tied_embedding
  assert tied('lm_head.weight', ['a', 'transformer.wte.weight']) == (
    'transformer.wte.weight'
  )
  both = [
    'vision.embed_tokens.weight',
    'language_model.model.embed_tokens.weight',
  ]
  assert tied('language_model.lm_head.weight', both) == both[1]
  t5 = ['encoder.embed_tokens.weight', 'shared.weight']
  assert tied('lm_head.weight', t5) in t5
  assert tied('lm_head.weight', ['model.norm.weight']) is None
