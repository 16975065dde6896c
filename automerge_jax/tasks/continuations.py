"""Prompts and continuations as tokens, the way lm-eval tokenises them.

A pair is tokenised as one string, and again the prompt alone, whose length
says where the continuation begins; spaces at the prompt's end belong to the
continuation. Encoder-decoder models read the two apart.
"""

import json
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import tokenizers as hf_tokenizers

from automerge_jax.io import tokenizers
from automerge_jax.tasks.packing import Request

_FILES = ('tokenizer_config.json', 'special_tokens_map.json', 'config.json')


class Coder(NamedTuple):
  """How a model's texts become requests.

  Attributes:
    tokenizer: of the model.
    prefix: token that stands for an empty prompt: the one that texts begin
      with, or else the one that they end with.
    decoder_start: first decoder token of encoder-decoder models, else None.
  """

  tokenizer: hf_tokenizers.Tokenizer
  prefix: int
  decoder_start: int | None = None


def coder(folder: str | pathlib.Path, encoded: bool = False) -> Coder:
  """Reads a Hugging Face folder.

  Args:
    folder: with tokenizer and `config.json`.
    encoded: whether the model is an encoder-decoder.

  Raises:
    FileNotFoundError: without a tokenizer.
    ValueError: if it says of no token that texts begin or end with it, or not
      what an encoder-decoder's decoder starts with.
  """
  folder = pathlib.Path(folder)
  tokenizer = tokenizers.load(folder)
  said: list[dict[str, Any]] = [
    json.loads((folder / name).read_text(encoding='utf-8'))
    for name in _FILES
    if (folder / name).is_file()
  ]

  def told(*names: str) -> int | None:
    for name in names:
      for value in (content.get(name) for content in said):
        if isinstance(value, dict):
          value = value.get('content')
        if isinstance(value, list):
          value = value[0]
        if isinstance(value, str):
          value = tokenizer.token_to_id(value)
        if value is not None:
          return value
    return None

  prefix = told('bos_token', 'bos_token_id', 'eos_token', 'eos_token_id')
  start = told('decoder_start_token_id') if encoded else None
  if prefix is None or (encoded and start is None):
    wanted = 'bos_token or eos_token'
    if prefix is not None:
      wanted = 'decoder_start_token_id'
    raise ValueError(
      f'{folder} names no {wanted} in {", ".join(_FILES)}; add it there'
    )
  return Coder(tokenizer, prefix, start)


def encode(
  coder: Coder, texts: Sequence[str], special: bool = True
) -> list[tuple[int, ...]]:
  """Token ids of each text.

  Args:
    coder: of the model.
    texts: to tokenise.
    special: whether the tokenizer adds its special tokens; never to a text
      that already begins with the prefix token's.
  """
  start = coder.tokenizer.decode([coder.prefix], skip_special_tokens=False)
  begun = [not special or text.startswith(start) for text in texts]
  found: list[tuple[int, ...]] = [()] * len(texts)
  for bare in (False, True):
    mine = [i for i, b in enumerate(begun) if b == bare]
    coded = coder.tokenizer.encode_batch(
      [texts[i] for i in mine], add_special_tokens=not bare
    )
    for i, encoding in zip(mine, coded, strict=True):
      found[i] = tuple(encoding.ids)
  return found


def requests(coder: Coder, pairs: Sequence[tuple[str, str]]) -> list[Request]:
  """Requests of (prompt, continuation) pairs, in full length.

  Raises:
    ValueError: naming a continuation of which no token is left.
  """
  moved = [_move_spaces(*pair) for pair in pairs]
  apart = coder.decoder_start is not None
  prompts = list(dict.fromkeys(p for p, _ in moved if p))
  prompt = dict(zip(prompts, encode(coder, prompts), strict=True))
  bare = [c for p, c in moved if apart or not p]
  alone = iter(encode(coder, bare, special=False))
  joined = iter(encode(coder, [p + c for p, c in moved if p and not apart]))
  made = []
  for (context, continuation), pair in zip(moved, pairs, strict=True):
    if not context:
      request = _begun(coder.prefix, next(alone))
    elif apart:
      request = Request(prompt[context], next(alone))
    else:
      tokens = prompt[context]
      request = Request(tokens, next(joined)[len(tokens) :])
    if not request.continuation:
      raise ValueError(
        f'the continuation {continuation!r} behind {pair[0][-30:]!r} has no '
        'token of its own; expected one at least'
      )
    made.append(request)
  return made


def _move_spaces(context: str, continuation: str) -> tuple[str, str]:
  kept = context.rstrip()
  # A prompt of nothing but spaces is an empty one with spaces moved too.
  return kept, context[len(kept) :] + continuation


def _begun(prefix: int, tokens: tuple[int, ...]) -> Request:
  if tokens[:1] == (prefix,):
    return Request(tokens[:1], tokens[1:])
  return Request((prefix,), tokens)
