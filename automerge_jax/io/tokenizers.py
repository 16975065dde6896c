"""Tokenising by a Hugging Face `tokenizer.json`, and what such a file holds."""

import json
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import tokenizers

TOKENIZER = 'tokenizer.json'
# Of each of these, older folders hold one instead of `tokenizer.json`.
_LEGACY = ('vocab.txt', 'vocab.json', 'tokenizer.model', 'spiece.model')
_ATTRIBUTES = ('single_word', 'lstrip', 'rstrip', 'normalized', 'special')


def load(folder: str | pathlib.Path) -> tokenizers.Tokenizer:
  """The tokenizer of a Hugging Face folder, without padding or truncation.

  Raises:
    FileNotFoundError: without `tokenizer.json`.
  """
  path = pathlib.Path(folder) / TOKENIZER
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


def read(folder: str | pathlib.Path) -> str | None:
  """Text of a folder's `tokenizer.json`; None if it has no tokenizer at all.

  Vocabulary files without a `tokenizer.json` are converted by transformers.

  Raises:
    ValueError: if they cannot be.
  """
  folder = pathlib.Path(folder)
  path = folder / TOKENIZER
  if path.is_file():
    return path.read_text(encoding='utf-8')
  legacy = [name for name in _LEGACY if (folder / name).is_file()]
  if not legacy:
    return None
  import transformers  # takes a second, and is seldom needed

  try:
    converted: Any = transformers.AutoTokenizer.from_pretrained(
      str(folder.resolve()), local_files_only=True
    )
    return converted.backend_tokenizer.to_str()
  except Exception as error:
    raise ValueError(
      f'{folder} has {legacy[0]} and no tokenizer.json, and converting it '
      f'failed ({type(error).__name__}: {error}); save its fast tokenizer there'
    ) from error


def added(text: str) -> dict[str, dict[str, Any]]:
  """Added tokens of a `tokenizer.json`, in its order, by content."""
  return {t['content']: t for t in _parse(text).get('added_tokens') or ()}


def vocabulary(text: str) -> dict[str, int]:
  """Id of each token of a `tokenizer.json`, added ones included.

  Raises:
    ValueError: if the text is no tokenizer.
  """
  content = _parse(text)
  try:
    vocab = content['model']['vocab']
    if isinstance(vocab, Mapping):
      tokens = dict(vocab)
    else:  # Unigram: pairs of token and score
      tokens = {token: i for i, (token, _) in enumerate(vocab)}
    for token in content.get('added_tokens') or ():
      tokens[token['content']] = token['id']
  except (KeyError, TypeError, ValueError) as error:
    raise ValueError(
      'a tokenizer.json without a vocabulary at `model.vocab` '
      f'({type(error).__name__}: {error})'
    ) from error
  return tokens


def extend(text: str, tokens: Iterable[Mapping[str, Any]]) -> str:
  """The `tokenizer.json` with more added tokens, numbered from its end.

  Args:
    text: a `tokenizer.json`.
    tokens: `content` and attributes of each, as `added` gives them.
  """
  tokenizer = tokenizers.Tokenizer.from_str(text)
  tokenizer.add_tokens(
    [
      tokenizers.AddedToken(
        token['content'], **{k: token[k] for k in _ATTRIBUTES if k in token}
      )
      for token in tokens
    ]
  )
  return tokenizer.to_str(pretty=True)


def _parse(text: str) -> dict[str, Any]:
  try:
    content = json.loads(text)
  except ValueError as error:
    raise ValueError(f'a tokenizer.json that is no JSON: {error}') from error
  if not isinstance(content, dict):
    raise ValueError(f'expected a tokenizer.json, got {str(content)[:50]!r}')
  return content
