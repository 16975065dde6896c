"""Writes llama_tiny.npz: tiny random decoders and their logits.

  .venv-peers/bin/python tests/testdata/llama_golden.py

For each case: `<case>/config` (JSON, as Hugging Face writes it),
`<case>/weights/<stored name>`, `<case>/ids` and `<case>/mask` [B, T],
`<case>/hidden` [B, T, d] and, of models with a head, `<case>/logits` [B, T, V].
"""

import json
import pathlib

import numpy as np
import torch
import transformers

SMALL = {
  'vocab_size': 43,
  'hidden_size': 18,
  'num_hidden_layers': 2,
  'num_attention_heads': 3,
  'num_key_value_heads': 1,
  'head_dim': 10,
  'intermediate_size': 25,
  'max_position_embeddings': 64,
}
PLAIN = {
  'vocab_size': 37,
  'hidden_size': 24,
  'num_hidden_layers': 2,
  'num_attention_heads': 4,
  'intermediate_size': 35,
  'max_position_embeddings': 64,
}
LLAMA3 = {
  'rope_type': 'llama3',
  'rope_theta': 300.0,
  'factor': 8.0,
  'low_freq_factor': 1.0,
  'high_freq_factor': 4.0,
  'original_max_position_embeddings': 16,
}
LINEAR = {'rope_type': 'linear', 'rope_theta': 500.0, 'factor': 3.0}
YARN = {
  'rope_type': 'yarn',
  'rope_theta': 1000.0,
  'factor': 4.0,
  'original_max_position_embeddings': 16,
  'beta_fast': 2.0,
}
GEMMA3 = {
  'full_attention': {'rope_type': 'linear', 'rope_theta': 9e3, 'factor': 8.0},
  'sliding_attention': {'rope_type': 'default', 'rope_theta': 50.0},
}
# Architecture, tokens, config.
CASES = {
  'llama2': ('LlamaForCausalLM', 13, PLAIN),
  'llama2_biases': (
    'LlamaForCausalLM',
    11,
    SMALL
    | {'attention_bias': True, 'mlp_bias': True, 'tie_word_embeddings': True}
    | {'rope_parameters': LINEAR},
  ),
  'llama3': (
    'LlamaForCausalLM',
    45,
    SMALL | {'rope_parameters': LLAMA3, 'num_hidden_layers': 1},
  ),
  'llama_bare': ('LlamaModel', 9, PLAIN | {'num_key_value_heads': 2}),
  'mistral': (
    'MistralForCausalLM',
    19,
    SMALL | {'sliding_window': 5, 'rms_norm_eps': 1e-5},
  ),
  'qwen2': (
    'Qwen2ForCausalLM',
    17,
    PLAIN
    | {'use_sliding_window': True, 'sliding_window': 4, 'max_window_layers': 1}
    | {'num_key_value_heads': 2, 'rope_parameters': YARN},
  ),
  'qwen3': ('Qwen3ForCausalLM', 12, SMALL | {'tie_word_embeddings': True}),
  'gemma': ('GemmaForCausalLM', 10, SMALL | {'hidden_act': 'gelu'}),
  'gemma2': (
    'Gemma2ForCausalLM',
    17,
    SMALL
    | {'num_hidden_layers': 3, 'sliding_window': 4, 'hidden_size': 21}
    | {'query_pre_attn_scalar': 7, 'attn_logit_softcapping': 2.0}
    | {'final_logit_softcapping': 1.5},
  ),
  'gemma3': (
    'Gemma3ForCausalLM',
    17,
    SMALL
    | {'num_hidden_layers': 3, 'sliding_window': 5}
    | {'query_pre_attn_scalar': 13, 'rope_parameters': GEMMA3}
    | {'layer_types': ['sliding_attention', 'full_attention'] * 2},
  ),
}
CASES['gemma3'][2]['layer_types'] = CASES['gemma3'][2]['layer_types'][:3]


def arrays(case: str, generator: torch.Generator) -> dict:
  """Everything recorded of one case, by name."""
  architecture, tokens, sizes = CASES[case]
  kind = getattr(transformers, architecture)
  config = kind.config_class(**sizes)
  config._attn_implementation = 'eager'  # the one that knows soft caps
  model = kind(config).eval()
  with torch.no_grad():
    for name, weight in model.named_parameters():
      noise = torch.randn(weight.shape, generator=generator)
      # Far from the initial values, where a mix-up could go unnoticed, and on
      # a grid, so that the file is small.
      noise = torch.round(6 * noise) / 32
      shift = 'norm' in name and 'gemma' not in config.model_type
      weight.copy_(noise + float(shift))
    batch = 4
    ids = torch.randint(
      0, config.vocab_size, (batch, tokens), generator=generator
    )
    lengths = torch.tensor([tokens, 1, tokens // 2, tokens - 2])
    mask = (torch.arange(tokens) < lengths[:, None]).int()
    out = model(input_ids=ids, attention_mask=mask, output_hidden_states=True)
  recorded = {
    'config': np.array(json.dumps(config.to_diff_dict())),
    'ids': ids.numpy().astype(np.int32),
    'mask': mask.numpy().astype(np.int32),
    'hidden': out.hidden_states[-1].numpy(),
  }
  if 'logits' in out:
    recorded['logits'] = out.logits.numpy()
  tied = config.tie_word_embeddings
  recorded |= {
    f'weights/{name}': tensor.numpy()
    for name, tensor in model.state_dict().items()
    if not (tied and name == 'lm_head.weight')
  }
  return {f'{case}/{name}': array for name, array in recorded.items()}


def main() -> None:
  torch.set_num_threads(1)
  generator = torch.Generator().manual_seed(0)
  recorded = {}
  for case in CASES:
    recorded |= arrays(case, generator)
    for name in ('hidden', 'logits'):
      if f'{case}/{name}' in recorded:
        print(case, name, 'std', recorded[f'{case}/{name}'].std())
  path = pathlib.Path(__file__).with_name('llama_tiny.npz')
  np.savez_compressed(path, **recorded)
  print(f'{path.name}: {path.stat().st_size} bytes')


if __name__ == '__main__':
  main()
