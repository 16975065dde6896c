"""Adapters and what PEFT 0.21.2 merges from them; runs in .venv-peers.

python lora_golden.py SEED ... OUTPUTS.npz

Of each case: `config` (JSON as bytes), `base/NAME`, `adapter/NAME` and
`merged/NAME`; bfloat16 is kept as float32.
"""

import json
import pathlib
import sys
import tempfile

import numpy as np
import peft
import safetensors.torch
import torch
import transformers


def _llama(**options):
  return transformers.LlamaForCausalLM(
    transformers.LlamaConfig(
      vocab_size=24,
      hidden_size=8,
      intermediate_size=12,
      num_hidden_layers=2,
      num_attention_heads=2,
      num_key_value_heads=1,
      tie_word_embeddings=False,
      **options,
    )
  )


def _gpt2():
  return transformers.GPT2LMHeadModel(
    transformers.GPT2Config(
      vocab_size=24, n_positions=8, n_embd=8, n_layer=2, n_head=2
    )
  )


CASES = {
  'llama': (
    _llama,
    {
      'r': 4,
      'lora_alpha': 6,
      'target_modules': ['q_proj', 'v_proj', 'down_proj'],
      'rank_pattern': {'v_proj': 2},
      'alpha_pattern': {'layers.1.mlp.down_proj': 3},
      'modules_to_save': ['lm_head'],
    },
  ),
  'rank_stabilised': (
    _llama,
    {
      'r': 3,
      'lora_alpha': 5,
      'use_rslora': True,
      'target_modules': ['q_proj', 'k_proj', 'embed_tokens'],
    },
  ),
  'gpt2': (
    _gpt2,
    {
      'r': 2,
      'target_modules': ['c_attn', 'c_proj', 'c_fc'],
      'bias': 'lora_only',
    },
  ),
  'bfloat16': (
    lambda: _llama().to(torch.bfloat16),
    {'r': 2, 'target_modules': 'all-linear'},
  ),
}


def _arrays(tensors, prefix):
  return {
    f'{prefix}/{name}': tensor.detach().float().numpy().copy()
    for name, tensor in tensors.items()
  }


def case(make, options):
  model = make()
  arrays = _arrays(model.state_dict(), 'base')
  adapted = peft.get_peft_model(model, peft.LoraConfig(**options))
  for name, parameter in adapted.named_parameters():
    if parameter.requires_grad:
      noise = torch.randn_like(parameter) * 0.3
      parameter.data = noise if 'lora_' in name else parameter.data + noise
  with tempfile.TemporaryDirectory() as folder:
    adapted.save_pretrained(folder)
    folder = pathlib.Path(folder)
    config = json.loads((folder / 'adapter_config.json').read_text())
    stored = safetensors.torch.load_file(folder / 'adapter_model.safetensors')
  arrays |= _arrays(stored, 'adapter')
  arrays |= _arrays(adapted.merge_and_unload().state_dict(), 'merged')
  arrays['config'] = np.frombuffer(json.dumps(config).encode(), np.uint8)
  return arrays


def main(seed, out):
  torch.manual_seed(seed)
  np.savez_compressed(
    out,
    **{
      f'{name}/{key}': array
      for name, (make, options) in CASES.items()
      for key, array in case(make, options).items()
    },
  )


if __name__ == '__main__':
  main(int(sys.argv[1]), sys.argv[-1])
