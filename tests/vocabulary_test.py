"""Vocabularies: aligned as mergekit 0.1.5 has it, refused where they differ."""

import json
import pathlib

import numpy as np
import pytest
import vocabulary_replay
from vocabulary_replay import EMBED

from automerge_jax.io import tokenizers
from automerge_jax.merging import alignment, embeddings, vocabulary
from automerge_jax.recipes.document import (
  ModelToken,
  TokenizerSpec,
  TokenSpec,
  ZeroToken,
)

GOLDEN = (
  pathlib.Path(__file__).parent / 'testdata' / 'vocabulary_mergekit_0.1.5.npz'
)


@pytest.fixture(scope='module')
def recorded():
  with np.load(GOLDEN) as file:
    return dict(file)


def tokenizer(tokens, added=()):
  """A `tokenizer.json` of whole words."""
  vocab = {token: i for i, token in enumerate(tokens)}
  model = {'type': 'WordLevel', 'vocab': vocab, 'unk_token': tokens[0]}
  kinds = ('single_word', 'lstrip', 'rstrip', 'normalized')
  content = {
    'version': '1.0',
    'model': model,
    'pre_tokenizer': {'type': 'WhitespaceSplit'},
    'added_tokens': [
      {'id': len(tokens) + i, 'content': token, 'special': True}
      | dict.fromkeys(kinds, False)
      for i, token in enumerate(added)
    ],
  }
  return json.dumps(content)


def numbered(rows, start):
  """Rows [rows, 2] that tell where they are from."""
  return start + np.arange(rows, dtype=np.float32)[:, None] * [1, -1]


def test_same_as_mergekit(recorded):
  cases = vocabulary_replay.cases(recorded)
  assert len(cases) >= 24
  for case in cases:
    count, worst = vocabulary_replay.compare(recorded, case)
    assert count >= 25, case
    assert worst <= 1e-6, case


def test_parts_are_slices_of_the_whole(recorded, monkeypatch):
  ours, models = vocabulary_replay.aligned(recorded, 'union_padded')
  tensors = vocabulary_replay.tensors(recorded, models, EMBED)
  whole = embeddings.take(ours, 'a', tensors)
  assert ours.num_tokens < 80 < ours.size
  monkeypatch.setattr(embeddings, '_CHUNK', 7)
  for start, stop in ((0, 128), (3, 50), (60, 80), (90, 128), (127, 128)):
    part = embeddings.take(ours, 'a', tensors, start, stop)
    np.testing.assert_allclose(part, whole[start:stop], rtol=1e-6)


def test_head_biases_are_aligned_as_rows():
  texts = {'a': tokenizer(['u', 'x']), 'b': tokenizer(['u', 'y', 'x'])}
  ours = alignment.align(TokenizerSpec(), texts, 'a', {'a': 2, 'b': 3})
  biases = {'a': np.array([1.0, 2.0]), 'b': np.array([10.0, 20.0, 30.0])}
  assert ours.vocabulary == {'u': 0, 'x': 1, 'y': 2}
  np.testing.assert_array_equal(embeddings.take(ours, 'a', biases), [1, 2, 20])
  np.testing.assert_array_equal(
    embeddings.take(ours, 'b', biases), [10, 30, 20]
  )


def test_union_is_numbered_by_model_and_id_and_added_tokens_last():
  texts = {
    'a': tokenizer(['u', 'x'], ['<a>']),
    'b': tokenizer(['u', 'z', 'y'], ['<b>']),
    'c': tokenizer(['q', 'y'], ['<c>', '<b>']),
  }
  rows = {m: len(tokenizers.vocabulary(t)) for m, t in texts.items()}
  ours = alignment.align(TokenizerSpec(), texts, None, rows)
  order = sorted(ours.vocabulary, key=ours.vocabulary.get)
  assert order == ['u', 'x', '<a>', 'z', 'y', 'q', '<b>', '<c>']
  added = tokenizers.added(ours.tokenizer)
  assert added['<b>']['special'] and not added['z']['special']
  loaded = tokenizers.tokenizers.Tokenizer.from_str(ours.tokenizer)
  assert loaded.encode('x z <c>').tokens == ['x', 'z', '<c>']


def test_recipes_tokens_are_obeyed():
  texts = {'a': tokenizer(['u', 'x']), 'b': tokenizer(['u', 'y'], ['<b>'])}
  tokens = {
    'x': TokenSpec(ModelToken('b', token='y'), force=True),
    'y': TokenSpec(ZeroToken()),
    'new': TokenSpec(ModelToken('b', token_id=2)),
    '<b>': TokenSpec(),
  }
  spec = TokenizerSpec('base', tokens)
  ours = alignment.align(spec, texts, 'a', {'a': 2, 'b': 3})
  assert ours.vocabulary == {'u': 0, 'x': 1, 'y': 2, 'new': 3, '<b>': 4}
  assert tokenizers.added(ours.tokenizer)['<b>']['special']
  tensors = {'a': numbered(2, 100), 'b': numbered(3, 200)}
  np.testing.assert_array_equal(
    embeddings.take(ours, 'a', tensors)[:, 0], [100, 201, 0, 202, 202]
  )
  np.testing.assert_array_equal(
    embeddings.take(ours, 'b', tensors)[:, 0], [200, 201, 201, 202, 202]
  )
  assert ours.absent == ()


def test_tokens_beyond_the_rows_are_lacking():
  texts = dict.fromkeys('ab', tokenizer(['u', 'x', 'y'], ['<s>']))
  ours = alignment.align(TokenizerSpec(), texts, 'a', {'a': 2, 'b': 3})
  assert ours.absent == ('<s>',)
  tensors = {'a': numbered(2, 100), 'b': numbered(3, 200)}
  np.testing.assert_array_equal(
    embeddings.take(ours, 'a', tensors)[:, 0], [100, 101, 202, 0]
  )


def test_rows_without_a_token_stay_the_sources():
  content = json.loads(tokenizer(['u', 'x', 'y', 'z']))
  del content['model']['vocab']['x']
  texts = {'a': json.dumps(content), 'b': tokenizer(['z', 'u'])}
  ours = alignment.align(TokenizerSpec('base'), texts, 'a', {'a': 4, 'b': 2})
  tensors = {'a': numbered(4, 100), 'b': numbered(2, 200)}
  assert ours.keeps('a', 4) and not ours.keeps('b', 2)
  np.testing.assert_array_equal(
    embeddings.take(ours, 'b', tensors)[:, 0], [201, 101, 102, 200]
  )


def test_equal_vocabularies_keep_their_tensors():
  texts = dict.fromkeys('ab', tokenizer(['u', 'x', 'y']))
  rows = {'a': 3, 'b': 3}
  ours = alignment.align(TokenizerSpec(), texts, 'b', rows)
  assert ours.keeps('a', 3) and ours.keeps('b', 3)
  assert (ours.source, ours.tokenizer) == ('b', texts['b'])
  padded = TokenizerSpec(pad_to_multiple_of=2)
  assert not alignment.align(padded, texts, 'b', rows).keeps('a', 3)


@pytest.mark.parametrize(
  ('spec', 'message'),
  [
    (TokenizerSpec('c'), 'c has no tokenizer'),
    (TokenizerSpec(pad_to_multiple_of=0), 'pad_to_multiple_of is 0'),
    (TokenizerSpec(tokens={'x': TokenSpec('c', True)}), 'not merged'),
    (TokenizerSpec(tokens={'x': TokenSpec('b')}), "'x' in b, which has none"),
    (
      TokenizerSpec(tokens={'x': TokenSpec(ModelToken('b', token_id=2))}),
      '2 in b, which has none among its 2 rows',
    ),
  ],
)
def test_what_cannot_be_aligned_is_named(spec, message):
  texts = {'a': tokenizer(['u', 'x']), 'b': tokenizer(['u', 'y'])}
  with pytest.raises(ValueError, match=message):
    alignment.align(spec, texts, 'a', {'a': 2, 'b': 2})


def test_a_missing_tensor_is_named():
  texts = {'a': tokenizer(['u', 'x']), 'b': tokenizer(['u', 'y'])}
  ours = alignment.align(TokenizerSpec(), texts, 'a', {'a': 2, 'b': 2})
  with pytest.raises(ValueError, match='b has no such vocabulary tensor'):
    embeddings.take(ours, 'a', {'a': numbered(2, 0)})


def test_equal_vocabularies_pass():
  same = tokenizer(['u', 'x', 'y'])
  vocabulary.check({'a': same, 'b': same, 'c': None}, dict.fromkeys('abc', 9))
  # An added token in rows that padded takes nobody's place.
  more = tokenizer(['u', 'x', 'y'], ['<pad>'])
  vocabulary.check({'a': same, 'b': more}, {'a': 9, 'b': 9})
  vocabulary.check({'a': 'not read', 'b': 'not read'}, {'a': 9, 'b': 9})


@pytest.mark.parametrize(
  ('other', 'rows', 'message'),
  [
    (None, 4, "size: embeddings have {'a': 3, 'b': 4} rows"),
    (['u', 'y', 'x'], 3, "differ in 2 of them .row 1: 'x' and 'y'"),
    (['u', 'x', 'z'], 3, "differ in 1 of them .row 2: 'y' and 'z'"),
  ],
)
def test_different_vocabularies_are_refused(other, rows, message):
  texts = {'a': tokenizer(['u', 'x', 'y'])}
  texts['b'] = other and tokenizer(other)
  with pytest.raises(ValueError, match=message) as error:
    vocabulary.check(texts, {'a': 3, 'b': rows})
  assert 'tokenizer_source: union' in str(error.value)


def test_a_token_at_another_row_is_refused_even_in_padding():
  texts = {'a': tokenizer(['u', 'x'], ['<pad>'])}
  texts['b'] = tokenizer(['u', 'x'], ['<s>', '<pad>'])
  with pytest.raises(ValueError, match="row 2: '<pad>' and '<s>', 3: None and"):
    vocabulary.check(texts, {'a': 8, 'b': 8})


def test_vocabulary_tensors_are_known_by_name():
  shapes = {
    'model.embed_tokens.weight': (32, 4),
    'model.embed_positions.weight': (32, 4),
    'model.layers.0.mlp.up_proj.weight': (32, 4),
    'lm_head.weight': (32, 4),
  }
  assert vocabulary.tensors(shapes) == {
    'model.embed_tokens.weight': 32,
    'lm_head.weight': 32,
  }
  bert = {
    'bert.embeddings.word_embeddings.weight': (50, 4),
    'bert.embeddings.position_embeddings.weight': (50, 4),
    'cls.predictions.bias': (50,),
    'cls.predictions.decoder.bias': (50,),
    'cls.predictions.transform.dense.bias': (4,),
    'classifier.out_proj.weight': (2, 4),
  }
  assert len(vocabulary.tensors(bert)) == 3
  for name in ('transformer.wte.weight', 'shared.weight', 'wte.weight'):
    assert vocabulary.tensors({name: (7, 2)}) == {name: 7}
  for name in (
    'gpt_neox.embed_in.weight',
    'transformer.word_embeddings.weight',
  ):
    shapes = {name: (7, 2), 'embed_out.weight': (7, 2), 'lm_head.bias': (6,)}
    assert vocabulary.tensors(shapes) == {name: 7, 'embed_out.weight': 7}


def test_added_kind_of_the_first_model_counts(recorded):
  ours, _ = vocabulary_replay.aligned(recorded, 'added_kinds')
  added = tokenizers.added(ours.tokenizer)
  assert (
    added['<|im_start|>']['special'] and not added['<|im_start|>']['lstrip']
  )
  assert ' hello' in added
