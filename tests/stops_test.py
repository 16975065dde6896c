"""Ends of generated texts: the table on every cut of a text into tokens."""

import json

import hypothesis
import numpy as np
import pytest
import tokenizers
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers

from automerge_jax.tasks import stops

TOKENS = ['ab', 'ba', 'Q:', ' Q', '\n\n', '\nQ', ': ', 'aba', ' 12', 'é']


def _byte_level():
  """A tokenizer of bytes, some words and two special tokens."""
  spell = pre_tokenizers.ByteLevel(add_prefix_space=False)
  words = [
    ''.join(piece for piece, _ in spell.pre_tokenize_str(word))
    for word in TOKENS
  ]
  alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
  vocab = {token: i for i, token in enumerate([*alphabet, *words])}
  tokenizer = tokenizers.Tokenizer(models.BPE(vocab, []))
  tokenizer.pre_tokenizer = spell
  tokenizer.decoder = decoders.ByteLevel()
  tokenizer.add_special_tokens(['<end>', '<turn>'])
  return tokenizer


def _sentence_piece():
  """A tokenizer that marks the beginnings of words, with bytes."""
  words = ['\u2581a', '\u2581b', 'a', 'b', '\u2581', 'Q', ':', '<0x0A>', '1']
  tokenizer = tokenizers.Tokenizer(
    models.BPE({w: i for i, w in enumerate(words)}, [], byte_fallback=True)
  )
  tokenizer.decoder = decoders.Sequence(
    [
      decoders.Replace('\u2581', ' '),
      decoders.ByteFallback(),
      decoders.Fuse(),
      decoders.Strip(' ', 1, 0),
    ]
  )
  return tokenizer


BYTES, PIECES = _byte_level(), _sentence_piece()
SIZE = max(BYTES.get_vocab().values()) + 1
TURN, END = BYTES.token_to_id('<turn>'), BYTES.token_to_id('<end>')


def _stopped(built, ids):
  """Number of tokens up to the end by the table; None without one."""
  state = 0
  for place, index in enumerate(ids):
    state = built.table[index, state]
    if state == built.table.shape[1] - 1:
      return place + 1
  return None


@hypothesis.settings(max_examples=200, deadline=None)
@hypothesis.given(
  ids=st.lists(st.integers(0, SIZE - 1), max_size=12),
  words=st.lists(st.sampled_from(TOKENS), max_size=12),
  strings=st.lists(
    st.text('abQ: \n12', min_size=1, max_size=4), min_size=1, max_size=3
  ),
)
def test_table_stops_where_a_string_first_is_whole(ids, words, strings):
  ids = ids + [BYTES.token_to_id(BYTES.encode(w).tokens[0]) for w in words]
  ids += [i for w in words for i in BYTES.encode(w).ids]
  built = stops.build(BYTES, [END], strings)
  first = next(
    (
      n
      for n in range(1, len(ids) + 1)
      if ids[n - 1] == END
      or any(s in stops.text(BYTES, ids[:n]) for s in strings)
    ),
    None,
  )
  assert _stopped(built, ids) == first
  text, ended = stops.cut(BYTES, built, ids)
  assert ended == (first is not None)
  assert not any(s in text for s in strings)
  assert stops.text(BYTES, ids).startswith(text)


@hypothesis.settings(max_examples=100, deadline=None)
@hypothesis.given(
  ids=st.lists(st.integers(0, 8), max_size=12),
  strings=st.lists(
    st.text('abQ: \n1', min_size=1, max_size=3), min_size=1, max_size=2
  ),
)
def test_table_of_a_tokenizer_with_marked_spaces(ids, strings):
  built = stops.build(PIECES, [], strings)
  stopped = _stopped(built, ids)
  assert (stopped is not None) == stops.cut(PIECES, built, ids)[1]
  if stopped:
    assert stops.cut(PIECES, built, ids[:stopped])[1]
    assert not stops.cut(PIECES, built, ids[: stopped - 1])[1]


def test_a_string_across_tokens_is_cut_at_its_first_letter():
  built = stops.build(BYTES, [], ['\nQ:'])
  ids = [BYTES.token_to_id(t) for t in ('ab', 'ĊQ', 'Ġ')]
  assert _stopped(built, ids) is None
  ids = [BYTES.token_to_id(t) for t in ('ab', 'Ċ', 'Q:', 'ab')]
  assert _stopped(built, ids) == 3
  assert stops.cut(BYTES, built, ids) == ('ab', True)


def test_special_tokens_end_a_text_and_are_no_part_of_it():
  built = stops.build(BYTES, [END], ['<turn>', 'Q:'])
  assert built.ends == (END, TURN)
  assert built.strings == ('Q:',)
  a, q, colon = (BYTES.token_to_id(t) for t in 'aQ:')
  assert stops.cut(BYTES, built, [a, TURN, q]) == ('a', True)
  assert _stopped(built, [a, TURN]) == 2
  other = stops.build(BYTES, [END], ['Q:'])
  # A special token between two letters is no text between them.
  assert stops.cut(BYTES, other, [a, q, TURN, colon]) == ('a', True)
  assert _stopped(other, [a, q, TURN, colon]) == 4


def test_a_character_in_pieces_is_left_to_the_host():
  first, second = BYTES.encode('é').ids
  built = stops.build(BYTES, [], ['é'])
  assert _stopped(built, [first, second]) is None
  assert stops.cut(BYTES, built, [first, second]) == ('', True)
  whole = BYTES.token_to_id('Ã©')
  assert _stopped(built, [whole]) == 1


def test_ids_beyond_the_tokenizer_keep_the_state():
  built = stops.build(BYTES, [], ['abc'])
  np.testing.assert_array_equal(
    built.table[-1], np.arange(built.table.shape[1])
  )
  assert len(built.table) == SIZE + 1


def test_leading_space_of_a_text_is_kept():
  assert stops.text(PIECES, [0, 3]) == ' ab'
  assert PIECES.decode([0, 3]) == 'ab'


def test_errors_name_what_is_wrong():
  with pytest.raises(ValueError, match='empty'):
    stops.build(BYTES, [], ['a', ''])
  with pytest.raises(ValueError, match='9999'):
    stops.build(BYTES, [9999], [])


def test_ends_of_a_folder(tmp_path):
  assert stops.ends(tmp_path) == ()
  (tmp_path / 'config.json').write_text(json.dumps({'eos_token_id': 2}))
  assert stops.ends(tmp_path) == (2,)
  (tmp_path / 'generation_config.json').write_text('{"eos_token_id": [2, 5]}')
  assert stops.ends(tmp_path) == (2, 5)
