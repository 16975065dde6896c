"""Recorded Hugging Face text models as folders, and their inputs."""

import functools
import json
import pathlib

import numpy as np

from automerge_jax.io import safetensors

_GOLDEN = pathlib.Path(__file__).parent / 'testdata' / 'text_models.npz'


@functools.cache
def golden():
  """Everything recorded, by name."""
  with np.load(_GOLDEN) as file:
    return dict(file)


def of(case, kind):
  """Arrays of one kind, `inputs` or `weights`, of a case by name."""
  start = f'{case}/{kind}/'
  return {
    name.removeprefix(start): array
    for name, array in golden().items()
    if name.startswith(start)
  }


def cases(start):
  """Names of the recorded cases that begin so."""
  configs = [n for n in golden() if n.endswith('/config')]
  return [n.split('/')[0] for n in configs if n.startswith(start)]


def config(case):
  """Parsed `config.json` of a case."""
  return json.loads(str(golden()[f'{case}/config']))


def write(folder, case, drop=(), add=None, **entries):
  """A folder of a case, perhaps with other tensors and config entries."""
  folder.mkdir(exist_ok=True)
  (folder / 'config.json').write_text(json.dumps(config(case) | entries))
  stored = of(case, 'weights').items()
  tensors = {name: t for name, t in stored if name not in drop}
  safetensors.write(folder, tensors | (add or {}))
  return folder


def own(inputs, name):
  """`ids` or `mask` of the stack whose outputs are compared."""
  return inputs.get(f'decoder_{name}', inputs[name])


def packed(inputs, padding=3):
  """All rows of right-padded inputs in one, with what that needs."""
  row = {}
  for prefix in ('', 'decoder_'):
    if f'{prefix}ids' not in inputs:
      continue
    mask = inputs[f'{prefix}mask']
    number, position = np.nonzero(mask)
    row[f'{prefix}mask'] = number + 1
    row[f'{prefix}positions'] = position
    for name in ('ids', 'segments'):
      if f'{prefix}{name}' in inputs:
        row[f'{prefix}{name}'] = inputs[f'{prefix}{name}'][mask > 0]
  return {
    name: np.pad(values, (0, padding))[None].astype(np.int32)
    for name, values in row.items()
  }
