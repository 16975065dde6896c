"""Recorded tiny models of every family: configs, weights and inputs."""

import functools
import json
import pathlib

import numpy as np

_FILES = ('llama_tiny', 'vit_tiny', 'text_models')


@functools.cache
def _case(case):
  """Everything recorded of a case, by name."""
  for name in _FILES:
    with np.load(
      pathlib.Path(__file__).parent / 'testdata' / f'{name}.npz'
    ) as file:
      if f'{case}/config' in file:
        return {
          key.removeprefix(f'{case}/'): file[key]
          for key in file
          if key.startswith(f'{case}/')
        }
  raise KeyError(case)


def config(case):
  """Parsed `config.json`."""
  return json.loads(str(_case(case)['config']))


def weights(case):
  """Tensors by stored name."""
  return {
    name.removeprefix('weights/'): array
    for name, array in _case(case).items()
    if name.startswith('weights/')
  }


def inputs(case):
  """What the family takes: tokens, or images of one size."""
  own = _case(case)
  found = {
    name.removeprefix('inputs/'): array
    for name, array in own.items()
    if name in ('ids', 'mask') or name.startswith('inputs/')
  }
  if found:
    return found
  pixels = next(own[name] for name in own if name.endswith('/pixels'))
  return {'pixels': pixels.astype(np.float32)}
