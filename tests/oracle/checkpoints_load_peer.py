"""Merged folders in transformers; runs in .venv-peers.

python checkpoints_load_peer.py FOLDER INPUTS.npz OUTPUTS.npz

For each folder in FOLDER: what of the weights does not fit, depth, whether the
logits are finite and how far they spread, whether head and embedding are one.
"""

import json
import pathlib
import sys

import numpy as np
import torch
import transformers


def report(folder: pathlib.Path) -> dict:
  """What transformers makes of one folder."""
  model, found = transformers.AutoModelForCausalLM.from_pretrained(
    folder, output_loading_info=True
  )
  tokens = torch.arange(12)[None] % model.config.vocab_size
  with torch.no_grad():
    logits = model.eval()(tokens).logits.float()
  head = model.get_output_embeddings().weight
  return {
    'unfit': {kind: sorted(map(str, n)) for kind, n in found.items() if n},
    'layers': len(
      model.transformer.h
      if hasattr(model, 'transformer')
      else model.model.layers
    ),
    'finite': bool(torch.isfinite(logits).all()),
    'spread': float(logits.std()),
    'tied': head is model.get_input_embeddings().weight,
    'dtype': str(head.dtype).removeprefix('torch.'),
    'rows': len(head),
  }


def main(folder: str, _: str, out: str) -> None:
  found = {path.name: report(path) for path in pathlib.Path(folder).iterdir()}
  np.savez(out, reports=np.array(json.dumps(found)))


if __name__ == '__main__':
  main(*sys.argv[1:])
