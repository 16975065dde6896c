"""Logits of a Hugging Face folder by torch; runs in .venv-peers.

python llama_peer.py FOLDER INPUTS.npz OUTPUTS.npz
"""

import sys

import numpy as np
import torch
import transformers


def main(folder: str, inputs: str, outputs: str) -> None:
  torch.set_num_threads(2)
  model = transformers.AutoModelForCausalLM.from_pretrained(
    folder, attn_implementation='eager', dtype=torch.float32
  ).eval()
  with np.load(inputs) as given, torch.no_grad():
    logits = model(
      input_ids=torch.from_numpy(given['ids']),
      attention_mask=torch.from_numpy(given['mask']),
    ).logits
  np.savez(outputs, logits=logits.numpy())


if __name__ == '__main__':
  main(*sys.argv[1:])
