"""What torch generates greedily, left padded; runs in .venv-peers.

python generation_peer.py FOLDER NEW_TOKENS ENDS BATCH INPUTS.npz OUTPUTS.npz

INPUTS holds `prompts`, int [n, T], -1 behind each; ENDS is a JSON list of ids
that end a text. OUTPUTS gets `tokens` [n, NEW_TOKENS], -1 behind the end, and
`seconds` that generating them took, tokenising excluded.
"""

import json
import sys
import time

import numpy as np
import torch
import transformers


def load(folder):
  """The folder's model, for generation."""
  config = transformers.AutoConfig.from_pretrained(folder)
  kind = (
    transformers.AutoModelForSeq2SeqLM
    if config.is_encoder_decoder
    else transformers.AutoModelForCausalLM
  )
  model = kind.from_pretrained(folder, dtype=torch.float32).eval()
  # What a checkpoint says of sampling and ends is not asked for.
  start = config.to_dict().get('decoder_start_token_id')
  model.generation_config = transformers.GenerationConfig(
    decoder_start_token_id=0 if start is None else start
  )
  return model


def generate(model, prompts, new_tokens: int, ends: list[int], batch: int):
  """Tokens [n, new_tokens] generated for prompts [n, T], in their order."""
  found = np.full((len(prompts), new_tokens), -1)
  for begin in range(0, len(prompts), batch):
    chunk = [row[row >= 0] for row in prompts[begin : begin + batch]]
    width = max(map(len, chunk))
    ids = np.zeros((len(chunk), width), np.int64)
    mask = np.zeros_like(ids)
    for row, tokens in enumerate(chunk):
      ids[row, width - len(tokens) :] = tokens
      mask[row, width - len(tokens) :] = 1
    with torch.no_grad():
      made = model.generate(
        input_ids=torch.from_numpy(ids),
        attention_mask=torch.from_numpy(mask),
        max_new_tokens=new_tokens,
        do_sample=False,
        eos_token_id=ends or None,
        pad_token_id=0,
      ).numpy()
    made = made[:, 1 if model.config.is_encoder_decoder else width :]
    for row, tokens in enumerate(made):
      stop = np.flatnonzero(np.isin(tokens, ends))
      kept = tokens[: stop[0] + 1] if len(stop) else tokens
      found[begin + row, : len(kept)] = kept
  return found


def main(folder, new_tokens, ends, batch, inputs, outputs) -> None:
  torch.set_num_threads(2)
  model = load(folder)
  with np.load(inputs) as given:
    prompts = given['prompts']
  arguments = model, prompts, int(new_tokens), json.loads(ends), int(batch)
  begin = time.perf_counter()
  tokens = generate(*arguments)
  np.savez(outputs, tokens=tokens, seconds=time.perf_counter() - begin)


if __name__ == '__main__':
  main(*sys.argv[1:])
