"""Scores a language model by transformers alone; runs in .venv-peers.

  language_scores_peer.py MODEL GIVEN.npz ANSWER.npz

GIVEN holds `choices`, JSON [[prompt, [choice, ...]], ...], and `prompts`, JSON
[prompt, ...] with `new_tokens`. ANSWER gets `best`, the index of each likeliest
choice, and `texts`, what is written greedily behind each prompt.
"""

import json
import sys

import numpy as np
import torch
import transformers


def main(folder: str, given: str, answer: str) -> None:
  torch.set_num_threads(2)
  tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
  model = transformers.AutoModelForCausalLM.from_pretrained(
    folder, dtype=torch.float32
  ).eval()
  with np.load(given) as file:
    choices = json.loads(str(file['choices']))
    prompts = json.loads(str(file['prompts']))
    new_tokens = int(file['new_tokens'])

  def nats(prompt: str, choice: str) -> float:
    start = len(tokenizer(prompt)['input_ids'])
    ids = torch.tensor([tokenizer(prompt + choice)['input_ids']])
    told = torch.log_softmax(model(ids).logits[0, :-1], -1)
    rows = torch.arange(start - 1, ids.shape[1] - 1)
    return float(told[rows, ids[0, start:]].sum())

  def written(prompt: str) -> str:
    inputs = tokenizer(prompt, return_tensors='pt')
    made = model.generate(
      input_ids=inputs['input_ids'],
      attention_mask=inputs['attention_mask'],
      max_new_tokens=new_tokens,
      do_sample=False,
    )
    new = made[0, inputs['input_ids'].shape[1] :]
    return tokenizer.decode(new, skip_special_tokens=True)

  with torch.inference_mode():
    best = [
      int(np.argmax([nats(prompt, choice) for choice in options]))
      for prompt, options in choices
    ]
    texts = [written(prompt) for prompt in prompts]
  np.savez(answer, best=np.asarray(best, int), texts=json.dumps(texts))


if __name__ == '__main__':
  main(*sys.argv[1:])
