"""Writes bert_tiny.npz: tiny random BertModels and their hidden states.

  .venv-peers/bin/python tests/testdata/bert_golden.py

For each case: `<case>/config` (JSON), `<case>/weights/<stored name>`,
`<case>/ids` and `<case>/mask` [B, T], `<case>/hidden` [B, T, d].
"""

import json
import pathlib

import numpy as np
import torch
import transformers

CASES = {
  'one_layer': {
    'vocab_size': 61,
    'hidden_size': 12,
    'num_hidden_layers': 1,
    'num_attention_heads': 1,
    'intermediate_size': 20,
    'max_position_embeddings': 16,
  },
  'odd_sizes': {
    'vocab_size': 101,
    'hidden_size': 21,
    'num_hidden_layers': 2,
    'num_attention_heads': 3,
    'intermediate_size': 35,
    'max_position_embeddings': 19,
    'type_vocab_size': 1,
    'layer_norm_eps': 1e-5,
  },
  'three_layers': {
    'vocab_size': 97,
    'hidden_size': 32,
    'num_hidden_layers': 3,
    'num_attention_heads': 4,
    'intermediate_size': 48,
    'max_position_embeddings': 24,
  },
}


def arrays(case: str, sizes: dict, generator: torch.Generator) -> dict:
  """Everything recorded of one case, by name."""
  config = transformers.BertConfig(**sizes)
  # The pooler is part of one case only; checkpoints come both ways.
  pooler = case == 'three_layers'
  model = transformers.BertModel(config, add_pooling_layer=pooler).eval()
  with torch.no_grad():
    for name, weight in model.named_parameters():
      # Far from the initial values, where a mix-up could go unnoticed.
      noise = torch.randn(weight.shape, generator=generator)
      weight.copy_(0.25 * noise + ('LayerNorm.weight' in name))
    batch, tokens = 4, config.max_position_embeddings - 3
    ids = torch.randint(
      0, config.vocab_size, (batch, tokens), generator=generator
    )
    lengths = torch.tensor([tokens, 1, tokens // 2, tokens - 2])
    mask = (torch.arange(tokens) < lengths[:, None]).int()
    hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state
  fields = (*sizes, 'hidden_act', 'layer_norm_eps', 'type_vocab_size')
  stored = {name: getattr(config, name) for name in fields}
  return {
    f'{case}/config': np.array(json.dumps({'model_type': 'bert', **stored})),
    f'{case}/ids': ids.numpy().astype(np.int32),
    f'{case}/mask': mask.numpy().astype(np.int32),
    f'{case}/hidden': hidden.numpy(),
    **{
      f'{case}/weights/{name}': tensor.numpy()
      for name, tensor in model.state_dict().items()
    },
  }


def main() -> None:
  torch.set_num_threads(1)
  generator = torch.Generator().manual_seed(0)
  recorded = {}
  for case, sizes in CASES.items():
    recorded |= arrays(case, sizes, generator)
  path = pathlib.Path(__file__).with_name('bert_tiny.npz')
  np.savez_compressed(path, **recorded)
  print(f'{path.name}: {path.stat().st_size} bytes')


if __name__ == '__main__':
  main()
