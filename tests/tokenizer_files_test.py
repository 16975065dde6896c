"""Tokenizer files and configs of a merged vocabulary."""

import json
import pathlib

import pytest
from vocabulary_test import tokenizer

from automerge_jax.io import tokenizer_files, tokenizers


@pytest.fixture
def folder(tmp_path):
  made = tmp_path / 'model'
  made.mkdir()
  config = {
    'tokenizer_class': 'PreTrainedTokenizerFast',
    'unk_token': 'u',
    'eos_token': {'__type': 'AddedToken', 'content': '<s>'},
    'added_tokens_decoder': {'2': {'content': '<s>', 'special': True}},
    'chat_template': '{{ 1 }}',
  }
  (made / 'tokenizer.json').write_text(tokenizer(['u', 'x'], ['<s>']))
  (made / 'tokenizer_config.json').write_text(json.dumps(config))
  (made / 'special_tokens_map.json').write_text('{"pad_token": "u"}')
  (made / 'vocab.json').write_text('{"u": 0, "x": 1}')
  return made


def write(files, to):
  to.mkdir()
  for name, content in files.items():
    if isinstance(content, pathlib.Path):
      content = content.read_text()
    (to / name).write_text(content)
  return to


def test_an_own_tokenizer_is_copied(folder):
  for text in (None, (folder / 'tokenizer.json').read_text()):
    files = tokenizer_files.files(folder, text)
    assert files == {path.name: path for path in folder.iterdir()}


def test_an_extended_tokenizer_loads_in_transformers(folder, tmp_path):
  import transformers

  more = [{'content': '<b>', 'special': True}, {'content': 'y'}]
  text = tokenizers.extend((folder / 'tokenizer.json').read_text(), more)
  assert tokenizers.vocabulary(text) == {
    'u': 0, 'x': 1, '<s>': 2, '<b>': 3, 'y': 4
  }  # fmt: skip
  out = write(tokenizer_files.files(folder, text, '{{ 2 }}'), tmp_path / 'out')
  assert {path.name for path in out.iterdir()} == {
    'tokenizer.json',
    'tokenizer_config.json',
    'special_tokens_map.json',
    'chat_template.jinja',
  }
  loaded = transformers.AutoTokenizer.from_pretrained(
    str(out), local_files_only=True
  )
  assert loaded.encode('x <b> y') == [1, 3, 4]
  assert loaded.decode([1, 3, 4], skip_special_tokens=True) == 'x y'
  turns = [{'role': 'user', 'content': 'x'}]
  assert (loaded.eos_token_id, len(loaded)) == (2, 5)
  assert loaded.apply_chat_template(turns, tokenize=False) == '2'
  decoder = json.loads((out / 'tokenizer_config.json').read_text())
  assert decoder['added_tokens_decoder']['3']['content'] == '<b>'


def test_special_tokens_of_every_file(folder):
  assert tokenizer_files.special_tokens(folder) == {
    'unk_token': 'u',
    'eos_token': '<s>',
    'pad_token': 'u',
  }
  assert tokenizer_files.special_tokens(folder.parent) == {}


def test_numbers_follow_their_tokens():
  config = {
    'vocab_size': 9,
    'bos_token_id': 0,
    'eos_token_id': [1, 2],
    'pad_token_id': None,
    'unk_token_id': 3,
    'image_token_index': 2,
    'decoder_start_token_id': 7,
    'num_hidden_layers': 2,
    'text_config': {'vocab_size': 9, 'eos_token_id': 2},
    'audio_config': {'vocab_size': 3},
  }
  before = {'<bos>': 0, '</s>': 1, '<end>': 2, '<unk>': 3}
  after = {'x': 0, '</s>': 5, '<s>': 1, '<end>': 6}
  got = tokenizer_files.renumbered(
    config, before, after, {'bos_token': '<s>'}, 9, 16
  )
  assert got == {
    'vocab_size': 16,
    'bos_token_id': 1,
    'eos_token_id': [5, 6],
    'pad_token_id': None,
    'unk_token_id': None,
    'image_token_index': 6,
    'decoder_start_token_id': 7,
    'num_hidden_layers': 2,
    'text_config': {'vocab_size': 16, 'eos_token_id': 6},
    'audio_config': {'vocab_size': 3},
  }
  nested = {'text_config': {'vocab_size': 9}, 'audio_config': {'vocab_size': 3}}
  got = tokenizer_files.renumbered(nested, before, after, {}, 9, 16)
  assert [c['vocab_size'] for c in got.values()] == [16, 3]
  assert tokenizer_files.renumbered({}, before, after, {}, 9, 16) == {}


def test_vocabulary_files_are_converted(tmp_path):
  words = ['[UNK]', '[CLS]', '[SEP]', '[PAD]', '[MASK]', 'dog', '##s']
  (tmp_path / 'vocab.txt').write_text('\n'.join(words) + '\n')
  (tmp_path / 'config.json').write_text('{"model_type": "bert"}')
  text = tokenizers.read(tmp_path)
  assert tokenizers.vocabulary(text) == {t: i for i, t in enumerate(words)}
  assert tokenizers.added(text)['[CLS]']['special']


def test_a_folder_without_tokenizer_is_none_and_a_damaged_one_an_error(
  tmp_path,
):
  assert tokenizers.read(tmp_path) is None
  (tmp_path / 'tokenizer.model').write_bytes(b'\0\1')
  with pytest.raises(ValueError, match=r'tokenizer\.model and no tokenizer'):
    tokenizers.read(tmp_path)
  for text in ('', '[]', '{}', '{"model": {"vocab": 3}}'):
    with pytest.raises(ValueError, match=r'tokenizer\.json'):
      tokenizers.vocabulary(text)
  (tmp_path / 'tokenizer_config.json').write_text('{')
  with pytest.raises(ValueError, match='damaged'):
    tokenizer_files.special_tokens(tmp_path)
