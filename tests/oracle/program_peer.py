"""Logits of stock Transformers for exported folders; runs in .venv-peers.

python program_peer.py ROOT GIVEN.npz OUTPUTS.npz

Each case is a folder `ROOT/<case>/merged`; given are `<case>/ids` and
`<case>/mask`. Told are `<case>/logits`, `<case>/config` (JSON) and
`<case>/unread`: tensors that were missing or not used.
"""

import json
import pathlib
import sys

import numpy as np
import torch
import transformers


def main(root: str, inputs: str, outputs: str) -> None:
  torch.set_num_threads(2)
  told = {}
  with np.load(inputs) as file:
    given = dict(file)
  for case in sorted({name.split('/')[0] for name in given}):
    folder = pathlib.Path(root) / case / 'merged'
    config = transformers.AutoConfig.from_pretrained(folder)
    kind = transformers.AutoModelForCausalLM
    if config.model_type == 'bert':
      kind = transformers.AutoModelForSequenceClassification
    model, info = kind.from_pretrained(
      folder,
      attn_implementation='eager',
      dtype=torch.float32,
      output_loading_info=True,
    )
    ids, mask = (
      torch.from_numpy(given[f'{case}/{name}'].astype(np.int64))
      for name in ('ids', 'mask')
    )
    with torch.no_grad():
      logits = model.eval()(input_ids=ids, attention_mask=mask).logits
    told[f'{case}/logits'] = logits.numpy()
    told[f'{case}/config'] = np.array(json.dumps(config.to_dict(), default=str))
    unread = [*info['missing_keys'], *info['unexpected_keys']]
    told[f'{case}/unread'] = np.array(unread, dtype=str)
  np.savez(outputs, **told)


if __name__ == '__main__':
  main(*sys.argv[1:])
