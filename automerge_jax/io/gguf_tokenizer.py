"""The Hugging Face tokenizer that the metadata of a GGUF file describe."""

from collections.abc import Callable
from typing import Any

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

_CONTROL, _USER_DEFINED = 3, 4  # `tokenizer.ggml.token_type`
_ROLES = {
  'bos': 'bos_token_id',
  'eos': 'eos_token_id',
  'unk': 'unknown_token_id',
  'pad': 'padding_token_id',
}
_WORDS = (
  r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s|"
  r' ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+'
)

Metadata = Callable[[str, Any], Any]  # (key, default) -> value


def special_ids(metadata: Metadata) -> dict[str, int]:
  """Ids of begin, end and padding as `config.json` names them."""
  ids = {
    f'{role}_token_id': metadata(f'tokenizer.ggml.{key}', None)
    for role, key in _ROLES.items()
    if role != 'unk'
  }
  return {name: index for name, index in ids.items() if index is not None}


def convert(
  metadata: Metadata, max_tokens: int
) -> tuple[tokenizers.Tokenizer, dict[str, Any]]:
  """A byte-level BPE tokenizer and its `tokenizer_config.json`.

  Args:
    metadata: looks up a key of the file.
    max_tokens: longest input of the model.

  Raises:
    ValueError: for another kind of tokenizer, or a way of splitting texts that
      is not known.
  """
  kind = metadata('tokenizer.ggml.model', None)
  if kind != 'gpt2':
    raise ValueError(
      f'the tokenizer is of the kind {kind!r}, expected gpt2 (byte-level BPE); '
      "use the model's own tokenizer.json"
    )
  tokens = metadata('tokenizer.ggml.tokens', [])
  merges = [m.split(' ') for m in metadata('tokenizer.ggml.merges', [])]
  kinds = metadata('tokenizer.ggml.token_type', [1] * len(tokens))
  pre = metadata('tokenizer.ggml.pre', 'gpt-2')
  tokenizer = tokenizers.Tokenizer(
    models.BPE(
      {token: i for i, token in enumerate(tokens)},
      [(left, right) for left, right in merges],
      ignore_merges=pre == 'llama-bpe',
    )
  )
  tokenizer.pre_tokenizer = _splitting(pre)
  if pre == 'qwen2':
    tokenizer.normalizer = normalizers.NFC()
  tokenizer.decoder = decoders.ByteLevel()
  for token, token_kind in zip(tokens, kinds, strict=True):
    if token_kind in (_CONTROL, _USER_DEFINED):
      added = tokenizers.AddedToken(
        token, special=token_kind == _CONTROL, normalized=False
      )
      tokenizer.add_tokens([added])
  config: dict[str, Any] = {
    'tokenizer_class': 'PreTrainedTokenizerFast',
    'model_max_length': max_tokens,
    'clean_up_tokenization_spaces': False,
  }
  for role, key in _ROLES.items():
    index = metadata(f'tokenizer.ggml.{key}', None)
    if index is not None:
      config[f'{role}_token'] = tokens[index]
  template = metadata('tokenizer.chat_template', None)
  if template is not None:
    config['chat_template'] = template
  steps: list[Any] = [processors.ByteLevel(trim_offsets=False)]
  if metadata('tokenizer.ggml.add_bos_token', False):
    begin = config['bos_token']
    steps.append(
      processors.TemplateProcessing(
        single=f'{begin} $A',
        pair=f'{begin} $A {begin} $B',
        special_tokens=[(begin, tokens.index(begin))],
      )
    )
  tokenizer.post_processor = processors.Sequence(steps)
  return tokenizer, config


def _splitting(pre: str) -> pre_tokenizers.PreTokenizer:
  """How texts fall into words, by the name that llama.cpp gives it."""
  if pre in ('gpt-2', 'default'):
    return pre_tokenizers.ByteLevel(add_prefix_space=False)
  if pre == 'smollm':
    first = pre_tokenizers.Digits(individual_digits=True)
    rest = pre_tokenizers.ByteLevel(add_prefix_space=False)
  elif pre in ('qwen2', 'llama-bpe'):
    digits = '{1,3}' if pre == 'llama-bpe' else ''
    first = pre_tokenizers.Split(
      tokenizers.Regex(_WORDS % digits), behavior='isolated'
    )
    rest = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
  else:
    raise ValueError(
      f'the tokenizer splits texts as {pre!r}, which is not known; expected '
      "default, gpt-2, llama-bpe, qwen2 or smollm, or use the model's own "
      'tokenizer.json'
    )
  return pre_tokenizers.Sequence([first, rest])
