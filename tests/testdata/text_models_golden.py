"""Writes text_models.npz: tiny random Hugging Face models and their outputs.

  .venv-peers/bin/python tests/testdata/text_models_golden.py

For each case: `<case>/config` (JSON), `<case>/weights/<stored name>`,
`<case>/inputs/<name>`, `<case>/hidden` and, of models with a head for tokens or
classes, `<case>/logits`. Also `t5_buckets/<buckets>/<distance>/<direction>`:
the bucket of each relative position from -200 to 200.
"""

import json
import pathlib
import sys
import tempfile

import numpy as np
import torch
import transformers
from safetensors.numpy import load_file
from transformers.models.t5 import modeling_t5

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent / 'oracle'))

import text_models_peer as peer  # noqa: E402

GPT2 = {'model_type': 'gpt2', 'vocab_size': 53, 'n_positions': 16}
BERT = {
  'model_type': 'bert',
  'vocab_size': 47,
  'hidden_size': 12,
  'num_hidden_layers': 2,
  'num_attention_heads': 2,
  'intermediate_size': 20,
  'max_position_embeddings': 16,
}
ROBERTA = BERT | {
  'model_type': 'roberta',
  'type_vocab_size': 1,
  'pad_token_id': 1,
  'layer_norm_eps': 1e-5,
}
T5 = {
  'model_type': 't5',
  'vocab_size': 43,
  'd_model': 16,
  'd_kv': 6,
  'd_ff': 24,
  'num_heads': 3,
  'relative_attention_num_buckets': 8,
  'relative_attention_max_distance': 10,
}
CASES = {
  'gpt2_bare': (
    'GPT2Model',
    GPT2 | {'n_embd': 12, 'n_layer': 1, 'n_head': 1, 'n_inner': 20},
  ),
  'gpt2_tied': (
    'GPT2LMHeadModel',
    GPT2
    | {
      'n_embd': 20,
      'n_layer': 3,
      'n_head': 4,
      'scale_attn_by_inverse_layer_idx': True,
      'reorder_and_upcast_attn': True,
    },
  ),
  'gpt2_untied': (
    'GPT2LMHeadModel',
    GPT2
    | {
      'n_embd': 12,
      'n_layer': 2,
      'n_head': 3,
      'scale_attn_weights': False,
      'activation_function': 'silu',
      'tie_word_embeddings': False,
    },
  ),
  'bert_masked': ('BertForMaskedLM', BERT | {'hidden_act': 'gelu_new'}),
  'bert_classifier': (
    'BertForSequenceClassification',
    BERT | {'hidden_act': 'relu', 'num_labels': 3},
  ),
  'roberta_bare': ('RobertaModel', ROBERTA | {'num_hidden_layers': 1}),
  'roberta_masked': ('RobertaForMaskedLM', ROBERTA | {'pad_token_id': 3}),
  'xlm_roberta_classifier': (
    'XLMRobertaForSequenceClassification',
    ROBERTA | {'model_type': 'xlm-roberta', 'hidden_act': 'silu'},
  ),
  't5_tied': (
    'T5ForConditionalGeneration',
    T5 | {'num_layers': 2, 'feed_forward_proj': 'relu'},
  ),
  't5_gated': (
    'T5ForConditionalGeneration',
    T5
    | {
      'num_layers': 3,
      'num_decoder_layers': 1,
      'feed_forward_proj': 'gated-gelu',
      'tie_word_embeddings': False,
    },
  ),
  't5_bare': (
    'T5Model',
    T5
    | {
      'num_layers': 1,
      'num_decoder_layers': 2,
      'feed_forward_proj': 'gated-silu',
      'relative_attention_num_buckets': 32,
      'relative_attention_max_distance': 128,
    },
  ),
}


def tokens(draw, config: dict, batch: int, length: int) -> tuple:
  """Token ids and a mask of rows of several lengths, padded behind."""
  lengths = np.array([length, 1, length // 2, length - 2])[:batch]
  mask = (np.arange(length) < lengths[:, None]).astype(np.int32)
  pad = config.get('pad_token_id', 0)
  ids = draw.integers(4, config['vocab_size'], (batch, length))
  return np.where(mask > 0, ids, pad).astype(np.int32), mask


def inputs(case: str, config: dict, seed: int) -> dict[str, np.ndarray]:
  """Random inputs of a case."""
  draw = np.random.default_rng(seed)
  given = dict(zip(('ids', 'mask'), tokens(draw, config, 4, 11), strict=True))
  if case.startswith('bert'):
    given['segments'] = draw.integers(0, 2, (4, 11)).astype(np.int32)
  if case.startswith('t5'):
    # Further apart than the buckets reach.
    far = tokens(draw, config, 4, 15)
    names = 'decoder_ids', 'decoder_mask'
    given |= dict(zip(names, far, strict=True))
  return given


def arrays(case: str, seed: int, folder: pathlib.Path) -> dict:
  """Everything recorded of one case, by name."""
  architecture, config = CASES[case]
  spec = {'architecture': architecture, 'seed': seed, 'config': config}
  spec['own_head'] = case == 't5_gated'
  peer.write(folder, spec)
  given = inputs(case, config, seed)
  found = peer.run(folder, architecture, given)
  stored = load_file(folder / 'model.safetensors')
  written = json.loads((folder / 'config.json').read_text())
  return {
    f'{case}/config': np.array(json.dumps(written)),
    **{f'{case}/inputs/{name}': array for name, array in given.items()},
    **{f'{case}/{name}': array for name, array in found.items()},
    **{f'{case}/weights/{name}': tensor for name, tensor in stored.items()},
  }


def buckets() -> dict[str, np.ndarray]:
  """T5's buckets of relative positions (key minus query)."""
  apart = torch.arange(-200, 201)
  found = {}
  for count, furthest in ((32, 128), (8, 10), (20, 50), (64, 300)):
    for bidirectional in (True, False):
      name = f'{count}/{furthest}/{"both" if bidirectional else "back"}'
      found[f't5_buckets/{name}'] = (
        modeling_t5.T5Attention._relative_position_bucket(
          apart, bidirectional, count, furthest
        )
        .numpy()
        .astype(np.int32)
      )
  return found


def main() -> None:
  torch.set_num_threads(1)
  transformers.logging.set_verbosity_error()
  recorded = buckets()
  with tempfile.TemporaryDirectory() as folder:
    for seed, case in enumerate(CASES):
      recorded |= arrays(case, seed, pathlib.Path(folder) / case)
  path = HERE / 'text_models.npz'
  np.savez_compressed(path, **recorded)
  print(f'{path.name}: {path.stat().st_size} bytes')


if __name__ == '__main__':
  main()
