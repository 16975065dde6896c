"""Alignments recorded with a peer, done again here and compared."""

import json
import sys

import ml_dtypes
import numpy as np

from automerge_jax.merging import alignment, embeddings
from automerge_jax.recipes.document import (
  ModelToken,
  TokenizerSpec,
  TokenSpec,
  ZeroToken,
)

EMBED, HEAD = 'model.embed_tokens.weight', 'lm_head.weight'
START, END = '<|im_start|>', '<|im_end|>'
WEIGHTS = (0.6, 0.3, -0.2)
TOKENS = {
  START: TokenSpec('c'),
  END: TokenSpec(ModelToken('a', token='</s>'), force=True),
  '<pad>': TokenSpec(ZeroToken()),
  'a': TokenSpec('b', force=True),
  '<unk>': TokenSpec(ZeroToken(), force=True),
  '▁zoo': TokenSpec(ModelToken('c', token_id=50)),
  '<|new|>': TokenSpec(ZeroToken()),
}
END_OF_B = {END: TokenSpec('b')}
# As in the peer's script: case: (base, models, spec).
CASES = {
  'union': ('a', 'a b c', TokenizerSpec()),
  'union_from_b': ('b', 'a b c', TokenizerSpec()),
  'union_from_c': ('c', 'a b c', TokenizerSpec()),
  'union_without_base': (None, 'a b c', TokenizerSpec()),
  'union_padded': ('a', 'a b c', TokenizerSpec(pad_to_multiple_of=64)),
  'union_by_default': ('a', 'a b', TokenizerSpec()),
  'base': ('a', 'a b c', TokenizerSpec('base')),
  'base_padded': ('c', 'a b c', TokenizerSpec('base', pad_to_multiple_of=16)),
  'source': ('a', 'a b c', TokenizerSpec('b')),
  'source_without_base': (None, 'a b c', TokenizerSpec('b')),
  'source_padded': ('a', 'a b c', TokenizerSpec('c', pad_to_multiple_of=56)),
  'source_not_merged': ('a', 'a b', TokenizerSpec('c')),
  'tokens': ('a', 'a b c', TokenizerSpec(tokens=TOKENS)),
  'spare_rows_same': ('c', 'c d', TokenizerSpec('base')),
  'spare_rows_padded': ('c', 'c d', TokenizerSpec(pad_to_multiple_of=64)),
  'token_into_spare_rows': ('d', 'd b', TokenizerSpec('base', END_OF_B)),
  'token_by_source': ('b', 'b d', TokenizerSpec('d', END_OF_B)),
  'other_ids': ('f', 'f a', TokenizerSpec()),
  'other_ids_of_base': ('a', 'a f', TokenizerSpec('f')),
  'added_only': ('a', 'a g', TokenizerSpec()),
  'added_kinds': ('g', 'g h', TokenizerSpec()),
  'word_piece': ('w', 'w x', TokenizerSpec()),
  'unigram': ('u', 'u v', TokenizerSpec()),
  'bfloat16': ('ah', 'ah bh', TokenizerSpec(pad_to_multiple_of=64)),
}


def texts(recorded):
  """`tokenizer.json` of each recorded model."""
  return {
    key.split('/')[1]: str(value)
    for key, value in recorded.items()
    if key.startswith('model/') and key.endswith('/tokenizer')
  }


def tensor(recorded, model, name):
  """A recorded model's tensor as it is stored."""
  value = recorded[f'model/{model}/{name}']
  return value.astype(ml_dtypes.bfloat16) if model in ('ah', 'bh') else value


def aligned(recorded, case):
  """Our alignment and our linear merge of each tensor in a case."""
  base, names, spec = CASES[case]
  models = names.split()
  rows = {m: len(recorded[f'model/{m}/{EMBED}']) for m in models}
  ours = alignment.align(spec, texts(recorded), base, rows)
  merged = {}
  for name in (EMBED, HEAD):
    tensors = {m: tensor(recorded, m, name) for m in models}
    merged[name] = sum(
      np.float32(weight) * embeddings.take(ours, model, tensors)
      for weight, model in zip(WEIGHTS, models, strict=False)
    )
  return ours, merged


def compare(recorded, case):
  """`(tokens, largest difference)` against the peer's, row by token."""
  ours, merged = aligned(recorded, case)
  theirs = json.loads(str(recorded[f'case/{case}/vocabulary']))
  assert set(ours.vocabulary) == set(theirs), case
  assert ours.size == int(recorded[f'case/{case}/vocab_size']), case
  worst = 0.0
  for name, value in merged.items():
    peer = recorded[f'case/{case}/{name}']
    assert value.shape == peer.shape, case
    here = [ours.vocabulary[token] for token in theirs]
    there = list(theirs.values())
    padding = slice(ours.num_tokens, None)
    for x, y in ((value[here], peer[there]), (value[padding], peer[padding])):
      worst = max(worst, float(np.abs(x - y).max(initial=0)))
  return len(theirs), worst


if __name__ == '__main__':
  with np.load(sys.argv[1]) as file:
    given = dict(file)
  for case in CASES:
    try:
      print(case, compare(given, case))
    except Exception as e:
      print(case, type(e).__name__, str(e)[:300])
