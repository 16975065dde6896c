"""Decoders against torch, live: random ones of drawn shapes, and SmolLM2."""

import json

import jax
import numpy as np
import pytest
import tokenizers

from automerge_jax.io import assets, gguf, safetensors
from automerge_jax.models import base, registry

pytestmark = pytest.mark.oracle

KINDS = ('llama', 'mistral', 'qwen2', 'qwen3', 'gemma', 'gemma2', 'gemma3_text')
TEXTS = [
  'The quick brown fox jumps over the lazy dog, and then it sleeps.',
  'In 1789',
  'Naïve café owners — 東京 — über alles!? 12,345 + 678 = ',
]


def _logits(folder, inputs):
  family, params = registry.load(folder)

  def run(params, inputs):
    return family.logits(params, base.forward(family, params, inputs))

  return jax.jit(run)(params, inputs)


def _random(kind, draw, folder):
  """A folder of a random decoder, with entries that its type ignores."""
  groups = int(draw.integers(1, 4))
  kv_heads, pairs = int(draw.integers(1, 4)), int(draw.integers(2, 9))
  heads = groups * kv_heads
  size = 2 * pairs
  width, inner = heads * int(draw.integers(2, 9)), int(draw.integers(9, 60))
  if kind == 'qwen2':  # whose heads are always the width's shares
    size, width = 2 * pairs, heads * 2 * pairs
  config = {
    'model_type': kind,
    'vocab_size': int(draw.integers(20, 99)),
    'hidden_size': width,
    'intermediate_size': inner,
    'num_hidden_layers': int(draw.integers(1, 5)),
    'num_attention_heads': heads,
    'num_key_value_heads': kv_heads,
    'max_position_embeddings': 64,
    'sliding_window': int(draw.integers(1, 12)),
    'use_sliding_window': True,
    'max_window_layers': 1,
    'tie_word_embeddings': bool(draw.integers(2)),
    'attention_bias': bool(draw.integers(2)),
    'mlp_bias': bool(draw.integers(2)),
    'query_pre_attn_scalar': int(draw.integers(4, 30)),
    'rope_theta': float(draw.uniform(10, 1e4)),
  }
  if kind != 'qwen2':
    config['head_dim'] = size
  head = [] if config['tie_word_embeddings'] else ['lm_head.weight']
  family = registry.from_config(config, ['model.norm.weight', *head])
  shapes = {
    'embed_tokens': (config['vocab_size'], width),
    'lm_head': (config['vocab_size'], width),
    'q_proj': (heads * size, width),
    'k_proj': (kv_heads * size, width),
    'v_proj': (kv_heads * size, width),
    'o_proj': (width, heads * size),
    'gate_proj': (inner, width),
    'up_proj': (inner, width),
    'down_proj': (width, inner),
    'q_norm': (size,),
    'k_norm': (size,),
  }
  tensors = {}
  for key in family.keys:
    *_, module, leaf = key.stored.split('.')
    shape = shapes.get(module, (width,))
    shape = shape[:1] if leaf == 'bias' else shape
    value = 0.25 * draw.normal(size=shape) + (
      'norm' in module and not kind.startswith('gemma')
    )
    tensors[key.stored] = value.astype(np.float32)
  folder.mkdir()
  (folder / 'config.json').write_text(json.dumps(config))
  safetensors.write(folder, tensors)
  return config


@pytest.mark.parametrize('kind', KINDS)
def test_random_decoders_match_torch(ask_peer, kind, tmp_path):
  draw = np.random.default_rng()
  config = _random(kind, draw, tmp_path / 'm')
  batch, tokens = 3, 29
  lengths = np.array([tokens, int(draw.integers(1, tokens)), 2])
  inputs = {
    'ids': draw.integers(0, config['vocab_size'], (batch, tokens)),
    'mask': (np.arange(tokens) < lengths[:, None]).astype(np.int64),
  }
  theirs = ask_peer('oracle/llama_peer.py', tmp_path / 'm', **inputs)['logits']
  real = inputs['mask'] > 0
  ours = _logits(tmp_path / 'm', inputs)[real]
  np.testing.assert_allclose(ours, theirs[real], atol=1e-4, err_msg=str(config))


def test_smollm2_matches_torch(ask_peer, tmp_path):
  source = assets.fetch('smollm2') / 'model.gguf'
  gguf.to_hugging_face(source, tmp_path / 'hf')
  path = str(tmp_path / 'hf' / 'tokenizer.json')
  tokenizer = tokenizers.Tokenizer.from_file(path)
  tokenizer.enable_padding()
  coded = tokenizer.encode_batch(TEXTS)
  inputs = {
    'ids': np.array([text.ids for text in coded]),
    'mask': np.array([text.attention_mask for text in coded]),
  }
  assert 0 < inputs['mask'].mean() < 1
  theirs = ask_peer('oracle/llama_peer.py', tmp_path / 'hf', **inputs)['logits']
  real = inputs['mask'] > 0
  ours = _logits(source, inputs)[real]
  # Logits are of the order of 10.
  np.testing.assert_allclose(ours, theirs[real], atol=1e-3)
