"""What transformers makes of a GGUF file; runs in .venv-peers.

python gguf_peer.py FILE TEXTS(JSON) FOLDER_OF_OURS INPUTS.npz OUTPUTS.npz
"""

import json
import pathlib
import sys

import numpy as np
import torch
import transformers


def main():
  path, texts, ours, _, out = sys.argv[1:]
  path, texts = pathlib.Path(path), json.loads(texts)
  where = {'pretrained_model_name_or_path': path.parent, 'gguf_file': path.name}
  model = transformers.AutoModelForCausalLM.from_pretrained(
    **where, dtype=torch.float32
  )
  arrays = {
    f'tensor/{name}': tensor.numpy()
    for name, tensor in model.state_dict().items()
    if name != 'lm_head.weight' or not model.config.tie_word_embeddings
  }
  loaded = transformers.AutoModelForCausalLM.from_pretrained(
    ours, dtype=torch.float32
  )
  tokens = torch.arange(1, 24)[None] % model.config.vocab_size
  with torch.no_grad():
    arrays['logits'] = model(tokens).logits.numpy()
    arrays['logits_ours'] = loaded(tokens).logits.numpy()
  if texts:
    tokenizer = transformers.AutoTokenizer.from_pretrained(**where)
    arrays['ids'] = np.frombuffer(
      json.dumps([tokenizer(text)['input_ids'] for text in texts]).encode(),
      np.uint8,
    )
  np.savez(out, **arrays)


if __name__ == '__main__':
  main()
