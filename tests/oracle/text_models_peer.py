"""Small random Hugging Face text models and their outputs; runs in .venv-peers.

python text_models_peer.py FOLDER SPEC INPUTS.npz OUTPUTS.npz

SPEC is JSON: `architecture` (class of transformers), `seed`, `config`, and
`own_head` where T5 shall have a head of its own. The model is written to FOLDER
as transformers writes it, then run on the inputs.
"""

import json
import pathlib
import sys

import numpy as np
import torch
import transformers

_NORMS = ('norm', 'ln_')
# Our names of inputs, and those of transformers.
_INPUTS = {
  'ids': 'input_ids',
  'mask': 'attention_mask',
  'segments': 'token_type_ids',
  'decoder_ids': 'decoder_input_ids',
  'decoder_mask': 'decoder_attention_mask',
}


def write(folder: str | pathlib.Path, spec: dict) -> None:
  """Makes a model with weights far from their initial values, and saves it."""
  sizes = dict(spec['config'])
  config = transformers.AutoConfig.for_model(sizes.pop('model_type'), **sizes)
  model = getattr(transformers, spec['architecture'])(config)
  if spec.get('own_head'):  # as old checkpoints do; transformers 5 ties it
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.clone())
  generator = torch.Generator().manual_seed(spec['seed'])
  with torch.no_grad():
    for name, weight in model.named_parameters():
      noise = torch.randn(weight.shape, generator=generator)
      norm = any(part in name.lower() for part in _NORMS)
      weight.copy_(0.25 * noise + (norm and name.endswith('weight')))
  model.save_pretrained(folder)


def run(
  folder: str | pathlib.Path, architecture: str, inputs: dict
) -> dict[str, np.ndarray]:
  """`hidden`: last hidden states; `logits` where the model has some."""
  model = getattr(transformers, architecture).from_pretrained(
    folder, attn_implementation='eager'
  )
  model = model.eval()
  given = {_INPUTS[k]: torch.from_numpy(v).long() for k, v in inputs.items()}
  with torch.no_grad():
    trunk = model.base_model(**given)
    if architecture.startswith('T5'):
      # The base of T5 with a head is the model itself.
      stacks = model.encoder, model.decoder
      encoded = stacks[0](
        input_ids=given['input_ids'], attention_mask=given['attention_mask']
      ).last_hidden_state
      trunk = stacks[1](
        input_ids=given['decoder_input_ids'],
        attention_mask=given['decoder_attention_mask'],
        encoder_hidden_states=encoded,
        encoder_attention_mask=given['attention_mask'],
      )
    outputs = {'hidden': trunk.last_hidden_state.numpy()}
    whole = model(**given)
    if 'logits' in whole:
      outputs['logits'] = whole.logits.numpy()
  return outputs


def main(folder: str, spec: str, inputs: str, outputs: str) -> None:
  torch.set_num_threads(1)
  found = json.loads(spec)
  write(folder, found)
  with np.load(inputs) as given:
    np.savez(outputs, **run(folder, found['architecture'], dict(given)))


if __name__ == '__main__':
  main(*sys.argv[1:])
