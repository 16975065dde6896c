"""Tokenising by a Hugging Face `tokenizer.json`."""

import pathlib
from collections.abc import Sequence

import tokenizers


def load(folder: str | pathlib.Path) -> tokenizers.Tokenizer:
  """The tokenizer of a Hugging Face folder, without padding or truncation.

  Raises:
    FileNotFoundError: without `tokenizer.json`.
  """
  path = pathlib.Path(folder) / 'tokenizer.json'
  if not path.is_file():
    raise FileNotFoundError(
      f'{folder} has no tokenizer.json; expected a Hugging Face model folder '
      'with a fast tokenizer'
    )
  tokenizer = tokenizers.Tokenizer.from_file(str(path))
  tokenizer.no_padding()
  tokenizer.no_truncation()
  return tokenizer


def encode(
  tokenizer: tokenizers.Tokenizer, texts: Sequence[str], max_tokens: int
) -> list[list[int]]:
  """Token ids of each text, with special tokens, cut to `max_tokens`."""
  tokenizer.enable_truncation(max_tokens)
  encoded = tokenizer.encode_batch(list(texts))
  tokenizer.no_truncation()
  return [encoding.ids for encoding in encoded]
