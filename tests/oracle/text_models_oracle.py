"""GPT-2, BERT, RoBERTa and T5 of drawn sizes against transformers, live."""

import json

import numpy as np
import pytest

from automerge_jax.io import safetensors
from automerge_jax.models import base, registry

pytestmark = pytest.mark.oracle

SHAPES = {
  'gpt2': (
    'GPT2LMHeadModel',
    {'n_embd': 24, 'n_layer': 4, 'n_head': 2, 'n_positions': 40},
  ),
  'gpt2 untied': (
    'GPT2LMHeadModel',
    {
      'model_type': 'gpt2',
      'n_embd': 30,
      'n_layer': 2,
      'n_head': 5,
      'n_positions': 40,
      'activation_function': 'gelu',
      'scale_attn_by_inverse_layer_idx': True,
      'tie_word_embeddings': False,
    },
  ),
  'bert': ('BertForMaskedLM', {'hidden_act': 'gelu'}),
  'roberta': ('RobertaForMaskedLM', {'pad_token_id': 1, 'type_vocab_size': 1}),
  'xlm-roberta': (
    'XLMRobertaModel',
    {'pad_token_id': 1, 'type_vocab_size': 1, 'num_hidden_layers': 1},
  ),
  't5': ('T5ForConditionalGeneration', {'num_layers': 2}),
  't5 gated': (
    'T5ForConditionalGeneration',
    {
      'num_layers': 1,
      'num_decoder_layers': 4,
      'feed_forward_proj': 'gated-gelu',
      'tie_word_embeddings': False,
      'd_kv': 10,
    },
  ),
  't5 long': (
    'T5Model',
    {
      'num_layers': 4,
      'num_decoder_layers': 2,
      'relative_attention_num_buckets': 10,
      'relative_attention_max_distance': 20,
    },
  ),
}
SIZES = {
  'bert': {
    'hidden_size': 36,
    'num_hidden_layers': 3,
    'num_attention_heads': 3,
    'intermediate_size': 50,
    'max_position_embeddings': 40,
  },
  't5': {'d_model': 28, 'd_kv': 7, 'd_ff': 40, 'num_heads': 4},
}


def _inputs(kind, vocabulary, pad):
  draw = np.random.default_rng(5)
  found = {}
  for prefix, length in {'': 30, 'decoder_': 37}.items():
    if prefix and kind != 't5':
      continue
    lengths = np.array([length, 1, length // 2, length - 3])
    mask = np.arange(length) < lengths[:, None]
    ids = draw.integers(2, vocabulary, mask.shape)
    found[f'{prefix}ids'] = np.where(mask, ids, pad).astype(np.int32)
    found[f'{prefix}mask'] = mask.astype(np.int32)
  return found


@pytest.mark.parametrize('name', list(SHAPES))
def test_outputs_match_and_tensors_survive(name, ask_peer, tmp_path):
  architecture, sizes = SHAPES[name]
  kind = name.split()[0]
  shared = SIZES.get('bert' if 'bert' in kind else kind, {})
  config = {'model_type': kind, 'vocab_size': 83} | shared | sizes
  spec = {
    'architecture': architecture,
    'seed': len(name),
    'config': config,
    'own_head': name == 't5 gated',
  }
  inputs = _inputs(kind, 83, config.get('pad_token_id', 0))
  folder = tmp_path / 'model'
  theirs = ask_peer(
    'oracle/text_models_peer.py', folder, json.dumps(spec), **inputs
  )
  model = registry.load(folder)
  hidden = base.forward(model.family, model.params, inputs)
  real = inputs.get('decoder_mask', inputs['mask']) > 0
  # T5 does not scale its scores: with these weights torch's own hidden states
  # differ by 7e-5 between float32 and float64, and ours by as much from those.
  most = 1e-4 if kind == 't5' else 2e-5
  np.testing.assert_allclose(hidden[real], theirs['hidden'][real], atol=most)
  if model.family.logits is not None:
    logits = model.family.logits(model.params, hidden)
    np.testing.assert_allclose(logits[real], theirs['logits'][real], atol=1e-4)
  stored = safetensors.read(folder)
  written = base.unpack(model.family.keys, model.params)
  assert set(written) == set(stored)
  for tensor_name, tensor in stored.items():
    assert written[tensor_name].tobytes() == tensor.tobytes(), tensor_name
