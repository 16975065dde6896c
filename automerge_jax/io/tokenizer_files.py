"""Files that make a folder's tokenizer, for a merged vocabulary.

The numbers in config.json and generation_config.json follow the tokens to where
they are now; mergekit 0.1.5 changes `vocab_size` alone.
"""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

from automerge_jax.io import chat_templates, tokenizers

CONFIG = 'tokenizer_config.json'
SPECIAL = 'special_tokens_map.json'
_ADDED = 'added_tokens.json'
# Vocabularies in older forms, which an extended tokenizer no longer fits.
_OLDER = (
  'vocab.txt',
  'vocab.json',
  'merges.txt',
  'tokenizer.model',
  'spiece.model',
)


def files(
  folder: str | pathlib.Path,
  tokenizer: str | None = None,
  template: str | None = None,
) -> dict[str, str | pathlib.Path]:
  """Tokenizer files by name: the text of each, or the file to copy.

  Args:
    folder: of the model whose tokenizer it is or extends.
    tokenizer: text of the merged `tokenizer.json`; None: the folder's own.
    template: chat template; None: the folder's own.

  Raises:
    ValueError: for a damaged `tokenizer_config.json`.
  """
  folder = pathlib.Path(folder)
  names = (tokenizers.TOKENIZER, CONFIG, SPECIAL, _ADDED, *_OLDER)
  found: dict[str, str | pathlib.Path] = {
    name: folder / name
    for name in (*names, chat_templates.FILE)
    if (folder / name).is_file()
  }
  config = _json(folder / CONFIG)
  before = dict(config)
  if tokenizer is not None and tokenizer != tokenizers.read(folder):
    found[tokenizers.TOKENIZER] = tokenizer
    for name in (*_OLDER, _ADDED):
      found.pop(name, None)
    if 'added_tokens_decoder' in config:
      config['added_tokens_decoder'] = {
        str(token.pop('id')): token
        for token in tokenizers.added(tokenizer).values()
      }
  if template is not None:
    config.pop('chat_template', None)
    found[chat_templates.FILE] = template
  if config != before:
    found[CONFIG] = _text(config)
  return found


def special_tokens(folder: str | pathlib.Path) -> dict[str, str]:
  """Tokens by role (`bos_token`, `eos_token`, `pad_token`, ...) of a folder."""
  folder = pathlib.Path(folder)
  stated = _json(folder / SPECIAL) | _json(folder / CONFIG)
  tokens = {}
  for role, token in stated.items():
    content = token.get('content') if isinstance(token, dict) else token
    if role.endswith('_token') and isinstance(content, str):
      tokens[role] = content
  return tokens


def renumbered(
  config: Mapping[str, Any],
  before: Mapping[str, int],
  after: Mapping[str, int],
  special: Mapping[str, str],
  rows: int,
  size: int,
) -> dict[str, Any]:
  """A config or generation config for the merged vocabulary.

  Sets every `vocab_size` that is the model's, and the ids of tokens (keys
  such as `eos_token_id`, a number or a list of them): to where the token went,
  or, if the merged vocabulary lacks it, to the token of that role; without one
  to None. An id that named no token stays.

  Args:
    config: of the model that leads the merge; nested configs follow it.
    before: vocabulary of that model.
    after: merged vocabulary.
    special: tokens of the merged tokenizer by role, as `special_tokens`.
    rows: of that model's embedding.
    size: rows of the merged embedding.
  """
  tokens = {i: token for token, i in before.items()}
  outer = config.get('vocab_size')

  def moved(role: str, i: int) -> int | None:
    token = tokens.get(i)
    if token is None:
      return i
    return after.get(token, after.get(special.get(role, ''), None))

  def visit(key: str, value: Any) -> Any:
    if isinstance(value, dict):
      return {k: visit(k, v) for k, v in value.items()}
    if key == 'vocab_size' and value in (outer, rows):
      return size
    role = key.removesuffix('_id').removesuffix('_index')
    if role == key or not role.endswith('_token'):
      return value
    if isinstance(value, int):
      return moved(role, value)
    if isinstance(value, list) and all(isinstance(i, int) for i in value):
      ids = [moved(role, i) for i in value]
      return list(dict.fromkeys(i for i in ids if i is not None)) or None
    return value

  return {key: visit(key, value) for key, value in config.items()}


def _json(path: pathlib.Path) -> dict[str, Any]:
  if not path.is_file():
    return {}
  try:
    return dict(json.loads(path.read_text(encoding='utf-8')))
  except (TypeError, ValueError) as error:
    raise ValueError(f'{path} is damaged: {error}; fetch it again') from error


def _text(content: Mapping[str, Any]) -> str:
  return json.dumps(content, indent=2, ensure_ascii=False) + '\n'
