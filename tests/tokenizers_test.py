"""Token ids of the pinned MiniLM tokenizer."""

import pytest

from automerge_jax.io import assets, tokenizers


def test_encode_adds_special_tokens_and_truncates():
  tokenizer = tokenizers.load(assets.fetch('minilm'))
  short, long = tokenizers.encode(tokenizer, ['a film', 'word ' * 99], 8)
  assert short == [101, 1037, 2143, 102]
  assert long == [101] + [2773] * 6 + [102]
  (again,) = tokenizers.encode(tokenizer, ['word ' * 99], 64)
  assert len(again) == 64


def test_missing_tokenizer_is_named(tmp_path):
  with pytest.raises(FileNotFoundError, match=r'tokenizer\.json'):
    tokenizers.load(tmp_path)
