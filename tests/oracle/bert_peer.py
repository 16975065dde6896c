"""Hidden states of a Hugging Face folder by torch; runs in .venv-peers.

python bert_peer.py FOLDER INPUTS.npz OUTPUTS.npz
"""

import sys

import numpy as np
import torch
import transformers


def main(folder: str, inputs: str, outputs: str) -> None:
  model = transformers.AutoModel.from_pretrained(folder).eval()
  with np.load(inputs) as given, torch.no_grad():
    hidden = model(
      input_ids=torch.from_numpy(given['ids']),
      attention_mask=torch.from_numpy(given['mask']),
    ).last_hidden_state
  np.savez(outputs, hidden=hidden.numpy())


if __name__ == '__main__':
  main(*sys.argv[1:])
