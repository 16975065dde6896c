"""Alignments recorded with a peer, done again here and compared."""

import json

import ml_dtypes
import numpy as np
import yaml

from automerge_jax import recipe as recipes
from automerge_jax.merging import alignment, embeddings

EMBED, HEAD = 'model.embed_tokens.weight', 'lm_head.weight'


def cases(recorded):
  """Names of the recorded cases."""
  parts = (key.split('/') for key in recorded if key.startswith('case/'))
  return sorted({part[1] for part in parts})


def tensors(recorded, models, name):
  """A tensor of each recorded model, as it is stored."""
  stored = {m: recorded[f'model/{m}/{name}'] for m in models}
  return {
    m: value.astype(ml_dtypes.bfloat16) if m in ('ah', 'bh') else value
    for m, value in stored.items()
  }


def aligned(recorded, case):
  """Our alignment of a case, and the models that it merges."""
  stated = json.loads(str(recorded[f'case/{case}/recipe']))
  document = {
    'merge_method': 'linear',
    'models': [
      {'model': m, 'parameters': {'weight': 1}} for m in stated['models']
    ],
    'tokenizer': stated['tokenizer'],
  }
  if stated['base']:
    document['base_model'] = stated['base']
  spec = recipes.from_yaml(yaml.safe_dump(document)).tokenizer
  texts = {
    key.split('/')[1]: str(value)
    for key, value in recorded.items()
    if key.startswith('model/') and key.endswith('/tokenizer')
  }
  models = stated['models']
  rows = {m: len(recorded[f'model/{m}/{EMBED}']) for m in models}
  return alignment.align(spec, texts, stated['base'], rows), models


def compare(recorded, case):
  """`(tokens, largest difference)` of a linear merge, row by token."""
  ours, models = aligned(recorded, case)
  theirs = json.loads(str(recorded[f'case/{case}/vocabulary']))
  assert set(ours.vocabulary) == set(theirs), case
  assert ours.size == int(recorded[f'case/{case}/vocab_size']), case
  here = [ours.vocabulary[token] for token in theirs]
  here += range(ours.num_tokens, ours.size)
  there = [*theirs.values(), *range(ours.num_tokens, ours.size)]
  worst = 0.0
  for name in (EMBED, HEAD):
    peer = recorded[f'case/{case}/{name}']
    stored = tensors(recorded, models, name)
    merged = np.zeros_like(peer)
    for model, weight in zip(models, recorded['weights'], strict=False):
      merged += weight * embeddings.take(ours, model, stored)
    worst = max(worst, float(np.abs(merged[here] - peer[there]).max()))
  return len(theirs), worst
