"""Writes dynamic_fisher_torch.npz: Fisher information of a tiny T5, in torch.

  .venv-peers/bin/python tests/testdata/dynamic_fisher_torch.py

Mean over items of Σ p (∇ s)² over their choices: s is the mean log-probability
of a choice's tokens, p the softmax of s over the choices. The model is the case
t5_tied of text_models.npz. `items`, `<i>/context`, `<i>/choices`,
`<i>/choice/<c>`, and `fisher/<stored name>`.
"""

import json
import pathlib

import numpy as np
import torch
import transformers

HERE = pathlib.Path(__file__).parent
CASE = 't5_tied'
ITEMS = 3


def load(recorded) -> torch.nn.Module:
  """The recorded model, which must give the recorded logits."""
  config = json.loads(str(recorded[f'{CASE}/config']))
  model = transformers.T5ForConditionalGeneration(
    transformers.T5Config(**config, decoder_start_token_id=0)
  ).eval()
  start = f'{CASE}/weights/'
  weights = {
    name.removeprefix(start): torch.from_numpy(recorded[name])
    for name in recorded
    if name.startswith(start)
  }
  _, unexpected = model.load_state_dict(weights, strict=False)
  assert not unexpected, unexpected
  model.tie_weights()
  given = {
    name: torch.from_numpy(recorded[f'{CASE}/inputs/{name}']).long()
    for name in ('ids', 'mask', 'decoder_ids', 'decoder_mask')
  }
  logits = model(
    input_ids=given['ids'],
    attention_mask=given['mask'],
    decoder_input_ids=given['decoder_ids'],
    decoder_attention_mask=given['decoder_mask'],
  ).logits
  told = given['decoder_mask'] > 0
  want = torch.from_numpy(recorded[f'{CASE}/logits'])
  assert torch.allclose(logits[told], want[told], atol=1e-4)
  return model


def main() -> None:
  with np.load(HERE / 'text_models.npz') as file:
    recorded = dict(file)
  model = load(recorded)
  parameters = dict(model.named_parameters())
  fisher = {n: torch.zeros_like(p) for n, p in parameters.items()}
  draw = np.random.default_rng(0)
  found = {'items': np.int32(ITEMS)}
  for index in range(ITEMS):
    context = draw.integers(3, 43, 5 + index)
    choices = [draw.integers(3, 43, 1 + c) for c in range(2 + index)]
    found |= {
      f'{index}/context': context.astype(np.int32),
      f'{index}/choices': np.int32(len(choices)),
    }
    values, gradients = [], []
    for c, choice in enumerate(choices):
      found[f'{index}/choice/{c}'] = choice.astype(np.int32)
      loss = model(
        input_ids=torch.from_numpy(context)[None],
        labels=torch.from_numpy(choice)[None],
      ).loss
      values.append(-loss.detach())
      gradients.append(torch.autograd.grad(loss, list(parameters.values())))
    shares = torch.softmax(torch.stack(values), 0)
    for share, slopes in zip(shares, gradients, strict=True):
      for name, slope in zip(parameters, slopes, strict=True):
        fisher[name] += share * slope**2 / ITEMS
  found |= {f'fisher/{name}': f.numpy() for name, f in fisher.items()}
  np.savez_compressed(HERE / 'dynamic_fisher_torch.npz', **found)


if __name__ == '__main__':
  main()
