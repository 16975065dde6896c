"""Logits of a model and of it with a PEFT adapter; runs in .venv-peers.

python language_adapter_peer.py BASE ADAPTER INPUTS.npz OUTPUTS.npz
"""

import sys

import numpy as np
import peft
import torch
import transformers


def main(base, adapter, given, out):
  ids = torch.from_numpy(np.load(given)['ids'])
  model = transformers.AutoModelForCausalLM.from_pretrained(
    base, dtype=torch.float32
  )
  with torch.no_grad():
    plain = model(ids).logits.numpy()
    adapted = peft.PeftModel.from_pretrained(model, adapter)
    np.savez(out, base=plain, adapted=adapted(ids).logits.numpy())


if __name__ == '__main__':
  main(*sys.argv[1:])
